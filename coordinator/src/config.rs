//! The daemon's configuration: a TOML file and `RECONVENE__SECTION__KEY` variables in, a checked value out.
//! The only place that reads the environment.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::identity::Role;

/// What the daemon runs with.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where agents and operators connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Database, artifacts, and `listen-address`, a file with the address that was bound.
    pub state_dir: PathBuf,
    /// How connections are encrypted; `None`: they are not.
    pub tls: Option<TlsConfig>,
    /// Where operators on this host connect, if they may.
    pub socket: Option<SocketConfig>,
    /// How agents' sessions run.
    pub session: SessionConfig,
    /// How models are derived.
    pub derive: DeriveConfig,
    /// The program that trains where a deployment says `trainer: command`, if there is one.
    pub trainer: Option<TrainerConfig>,
}

/// A program that trains.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct TrainerConfig {
    /// The program and its first arguments.
    pub command: Vec<String>,
    /// For one network; the program is stopped after it.
    pub time_limit: Duration,
}

/// A Unix socket for operators on the coordinator's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketConfig {
    /// Where.
    pub path: PathBuf,
    /// What users other than root and the coordinator's own may do there; `None`: nothing.
    pub others: Option<Role>,
}

/// How connections are encrypted, with certificates of the coordinator's own authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// Names and addresses by which devices and operators reach the coordinator.
    pub names: Vec<String>,
    /// How long a device's certificate lasts; it is renewed after half of it.
    pub device_lifetime: Duration,
}

/// How agents' sessions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionConfig {
    /// Between heartbeats.
    pub heartbeat_interval: Duration,
    /// Between telemetry intervals.
    pub telemetry_interval: Duration,
    /// A session is closed after so long without a message.
    pub offline_after: Duration,
}

/// How models are derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeriveConfig {
    /// Threads of the coordinator's own worker.
    pub threads: usize,
    /// Whether the coordinator starts a worker of its own.
    pub local_worker: bool,
}

/// Where the packaged coordinator's socket is; the operator's verbs go there where they are not told otherwise.
pub const USUAL_SOCKET: &str = "/run/reconvene-coordinator/operators.sock";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read, or holds an unknown key or a value of the wrong kind.
    #[error("configuration {}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong; names the key.
        source: Box<config::ConfigError>,
    },
    /// A value that cannot be meant.
    #[error("configuration {}: {key}: {problem}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong, and what to write instead.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    #[serde(default = "default_listen")]
    listen: String,
    #[serde(default)]
    allow_plaintext: bool,
    #[serde(default = "default_state_dir")]
    state_dir: PathBuf,
    #[serde(default)]
    tls: TlsFile,
    socket: Option<SocketFile>,
    #[serde(default)]
    session: SessionFile,
    #[serde(default)]
    derive: DeriveFile,
    trainer: Option<TrainerFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SessionFile {
    heartbeat_interval: String,
    telemetry_interval: String,
    offline_after: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct TlsFile {
    enabled: Option<bool>,
    names: Vec<String>,
    device_lifetime: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SocketFile {
    path: PathBuf,
    others: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DeriveFile {
    threads: usize,
    local_worker: bool,
}

impl Default for DeriveFile {
    fn default() -> Self {
        Self { threads: 0, local_worker: true }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrainerFile {
    command: Vec<String>,
    #[serde(default = "default_time_limit")]
    time_limit: String,
}

fn default_time_limit() -> String {
    "24h".to_owned()
}

fn default_listen() -> String {
    "127.0.0.1:7370".to_owned()
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/reconvene")
}

impl Default for SessionFile {
    fn default() -> Self {
        let text = str::to_owned;
        Self { heartbeat_interval: text("5s"), telemetry_interval: text("10s"), offline_after: text("15s") }
    }
}

impl Config {
    /// Reads `path`, then the environment over it, and checks every value.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let file = config::Config::builder()
            .add_source(config::File::from(path).format(config::FileFormat::Toml))
            .add_source(
                config::Environment::with_prefix("RECONVENE")
                    .prefix_separator("__")
                    .separator("__")
                    .try_parsing(true),
            )
            .build()
            .and_then(config::Config::try_deserialize::<ConfigFile>)
            .map_err(|source| ConfigError::File { path: path.to_owned(), source: Box::new(source) })?;
        check(path, file)
    }
}

fn check(path: &Path, file: ConfigFile) -> Result<Config, ConfigError> {
    let refuse = |key, problem: String| ConfigError::Value { path: path.to_owned(), key, problem };
    let listen: SocketAddr = file.listen.parse().map_err(|_| {
        refuse("listen", format!("'{}' is not an address such as 127.0.0.1:7370", file.listen))
    })?;
    let encrypts = file.tls.enabled.unwrap_or(!listen.ip().is_loopback() && !file.allow_plaintext);
    if !encrypts && !listen.ip().is_loopback() && !file.allow_plaintext {
        let problem = format!(
            "{listen} can be reached from other machines; leave encryption on, listen on 127.0.0.1, or set \
             allow_plaintext = true on a network you trust"
        );
        return Err(refuse("tls.enabled", problem));
    }
    let duration = |key, text: &str| match humantime::parse_duration(text) {
        Ok(duration) if duration >= Duration::from_millis(10) && duration <= Duration::from_secs(86_400) => {
            Ok(duration)
        }
        _ => Err(refuse(key, format!("'{text}' is not a time from 10ms to 1day, such as 5s"))),
    };
    let device_lifetime = match file.tls.device_lifetime.as_deref().map(humantime::parse_duration) {
        None => Duration::from_secs(86_400),
        Some(Ok(lifetime)) if (Duration::from_secs(2)..=DEVICE_LIFETIME_LIMIT).contains(&lifetime) => {
            lifetime
        }
        Some(_) => {
            return Err(refuse(
                "tls.device_lifetime",
                "it is a time from 2s to 90days, such as 24h".to_owned(),
            ));
        }
    };
    let tls = encrypts.then(|| TlsConfig { names: names(listen, &file.tls.names), device_lifetime });
    let session = SessionConfig {
        heartbeat_interval: duration("session.heartbeat_interval", &file.session.heartbeat_interval)?,
        telemetry_interval: duration("session.telemetry_interval", &file.session.telemetry_interval)?,
        offline_after: duration("session.offline_after", &file.session.offline_after)?,
    };
    if session.offline_after <= session.heartbeat_interval {
        let problem = "must be longer than session.heartbeat_interval, or every device flaps".to_owned();
        return Err(refuse("session.offline_after", problem));
    }
    let threads = match file.derive.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads @ 1..=1024 => threads,
        threads => {
            return Err(refuse("derive.threads", format!("{threads} is more than 1024; 0 means all cores")));
        }
    };
    let trainer = file.trainer.map(|trainer| check_trainer(trainer, refuse)).transpose()?;
    let socket = file.socket.map(|socket| check_socket(socket, refuse)).transpose()?;
    Ok(Config {
        listen,
        state_dir: file.state_dir,
        tls,
        socket,
        session,
        derive: DeriveConfig { threads, local_worker: file.derive.local_worker },
        trainer,
    })
}

/// Longer certificates would make a ban the only way to be rid of a device.
const DEVICE_LIFETIME_LIMIT: Duration = Duration::from_secs(90 * 86_400);

/// What the configuration names, and what the host is called anyway.
fn names(listen: SocketAddr, configured: &[String]) -> Vec<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names = configured.to_vec();
    let usual = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), host];
    names.extend(usual);
    if !listen.ip().is_unspecified() {
        names.push(listen.ip().to_string());
    }
    let mut known = std::collections::BTreeSet::new();
    names.retain(|name| !name.is_empty() && known.insert(name.clone()));
    names
}

fn check_socket(
    SocketFile { path, others }: SocketFile,
    refuse: impl Fn(&'static str, String) -> ConfigError,
) -> Result<SocketConfig, ConfigError> {
    if !path.is_absolute() {
        return Err(refuse("socket.path", format!("'{}' does not begin with /", path.display())));
    }
    let role = |text: String| text.parse().map_err(|problem| refuse("socket.others", problem));
    Ok(SocketConfig { path, others: others.map(role).transpose()? })
}

fn check_trainer(
    TrainerFile { command, time_limit }: TrainerFile,
    refuse: impl Fn(&'static str, String) -> ConfigError,
) -> Result<TrainerConfig, ConfigError> {
    if command.first().is_none_or(String::is_empty) {
        let problem = "names no program; write it as a list, such as [\"python3\", \"/srv/train.py\"]";
        return Err(refuse("trainer.command", problem.to_owned()));
    }
    let time_limit = match humantime::parse_duration(&time_limit) {
        Ok(limit) if !limit.is_zero() => limit,
        _ => return Err(refuse("trainer.time_limit", format!("'{time_limit}' is not a time such as 6h"))),
    };
    Ok(TrainerConfig { command, time_limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coordinator.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let config = read("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7370");
        assert_eq!(config.session.heartbeat_interval, Duration::from_secs(5));
        assert!(config.derive.threads >= 1 && config.derive.local_worker);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_key() {
        for (text, named) in [
            ("colour = 1", "colour"),
            ("[session]\nheartbeat = '5s'", "heartbeat"),
            ("listen = 'here'", "listen"),
            ("listen = '0.0.0.0:7370'\n[tls]\nenabled = false", "allow_plaintext"),
            ("[tls]\ndevice_lifetime = '1s'", "tls.device_lifetime"),
            ("[session]\nheartbeat_interval = '0s'", "heartbeat_interval"),
            ("[session]\nheartbeat_interval = '20s'", "offline_after"),
            ("[derive]\nthreads = 5000", "derive.threads"),
            ("[socket]\npath = 'sock'", "socket.path"),
            ("[socket]\npath = '/sock'\nothers = 'king'", "socket.others"),
            ("[trainer]\ntime_limit = '1h'", "command"),
            ("[trainer]\ncommand = []", "trainer.command"),
            ("[trainer]\ncommand = ['train']\ntime_limit = 'long'", "trainer.time_limit"),
            ("listen = [", "coordinator.toml"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(named), "{text}: {message}");
        }
        assert_eq!(read("listen = '0.0.0.0:7370'\nallow_plaintext = true").unwrap().tls, None);
        assert_eq!(read("").unwrap().tls, None, "the loopback interface needs no encryption");
        let config = read("listen = '0.0.0.0:7370'\n[tls]\nnames = ['fleet.example.org']").unwrap();
        let tls = config.tls.unwrap();
        assert_eq!((tls.names[0].as_str(), tls.device_lifetime.as_secs()), ("fleet.example.org", 86_400));
        assert!(read("[tls]\nenabled = true").unwrap().tls.is_some());
    }
}
