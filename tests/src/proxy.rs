//! A TCP relay between an agent and the coordinator that can cut or hold what flows towards the agent. It relays bytes
//! and knows nothing of what they mean.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What is done to the bytes that flow towards the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Every connection is cut once it has brought so many bytes from now on.
    CutAfter(u64),
    /// All flow stops once so many bytes have been brought from now on, until the fault is changed.
    HoldAfter(u64),
}

/// A running relay; ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    counts: Arc<Counts>,
    _accepting: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Bytes brought towards the agent.
    brought: AtomicU64,
    /// The same, when the present fault was set.
    at_fault: AtomicU64,
    /// Bytes taken away from the agent.
    taken: AtomicU64,
    cuts: AtomicU64,
    connections: AtomicU64,
}

impl FaultProxy {
    /// Starts a relay to `upstream` on a free port.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("the relay cannot bind a port")?;
        let address = listener.local_addr()?;
        let (fault, watched) = watch::channel(Fault::None);
        let counts = Arc::new(Counts::default());
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, upstream, watched, Arc::clone(&counts)));
        Ok(Self { address, fault, counts, _accepting: accepting })
    }

    /// Where an agent connects.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what is done to the bytes, counting anew.
    pub fn set(&self, fault: Fault) {
        self.counts.at_fault.store(self.counts.brought.load(Ordering::SeqCst), Ordering::SeqCst);
        self.fault.send_replace(fault);
    }

    /// Bytes brought towards the agent since the fault was set.
    pub fn brought(&self) -> u64 {
        self.counts.since_fault()
    }

    /// Bytes that have passed, both ways.
    pub fn passed(&self) -> u64 {
        self.counts.brought.load(Ordering::SeqCst) + self.counts.taken.load(Ordering::SeqCst)
    }

    /// Connections that were cut.
    pub fn cuts(&self) -> u64 {
        self.counts.cuts.load(Ordering::SeqCst)
    }

    /// Connections that were made.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Ordering::SeqCst)
    }
}

impl Counts {
    fn since_fault(&self) -> u64 {
        self.brought.load(Ordering::SeqCst).saturating_sub(self.at_fault.load(Ordering::SeqCst))
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    fault: watch::Receiver<Fault>,
    counts: Arc<Counts>,
) {
    let mut connections = JoinSet::new();
    while let Ok((agent, _)) = listener.accept().await {
        counts.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(relay(agent, upstream, fault.clone(), Arc::clone(&counts)));
        while connections.try_join_next().is_some() {}
    }
}

/// Relays one connection until either side closes it or the fault cuts it; both sides are closed by the drop.
async fn relay(agent: TcpStream, upstream: SocketAddr, fault: watch::Receiver<Fault>, counts: Arc<Counts>) {
    // A coordinator that is away looks to the agent like one that closes at once.
    let Ok(coordinator) = TcpStream::connect(upstream).await else { return };
    let _ = (agent.set_nodelay(true), coordinator.set_nodelay(true));
    let (from_agent, to_agent) = agent.into_split();
    let (from_coordinator, to_coordinator) = coordinator.into_split();
    tokio::select! {
        () = take(from_agent, to_coordinator, &counts) => {}
        () = bring(from_coordinator, to_agent, fault, &counts) => {}
    }
}

/// What flows away from the agent.
async fn take(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, counts: &Counts) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        counts.taken.fetch_add(read as u64, Ordering::SeqCst);
    }
}

/// What flows towards the agent.
async fn bring(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    counts: &Counts,
) {
    let mut buffer = [0; 4096];
    let mut since_fault: u64 = 0;
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        loop {
            if fault.has_changed().unwrap_or(false) {
                since_fault = 0;
            }
            let now = *fault.borrow_and_update();
            match now {
                Fault::CutAfter(limit) if since_fault >= limit => {
                    counts.cuts.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                Fault::HoldAfter(limit) if counts.since_fault() >= limit => {
                    if fault.changed().await.is_err() {
                        return;
                    }
                    since_fault = 0;
                }
                Fault::None | Fault::CutAfter(_) | Fault::HoldAfter(_) => break,
            }
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        since_fault += read as u64;
        counts.brought.fetch_add(read as u64, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests;
