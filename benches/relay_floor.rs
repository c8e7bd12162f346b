//! The floor under every proxy: a relay that only copies bytes between a client and a server of its own.
//!
//! Built as Tenantry is built: a runtime for each thread, clients dealt to them in turn, no delay on either socket. It knows nothing of Postgres, so it shares no server between clients.
//!
//! ```text
//!   relay_floor LISTEN_PORT SERVER_PORT THREADS      both on 127.0.0.1; runs until it is killed
//! ```

use std::net::Ipv4Addr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

fn main() -> std::io::Result<()> {
    let numbers: Vec<u16> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let [listen, server, threads] = numbers[..] else {
        // `cargo bench` and `cargo test` start every program that they find.
        eprintln!("usage: relay_floor LISTEN_PORT SERVER_PORT THREADS");
        return Ok(());
    };
    let queues: Vec<_> = (0..threads).map(|_| start_thread(server)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, listen)).await?;
        for queue in queues.iter().cycle() {
            let (client, _) = listener.accept().await?;
            // A thread ends only with the process.
            let _ = queue.send(client.into_std()?);
        }
        Ok(())
    })
}

fn start_thread(server: u16) -> mpsc::UnboundedSender<std::net::TcpStream> {
    let (queue, mut clients) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build_local(Default::default());
        let runtime = runtime.expect("the machine can make an event queue");
        runtime.block_on(async move {
            while let Some(client) = clients.recv().await {
                tokio::task::spawn_local(relay(client, server));
            }
        });
    });
    queue
}

async fn relay(client: std::net::TcpStream, server: u16) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = TcpStream::from_std(client)?;
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_LEN, BUFFER_LEN).await?;
    Ok(())
}

const BUFFER_LEN: usize = 16 * 1024;
