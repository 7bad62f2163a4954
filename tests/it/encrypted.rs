//! A fleet whose connections are encrypted, as real processes: its coordinator, its operators, its devices.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use fleet_tests::binaries::Binaries;
use fleet_tests::daemon::{Confinement, Daemon};
use fleet_tests::poll::{Answer, wait_until};
use tempfile::TempDir;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A coordinator that encrypts, and its operators.
pub(crate) struct Fleet {
    pub(crate) binaries: Binaries,
    folder: TempDir,
    pub(crate) coordinator: Daemon,
    pub(crate) address: String,
}

impl Fleet {
    /// Devices' certificates last `lifetime`.
    pub(crate) async fn start(lifetime: &str) -> Self {
        Self::start_with(lifetime, "heartbeat_interval = '200ms'\noffline_after = '2s'\n").await
    }

    /// As [`Fleet::start`], with these settings of sessions.
    pub(crate) async fn start_with(lifetime: &str, session: &str) -> Self {
        let binaries = tokio::task::spawn_blocking(Binaries::build).await.unwrap().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("coordinator");
        let config = folder.path().join("coordinator.toml");
        let text = format!(
            "listen = '127.0.0.1:0'\nstate_dir = '{}'\n[tls]\nenabled = true\ndevice_lifetime = '{lifetime}'\n\
             [socket]\npath = '{}/operators.sock'\n[session]\n{session}",
            state.display(),
            folder.path().display()
        );
        fs::write(&config, text).unwrap();
        let coordinator = serve(&binaries, &config);
        let address = address(&state).await;
        let fleet = Self { binaries, folder, coordinator, address };
        for role in ["admin", "viewer"] {
            fleet.create_operator(role);
        }
        fleet
    }

    /// Ends the coordinator as a power cut would, and starts it again at its address.
    pub(crate) async fn restart(&mut self) {
        self.coordinator.kill9().unwrap();
        let config = self.path("coordinator.toml");
        let text = fs::read_to_string(&config).unwrap().replace("127.0.0.1:0", &self.address);
        fs::write(&config, text).unwrap();
        self.coordinator = serve(&self.binaries, &config);
        wait_until("the coordinator", LIMIT, async || {
            let up = self.run(&self.path("admin"), &["get", "devices"]).status.success();
            Ok(if up { Answer::Ready(()) } else { Answer::NotYet("not there".to_owned()) })
        })
        .await
        .unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn create_operator(&self, role: &str) {
        let made = Command::new(&self.binaries.coordinator)
            .args(["operator", "create", role, "--role", role, "--out"])
            .arg(self.path(role))
            .arg("--config")
            .arg(self.path("coordinator.toml"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", complaint(&made));
    }

    /// One verb, as the operator whose folder `identity` is.
    pub(crate) fn run(&self, identity: &Path, arguments: &[&str]) -> Output {
        let server = format!("https://{}", self.address);
        let mut command = Command::new(&self.binaries.coordinator);
        command.args(["--server", &server, "--identity"]).arg(identity).args(arguments).output().unwrap()
    }

    /// What the admin's verb prints.
    pub(crate) fn admin(&self, arguments: &[&str]) -> String {
        let output = self.run(&self.path("admin"), arguments);
        assert!(output.status.success(), "{arguments:?}: {}", complaint(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A join file for one device.
    pub(crate) fn join_file(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, self.admin(&["token", "create", "--label", "site=lab"])).unwrap();
        path
    }

    /// An agent that calls itself `device`, on the state folder `state`.
    pub(crate) fn agent(&self, device: &str, state: &str, join: Option<&Path>) -> Daemon {
        self.agent_towards(&self.address, device, state, join)
    }

    /// As [`Fleet::agent`], with the coordinator at `address`.
    pub(crate) fn agent_towards(
        &self,
        address: &str,
        device: &str,
        state: &str,
        join: Option<&Path>,
    ) -> Daemon {
        let config = self.path(&format!("{device}-{state}.toml"));
        let join = join.map(|path| format!("join_file = '{}'\n", path.display())).unwrap_or_default();
        let text = format!(
            "device_id = '{device}'\ncoordinator = 'https://{}'\nstate_dir = '{}'\n{join}\
             [labels]\nsite = 'elsewhere'\n[engine]\nthreads = 1\nonnxruntime = 'off'\n[serve]\nlisten = '127.0.0.1:0'\n",
            address,
            self.path(state).display()
        );
        fs::write(&config, text).unwrap();
        let log = self.path(&format!("{device}-{state}.log"));
        let arguments = ["run", "--config", config.to_str().unwrap()];
        Daemon::start(&self.binaries.agent, &arguments, &Confinement::None, &log).unwrap()
    }

    pub(crate) async fn status(&self, device: &str, wanted: &str) {
        wait_until(&format!("{device} {wanted}"), LIMIT, async || {
            let list = self.admin(&["get", "devices", "--no-headers"]);
            let line = list.lines().find(|line| line.starts_with(device)).unwrap_or_default().to_owned();
            Ok(if line.contains(wanted) { Answer::Ready(()) } else { Answer::NotYet(line) })
        })
        .await
        .unwrap();
    }
}

fn serve(binaries: &Binaries, config: &Path) -> Daemon {
    let log = config.with_extension("log");
    let arguments = ["serve", "--config", config.to_str().unwrap()];
    Daemon::start(&binaries.coordinator, &arguments, &Confinement::None, &log).unwrap()
}

async fn address(state: &Path) -> String {
    wait_until("the coordinator's address", LIMIT, async || {
        let text = fs::read_to_string(state.join("listen-address")).unwrap_or_default();
        Ok(if text.is_empty() {
            Answer::NotYet("none".to_owned())
        } else {
            Answer::Ready(text.trim().to_owned())
        })
    })
    .await
    .unwrap()
}

/// Waits until the agent's log has `text`.
pub(crate) async fn logs(agent: &Daemon, text: &str) {
    logs_times(agent, text, 1).await;
}

/// Waits until the agent's log, which its starts share, has `text` so many times.
pub(crate) async fn logs_times(agent: &Daemon, text: &str, times: usize) {
    wait_until(&format!("'{text}' {times} times"), LIMIT, async || {
        let count = agent.log()?.matches(text).count();
        Ok(if count >= times { Answer::Ready(()) } else { Answer::NotYet(agent.log_tail()) })
    })
    .await
    .unwrap();
}

pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
