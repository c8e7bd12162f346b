//! Sockets of a ring against peers that block, on threads of their own.

use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::queue::SHORT_LEN;
use super::{RingSocket, block_on, is_here};

/// False, with a line that says so, where the kernel has no rings for us.
fn on_ring<F: Future<Output = ()> + 'static>(work: F) -> bool {
    match block_on(work) {
        Ok(()) => true,
        Err((error, _)) => {
            eprintln!("skipped: io_uring is not to be had here: {error}");
            false
        }
    }
}

/// A socket of the ring and its peer, which blocks.
fn pair() -> (RingSocket, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    ours.set_nonblocking(true).unwrap();
    peer.set_nodelay(true).unwrap();
    (RingSocket::new(ours).unwrap(), peer)
}

/// Bytes of which each run is unlike the others.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

#[test]
fn pieces_of_all_lengths_arrive_whole_and_in_order() {
    on_ring(async {
        let (mut socket, mut peer) = pair();
        let lengths = [1, 5, 4096, 4097, 16 * 1024, 16 * 1024 + 1, 40_000, 3, 300_000, 2, 2, 2];
        let all = bytes(lengths.iter().sum());
        let sent = all.clone();
        let echo = std::thread::spawn(move || {
            let mut heard = vec![0; sent.len()];
            peer.read_exact(&mut heard).unwrap();
            assert_eq!(heard, sent);
            for piece in heard.chunks(10_001) {
                peer.write_all(piece).unwrap();
            }
            peer.write_all(b"end").unwrap();
        });
        let mut rest = &all[..];
        for len in lengths {
            let (piece, behind) = rest.split_at(len);
            socket.write_all(piece).await.unwrap();
            rest = behind;
        }
        let mut heard = Vec::new();
        socket.read_to_end(&mut heard).await.unwrap();
        assert_eq!((&heard[..all.len()], &heard[all.len()..]), (&all[..], &b"end"[..]));
        echo.join().unwrap();
    });
}

#[test]
fn a_peer_that_does_not_read_stops_the_sender_and_loses_nothing() {
    on_ring(async {
        let (mut socket, mut peer) = pair();
        let (all, expected) = (bytes(20 << 20), bytes(20 << 20));
        let (stopped, was_stopped) = oneshot::channel();
        let sender = spawn_local(async move {
            let (mut rest, mut told) = (&all[..], Some(stopped));
            // Short pieces and long ones.
            for len in [100, 50_000, 4096, 7].into_iter().cycle() {
                let (piece, behind) = rest.split_at(len.min(rest.len()));
                let mut writing = std::pin::pin!(async { socket.write_all(piece).await.and(socket.flush().await) });
                if futures_util::poll!(writing.as_mut()).is_pending() {
                    told.take().map(|told| told.send(rest.len()));
                    writing.await.unwrap();
                }
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
        });
        assert!(was_stopped.await.unwrap() > 0, "all of it was taken although nobody reads");
        let reader = std::thread::spawn(move || {
            let mut heard = Vec::new();
            peer.read_to_end(&mut heard).unwrap();
            assert!(heard == expected, "{} of {} bytes, or others", heard.len(), expected.len());
        });
        sender.await.unwrap();
        while !reader.is_finished() {
            tokio::task::yield_now().await;
        }
        reader.join().unwrap();
    });
}

#[test]
fn who_does_not_read_is_not_read_for() {
    on_ring(async {
        let (mut socket, mut peer) = pair();
        assert!(socket.is_quiet());
        peer.write_all(b"?").unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), b'?');
        peer.set_nonblocking(true).unwrap();
        let (mut taken, mut refused) = (0, 0);
        let piece = bytes(100_000);
        // Until the kernel's buffers are full, and stay so.
        while refused < 1000 {
            match peer.write(&piece[..piece.len() - taken % 7]) {
                Ok(len) => (taken, refused) = (taken + len, 0),
                Err(_) => {
                    refused += 1;
                    tokio::task::yield_now().await;
                }
            }
            assert!(taken < 100 << 20, "taken from a peer, while nobody reads");
        }
        assert!(!socket.is_quiet());
        drop(peer);
        let mut heard = Vec::new();
        socket.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard.len(), taken);
    });
}

#[test]
fn more_sockets_than_buffers_are_read_all_the_same() {
    on_ring(async {
        let mut pairs: Vec<_> = (0..200).map(|_| pair()).collect();
        for round in 0..3u8 {
            for (socket, peer) in &mut pairs {
                peer.write_all(&[round; 3]).unwrap();
                assert_eq!(socket.peek_byte().await.unwrap(), Some(round));
            }
            for (socket, _) in &mut pairs {
                let mut heard = [0; 3];
                socket.read_exact(&mut heard).await.unwrap();
                assert_eq!(heard, [round; 3]);
            }
        }
    });
}

#[test]
fn what_was_sent_before_the_end_arrives() {
    on_ring(async {
        for len in [1, 4096, 100_000] {
            let (mut socket, mut peer) = pair();
            let all = bytes(len);
            // It waits for something that never comes.
            let mut byte = [0];
            assert!(futures_util::poll!(std::pin::pin!(socket.read(&mut byte))).is_pending());
            socket.write_all(&all).await.unwrap();
            drop(socket);
            let mut heard = Vec::new();
            peer.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, all);
        }
        let (mut socket, mut peer) = pair();
        socket.write_all(b"half").await.unwrap();
        socket.shutdown().await.unwrap();
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).unwrap();
        peer.write_all(b"closed").unwrap();
        drop(peer);
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        assert_eq!((&heard[..], &answer[..]), (&b"half"[..], &b"closed"[..]));
    });
}

#[test]
fn short_pieces_are_sent_together() {
    on_ring(async {
        let (mut socket, mut peer) = pair();
        let slices = [&b"hello"[..], b"", b", alert"].map(IoSlice::new);
        assert_eq!(socket.write_vectored(&slices).await.unwrap(), 12);
        let long = bytes(SHORT_LEN);
        let taken = socket.write_vectored(&[IoSlice::new(&long), IoSlice::new(b"!")]).await.unwrap();
        drop(socket);
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).unwrap();
        assert_eq!((&heard[..12], &heard[12..]), (&b"hello, alert"[..], &long[..taken]));
    });
}

#[test]
fn a_peer_that_has_gone_is_an_error_or_the_end() {
    on_ring(async {
        let (mut socket, peer) = pair();
        drop(peer);
        let mut said = Ok(());
        for _ in 0..100 {
            said = socket.write_all(b"anybody?").await.and(socket.flush().await);
            if said.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let heard = socket.read(&mut [0; 8]).await;
        assert!(said.is_err() || matches!(heard, Ok(0) | Err(_)), "{said:?}, {heard:?}");
        while socket.is_quiet() {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn other_threads_wake_it_and_cannot_use_its_sockets() {
    assert!(!is_here());
    on_ring(async {
        assert!(is_here());
        let (socket, mut peer) = pair();
        let (told, heard) = oneshot::channel();
        let elsewhere = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            told.send(7).unwrap();
            assert!(socket.send_at_once(b"x").is_some_and(|sent| sent.is_err()));
        });
        assert_eq!(heard.await.unwrap(), 7);
        elsewhere.join().unwrap();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0, "its thread has closed it");
    });
    assert!(!is_here());
}

#[test]
fn a_thousand_short_questions_and_answers() {
    on_ring(async {
        let mut tasks = Vec::new();
        for number in 0..50u8 {
            let (mut socket, mut peer) = pair();
            std::thread::spawn(move || {
                let mut question = [0; 10];
                while peer.read_exact(&mut question).is_ok() {
                    peer.write_all(&question.map(|byte| byte.wrapping_add(1))).unwrap();
                }
            });
            tasks.push(spawn_local(async move {
                for round in 0..20u8 {
                    socket.write_all(&[number ^ round; 10]).await.unwrap();
                    let mut answer = [0; 10];
                    socket.read_exact(&mut answer).await.unwrap();
                    assert_eq!(answer, [(number ^ round).wrapping_add(1); 10]);
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
}
