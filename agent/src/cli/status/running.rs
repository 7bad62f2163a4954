//! The agent that runs here, asked by whichever way leads to it: its state directory may be one that takes no writes, and
//! then does not say where it listens. Another device's agent that happens to listen there is not believed. One that hangs
//! answers nobody, and is known by its lock.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::DeviceId;

use crate::config::ServeConfig;

/// It answers at once or not at all. There are seldom more than two ways to it.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What it says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) struct Running {
    /// Where its API listens, if that is how it was found.
    pub(in crate::cli) address: Option<SocketAddr>,
    /// Whether a model serves.
    pub(in crate::cli) ready: bool,
    /// Whether the coordinator is connected.
    pub(in crate::cli) connected: bool,
    /// Why it is not.
    pub(in crate::cli) why_not: Option<String>,
    /// Why its state directory takes no writes.
    pub(in crate::cli) no_writes: Option<String>,
}

/// The agent of `device`: where it has written that it listens, or else where it was told to.
pub(in crate::cli) fn find(
    device: &DeviceId,
    written: Option<SocketAddr>,
    serve: &ServeConfig,
) -> Option<Running> {
    let told = Some(serve.listen).filter(|&address| address.port() != 0 && Some(address) != written);
    let mut addresses = written.into_iter().chain(told);
    let over_tcp = addresses.find_map(|address| ask(device, Some(address), || connect(address)));
    over_tcp.or_else(|| {
        let path: &PathBuf = serve.socket.as_ref()?;
        ask(device, None, || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        })
    })
}

/// Whether an agent has the state directory at `root` for itself, answering or not. The lock is looked for in the kernel's list: to
/// try it would be to hold it, and an agent that starts at that moment would find it taken.
pub(in crate::cli) fn holds(root: &Path) -> bool {
    let name = |path: &Path| {
        let lock = path.metadata().ok()?;
        let (major, minor) = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
        Some(format!("{major:02x}:{minor:02x}:{}", lock.ino()))
    };
    let Ok(locks) = std::fs::read_to_string("/proc/locks") else { return false };
    // Where the disk took no file, the folder alone is locked.
    let mut names = [root.to_owned(), root.join("lock")].into_iter().filter_map(|path| name(&path));
    names.any(|name| locks.lines().any(|line| is_lock_of(line, &name)))
}

/// Whether a line of `/proc/locks`, such as `1: FLOCK  ADVISORY  WRITE 708 fe:00:1003 0 EOF`, is of the file `name`.
fn is_lock_of(line: &str, name: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    words.next() == Some("FLOCK") && words.nth(3) == Some(name)
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn ask<S: Read + Write>(
    device: &DeviceId,
    address: Option<SocketAddr>,
    connect: impl Fn() -> std::io::Result<S>,
) -> Option<Running> {
    let (_, metrics) = get(connect().ok()?, "/metrics")?;
    let is_its_own = format!("device=\"{device}\"");
    metrics.lines().find(|line| line.starts_with("reconvene_agent_info{") && line.contains(&is_its_own))?;
    let (status, _) = get(connect().ok()?, "/v2/health/ready")?;
    let connected = metrics.lines().any(|line| line == "reconvene_session_connected 1");
    let session = connect().ok().and_then(session).unwrap_or_default();
    let why = |key: &str| session[key].as_str().filter(|why| !why.is_empty()).map(str::to_owned);
    let why_not = if connected { None } else { why("why") };
    Some(Running {
        address,
        ready: status == 200,
        connected,
        why_not,
        no_writes: why("takes_no_writes_because"),
    })
}

/// What only the agent knows, where it says it.
fn session(stream: impl Read + Write) -> Option<serde_json::Value> {
    let (_, body) = get(stream, "/session")?;
    serde_json::from_str(&body).ok()
}

/// One question, as HTTP/1.0 has it: the connection ends with the answer. Status and body.
fn get(mut stream: impl Read + Write, path: &str) -> Option<(u16, String)> {
    let question = format!("GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n");
    stream.write_all(question.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.take(1 << 20).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers at a free port, each question with the next of `bodies`.
    fn listen(bodies: Vec<&'static str>) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = move || {
            for body in bodies {
                let (mut stream, _) = listener.accept().unwrap();
                let mut question = [0; 256];
                assert!(stream.read(&mut question).unwrap() > 0);
                stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{body}").as_bytes()).unwrap();
            }
        };
        (address, std::thread::spawn(answer))
    }

    #[test]
    fn the_kernel_knows_who_has_the_lock() {
        let line = "1: FLOCK  ADVISORY  WRITE 708 fe:00:1003 0 EOF";
        assert!(is_lock_of(line, "fe:00:1003"));
        assert!(!is_lock_of(line, "fe:00:100"));
        assert!(!is_lock_of("1: -> FLOCK  ADVISORY  WRITE 708 fe:00:1003 0 EOF", "fe:00:1003"), "it waits");
        assert!(!is_lock_of("1: POSIX  ADVISORY  WRITE 708 fe:00:1003 0 EOF", "fe:00:1003"));
        assert!(!is_lock_of("", "fe:00:1003"));
    }

    #[test]
    fn only_the_agent_of_this_device_is_believed() {
        let device: DeviceId = "gw-1".parse().unwrap();
        let metrics =
            "reconvene_agent_info{version=\"1\",device=\"gw-1\"} 1\nreconvene_session_connected 1\n";
        let (full, session) =
            ("its disk is full", r#"{"connected":true,"takes_no_writes_because":"its disk is full"}"#);
        // An earlier version says nothing of its disk.
        for (session, no_writes) in [(session, Some(full)), (r#"{"connected":true}"#, None)] {
            let (address, thread) = listen(vec![metrics, "", session]);
            let serve = ServeConfig { listen: address, socket: None };
            let found = find(&device, None, &serve).unwrap();
            let no_writes = no_writes.map(str::to_owned);
            let running =
                Running { address: Some(address), ready: true, connected: true, why_not: None, no_writes };
            assert_eq!(found, running);
            thread.join().unwrap();
        }

        let (address, thread) = listen(vec!["reconvene_agent_info{version=\"1\",device=\"gw-2\"} 1\n"; 2]);
        let serve = ServeConfig { listen: address, socket: None };
        let elsewhere = "127.0.0.1:9".parse().unwrap();
        assert_eq!(find(&device, Some(elsewhere), &serve), None, "asked, and not believed");
        let told = ServeConfig { listen: elsewhere, socket: None };
        assert_eq!(find(&device, Some(address), &told), None, "nor where it has written so");
        thread.join().unwrap();
        assert_eq!(find(&device, None, &serve), None, "nobody listens there");
    }
}
