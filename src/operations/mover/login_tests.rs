//! Logins of a move that a busy server has no time for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};

use super::tests::{SOURCE, Stage, TABLES, TARGET};
use super::*;
use crate::catalog::{Catalog, Settings as CatalogSettings};

/// Stands before a server. Every other connection is taken and never heard.
struct SlowDoor {
    port: u16,
    unheard: Arc<AtomicUsize>,
}

impl SlowDoor {
    async fn before(server: u16) -> SlowDoor {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, unheard) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        let counted = unheard.clone();
        tokio::spawn(async move {
            let mut left_alone = Vec::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                left_alone.push(client);
                counted.fetch_add(1, Ordering::SeqCst);
                let (mut client, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        SlowDoor { port, unheard }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_logs_in_again_where_a_server_had_no_time() {
    let mut stage = Stage::set(1, TABLES).await;
    let mut doors = Vec::new();
    for node in [SOURCE, TARGET] {
        let door = SlowDoor::before(stage.ports.first + 1 + node.0 as u16).await;
        let at_the_door = format!("UPDATE tenantry.node SET nodeport = {} WHERE nodeid = {node}", door.port);
        stage.coordinator.batch_execute(&at_the_door).await.unwrap();
        doors.push(door);
    }
    let known = stage.environment.catalog.settings().clone();
    let hasty = CatalogSettings { connect_timeout: Duration::from_millis(300), ..known };
    stage.environment.catalog = Catalog::open(hasty).await.unwrap();
    stage.move_to(SOURCE, TARGET).await.unwrap();
    assert_eq!(stage.node_of_group().await, TARGET);
    assert_eq!(stage.leftovers().await, Vec::<String>::new());
    for door in doors {
        assert!(door.unheard.load(Ordering::SeqCst) > 1, "logins were left alone");
    }
    stage.strike().await;
}
