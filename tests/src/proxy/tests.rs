//! The relay against a server that sends a known number of bytes.

use std::time::Duration;

use super::*;
use crate::poll::{Answer, wait_until};

const LENGTH: usize = 100_000;

/// A server that sends `LENGTH` bytes to whoever connects.
async fn server() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut clients = JoinSet::new();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            clients.spawn(async move {
                let _ = client.write_all(&vec![7; LENGTH]).await;
            });
        }
    });
    (address, tasks)
}

async fn fetch(address: SocketAddr) -> usize {
    let mut received = Vec::new();
    let mut client = TcpStream::connect(address).await.unwrap();
    let _ = client.read_to_end(&mut received).await;
    received.len()
}

#[tokio::test]
async fn without_a_fault_every_byte_passes() {
    let (upstream, _tasks) = server().await;
    let proxy = FaultProxy::start(upstream).await.unwrap();
    assert_eq!(fetch(proxy.address()).await, LENGTH);
    assert_eq!((proxy.brought(), proxy.cuts(), proxy.connections()), (LENGTH as u64, 0, 1));
}

#[tokio::test]
async fn a_cut_ends_each_connection() {
    let (upstream, _tasks) = server().await;
    let proxy = FaultProxy::start(upstream).await.unwrap();
    proxy.set(Fault::CutAfter(30_000));
    for _ in 0..2 {
        let received = fetch(proxy.address()).await;
        assert!((30_000..40_000).contains(&received), "{received}");
    }
    assert_eq!(proxy.cuts(), 2);
}

#[tokio::test]
async fn a_hold_lasts_until_it_is_lifted() {
    let (upstream, _tasks) = server().await;
    let proxy = FaultProxy::start(upstream).await.unwrap();
    proxy.set(Fault::HoldAfter(30_000));
    let mut fetching = JoinSet::new();
    fetching.spawn(fetch(proxy.address()));
    wait_until("the hold", Duration::from_secs(10), async || {
        let brought = proxy.brought();
        Ok(if brought >= 30_000 { Answer::Ready(()) } else { Answer::NotYet(brought.to_string()) })
    })
    .await
    .unwrap();
    assert!(fetching.try_join_next().is_none());
    assert!(proxy.brought() < 40_000);
    proxy.set(Fault::None);
    assert_eq!(fetching.join_next().await.unwrap().unwrap(), LENGTH);
}
