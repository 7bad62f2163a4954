//! The real binary: what it prints and how it exits.
#![expect(clippy::unwrap_used, reason = "helpers of tests, too, fail the test by panicking")]

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::Value;

/// For an agent to say what a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);

fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reconvene-agent"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

fn output(arguments: &[&str]) -> Output {
    agent(arguments).output().unwrap()
}

/// Standard error, which must be one line.
fn line(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn config(dir: &Path, text: &str) -> String {
    let path = dir.join("agent.toml");
    let state = dir.join("state");
    // Nobody listens on port 9: no test finds a coordinator that happens to run on this machine.
    let base =
        format!("device_id = 'gw-1'\ncoordinator = 'http://127.0.0.1:9'\nstate_dir = '{}'", state.display());
    std::fs::write(&path, format!("{base}\n{text}")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A running agent, killed when it goes out of scope.
struct Running {
    child: Child,
    /// The lines of its log.
    log: Receiver<String>,
    /// What was read of that and not looked at.
    seen: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Running {
    /// Starts `run`.
    fn spawn(config: &str) -> Self {
        Self::of(&mut agent(&["run", "--config", config]))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (read, log) = mpsc::channel();
        // It ends with the process.
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| read.send(line + "\n")));
        Self { child, log, seen: String::new() }
    }

    /// Starts `run` and waits until it says that it is ready.
    fn start(config: &str) -> Self {
        let mut running = Self::spawn(config);
        // What it said before may be looked for, too: its tasks run already.
        running.seen = running.says("ready");
        running
    }

    /// Reads its log until it says so; returns what it read.
    fn says(&mut self, what: &str) -> String {
        self.says_within(PATIENCE, what)
    }

    fn says_within(&mut self, patience: Duration, what: &str) -> String {
        let mut seen = std::mem::take(&mut self.seen);
        let deadline = Instant::now() + patience;
        while !seen.contains(what) {
            let line = self.log.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            seen += &line.unwrap_or_else(|missing| panic!("'{what}' was not said ({missing}): {seen}"));
        }
        let found = seen.find(what).unwrap();
        let end = seen[found..].find('\n').map_or(seen.len(), |end| found + end + 1);
        self.seen = seen.split_off(end);
        seen
    }

    /// Ends it, and looks at what it said since it was looked at last.
    fn ends_without(mut self, what: &str) {
        assert_eq!(self.stop(), 0);
        let rest = std::mem::take(&mut self.seen) + &self.log.iter().collect::<String>();
        assert!(!rest.contains(what), "it was said already: {rest}");
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn terminate(mut self) -> i32 {
        self.stop()
    }

    fn stop(&mut self) -> i32 {
        self.signal(rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap();
            }
            std::thread::yield_now();
        }
        panic!("it does not stop");
    }
}

#[test]
#[should_panic(expected = "'tea' was not said (timed out waiting on channel): coffee\n")]
fn what_is_never_said_fails_with_what_was() {
    let mut silent = Command::new("sh");
    let mut running = Running::of(silent.args(["-c", "echo coffee >&2; exec sleep 600"]));
    running.seen = running.says("coffee");
    running.says_within(Duration::from_millis(1), "tea");
}

#[test]
fn a_bad_config_exits_64_with_one_line_that_names_the_key() {
    let dir = tempfile::tempdir().unwrap();
    for (text, named) in [
        ("colour = 'red'", "colour"),
        ("[serve]\nlisten = 'here'", "serve.listen"),
        ("[engine]\nthreads = 0", "engine.threads"),
    ] {
        let output = output(&["run", "--config", &config(dir.path(), text)]);
        assert_eq!(output.status.code(), Some(64));
        assert!(line(&output).contains(named));
    }
    assert!(!dir.path().join("state").exists(), "nothing was made");
}

#[test]
fn a_missing_config_exits_64_and_says_which() {
    let output = output(&["run", "--config", "/nowhere/agent.toml"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(line(&output).contains("/nowhere/agent.toml does not exist"));
}

#[test]
fn a_state_directory_that_cannot_be_made_exits_73() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("state"), "a file").unwrap();
    let output = output(&["run", "--config", &config(dir.path(), "")]);
    assert_eq!(output.status.code(), Some(73));
    assert!(line(&output).contains("cannot use the state directory"));
}

#[test]
fn a_port_in_use_exits_71() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = output(&["run", "--config", &config(dir.path(), &format!("[serve]\nlisten = '{address}'"))]);
    assert_eq!(output.status.code(), Some(71));
    assert!(line(&output).contains(&format!("{address} is in use")));
}

#[test]
fn a_file_where_the_socket_is_to_be_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let text = format!("[serve]\nlisten = '127.0.0.1:0'\nsocket = '{}'", file.display());
    let output = output(&["run", "--config", &config(dir.path(), &text)]);
    assert_eq!(output.status.code(), Some(71));
    assert!(line(&output).contains("file is there already and is no socket; remove it"));
}

#[test]
fn damaged_keys_and_an_open_address_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "[serve]\nlisten = '0.0.0.0:0'");
    std::fs::create_dir(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state/trusted-keys.json"), "").unwrap();
    let mut running = Running::spawn(&config);
    let said = running.says("ready");
    assert!(said.contains("remove trusted-keys.json"), "{said}");
    assert!(said.contains("whoever reaches this address may use the inference API"), "{said}");
}

#[test]
fn damaged_state_is_named_and_holds_up_no_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "[serve]\nlisten = '127.0.0.1:0'");
    let state = dir.path().join("state");
    let folders = ["active", "serving-address", "telemetry.spool", "slots/a/comparison.json", "probing.json"];
    for folder in folders {
        std::fs::create_dir_all(state.join(folder)).unwrap();
    }
    // Far more than there is memory for.
    let huge = ["trusted-keys.json", "probe-timings.json", "given-up.json", "identity/certificate.json"];
    std::fs::create_dir(state.join("identity")).unwrap();
    for file in huge {
        std::fs::File::create(state.join(file)).unwrap().set_len(1 << 40).unwrap();
    }
    let seen = || -> String {
        let output = output(&["status", "--config", &config]);
        assert!(output.status.success(), "{}", line(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let named = |said: &str| {
        // What lies beside a model says nothing without one, and what is no address was replaced by a start if it could be.
        for folder in folders.iter().filter(|folder| !folder.starts_with("slots")) {
            assert!(said.contains(&format!("{folder}: it is a folder")), "{folder}: {said}");
        }
        assert!(said.contains("trusted-keys.json: it has more than 1.0Mi"), "{said}");
        assert!(said.contains("name them in coordinator_keys, or remove trusted-keys.json"), "{said}");
    };
    let said = seen();
    named(&said);
    for file in huge {
        assert!(said.contains(&format!("{file}: it has more than 1.0Mi")), "{file}: {said}");
    }
    let running = Running::start(&config);
    named(&seen());
    assert_eq!(running.terminate(), 0);
}

#[test]
fn records_that_mean_something_else_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "[serve]\nlisten = '127.0.0.1:0'");
    let state = dir.path().join("state");
    std::fs::create_dir_all(state.join("identity")).unwrap();
    let seen = || -> Vec<String> {
        let output = output(&["status", "--config", &config, "-o", "json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        serde_json::from_value(status["damaged"].clone()).unwrap()
    };
    let trial =
        serde_json::json!({ "generation": 1, "digest": "ab".repeat(32), "begun": 1, "reason": "why" });
    for name in ["probation", "serving", "checking", "comparing", "loading", "probing", "given-up"] {
        let path = state.join(format!("{name}.json"));
        // As an earlier version kept it, and as this one does.
        for sound in [trial.to_string(), format!("[{trial}]"), "[]".to_owned()] {
            std::fs::write(&path, sound).unwrap();
            assert_eq!(seen(), [""; 0]);
        }
        std::fs::write(&path, "[{}]").unwrap();
        let [line] = seen().try_into().unwrap();
        assert!(line.ends_with(&format!("{name}.json: missing field `generation`")), "{line}");
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let [line] = seen().try_into().unwrap();
        assert!(
            line.ends_with(&format!("{name}.json: it is a link to a file that does not exist")),
            "{line}"
        );
        std::fs::remove_file(&path).unwrap();
    }
    for (name, problem) in [
        ("profile.json", "missing field `revision`"),
        ("probe-timings.json", "missing field `measured`"),
        ("trusted-keys.json", "invalid type: map, expected a sequence"),
        ("identity/certificate.json", "missing field `pem`"),
        ("identity/ca.pem", "there is no authority's certificate"),
        ("identity/key.pem", "it is no key"),
    ] {
        std::fs::write(state.join(name), "{}").unwrap();
        let lines = seen();
        assert!(lines[0].contains(&format!("{name}: {problem}")), "{lines:?}");
        std::fs::remove_file(state.join(name)).unwrap();
    }
}

#[test]
fn a_join_file_that_is_none_is_named_by_the_log_and_by_status() {
    let dir = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let join = dir.path().join("join");
    let text = format!("[serve]\nlisten = '{free}'");
    let path = config(dir.path(), &text);
    let plain = std::fs::read_to_string(&path).unwrap();
    let encrypted = plain
        .replace("http://", "https://")
        .replace("[serve]", &format!("join_file = '{}'\n[serve]", join.display()));
    std::fs::write(&path, encrypted).unwrap();
    for (content, problem) in [
        (None, "it does not exist; put the file that `reconvene token create` prints there"),
        (Some(""), "it is empty; copy all that `reconvene token create` prints"),
        (Some("garbage"), "its first line is not 'reconvene-join-1' and a token"),
        (Some("reconvene-join-1 ab.cd"), "there is no authority's certificate"),
        (
            Some("reconvene-join-1 ab.cd\n-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----"),
            "the authority's certificate: ",
        ),
    ] {
        if let Some(content) = content {
            std::fs::write(&join, content).unwrap();
        }
        let why = format!(
            "this device has not joined yet, and its join file {} is of no use: {problem}",
            join.display()
        );
        let mut running = Running::spawn(&path);
        let said = running.says("no coordinator is looked for until the agent is started again");
        assert!(said.contains(&why), "{said}");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let said = String::from_utf8(output(&["status", "--config", &path]).stdout).unwrap();
            if said.contains(&format!("https://127.0.0.1:9, not connected: {why}")) {
                break;
            }
            assert!(Instant::now() < deadline, "{said}");
        }
        running.ends_without("no session");
    }
}

#[test]
fn a_coordinator_that_encrypts_is_told_once_from_one_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let tls = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tls.local_addr().unwrap();
    let path = config(dir.path(), "[serve]\nlisten = '127.0.0.1:0'");
    let text = std::fs::read_to_string(&path).unwrap().replace("127.0.0.1:9", &address.to_string());
    std::fs::write(&path, text).unwrap();
    let (attempts, attempted) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in tls.incoming() {
            let mut stream = stream.unwrap();
            drop(std::io::Read::read(&mut stream, &mut [0; 256]));
            // A fatal alert: what came is no handshake.
            drop(std::io::Write::write_all(&mut stream, &[0x15, 3, 3, 0, 2, 2, 50]));
            let _ = attempts.send(());
        }
    });
    let mut running = Running::start(&path);
    let why = format!(
        "the coordinator at {address} encrypts; set coordinator to https://{address}, and put the file"
    );
    running.says(&why);
    let status = String::from_utf8(output(&["status", "--config", &path]).stdout).unwrap();
    assert!(status.contains(&format!("not connected: {why}")), "{status}");
    // Each attempt is two connections: the call, and the question whether it encrypts.
    for _ in 0..8 {
        attempted.recv_timeout(Duration::from_secs(30)).unwrap();
    }
    running.ends_without("no session");
}

/// Answers every connection with `words`.
fn stranger(words: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                drop(std::io::Read::read(&mut stream, &mut [0; 256]));
                drop(std::io::Write::write_all(&mut stream, words));
                if !words.is_empty() {
                    // Until the agent has read it, and ends the connection.
                    drop(std::io::copy(&mut stream, &mut std::io::sink()));
                }
            });
        }
    });
    address
}

#[test]
fn what_is_no_coordinator_is_told_by_the_log_and_by_status() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Another service of gRPC: an agent's own.
    let _other = Running::start(&config(other.path(), "[serve]\nlisten = '127.0.0.1:0'"));
    let agent = std::fs::read_to_string(other.path().join("state/serving-address")).unwrap();
    for (address, why) in [
        (
            stranger(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "is no Reconvene coordinator: it speaks HTTP/1, as web servers do; set coordinator to the address",
        ),
        (stranger(b"SSH-2.0-OpenSSH_9.2\r\n"), "is no Reconvene coordinator: it speaks SSH; "),
        (stranger(b""), "ends every connection without a word; see the log of the coordinator there, or set"),
        (agent.parse().unwrap(), "is no Reconvene coordinator: it answers '/reconvene.v1.SessionService"),
    ] {
        let path = config(dir.path(), "[serve]\nlisten = '127.0.0.1:0'");
        let text = std::fs::read_to_string(&path).unwrap().replace("127.0.0.1:9", &address.to_string());
        std::fs::write(&path, text).unwrap();
        let mut running = Running::start(&path);
        let why = format!("what listens at {address} {why}");
        let said = running.says("no session");
        assert!(said.contains(&why), "{said}");
        let status = String::from_utf8(output(&["status", "--config", &path]).stdout).unwrap();
        assert!(status.contains(&format!("not connected: {why}")), "{status}");
        running.ends_without("no session");
    }
}

#[test]
fn the_profile_needs_nothing_and_parses() {
    let output = output(&["profile", "-o", "json"]);
    assert!(output.status.success());
    let profile: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(profile["arch"], std::env::consts::ARCH);
    assert_eq!(profile["engine"], "rten");
    assert!(profile["logical_cores"].as_u64().unwrap() >= 1);
    assert!(profile["memory_total"].as_u64().unwrap() > 0);
    let table = agent(&["profile"]).output().unwrap();
    assert!(String::from_utf8(table.stdout).unwrap().contains("Instruction sets"));
}

#[test]
fn the_profile_of_an_agent_is_the_one_that_it_published() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "");
    let profile = || {
        let output = output(&["profile", "--config", &config, "-o", "json"]);
        assert!(output.status.success());
        let profile: Value = serde_json::from_slice(&output.stdout).unwrap();
        (profile, String::from_utf8(output.stderr).unwrap())
    };
    let (mut published, said) = profile();
    assert!(said.contains("the agent has published no profile yet; this is what this process may"), "{said}");
    assert_eq!(published["revision"], 0);
    published["revision"] = 7.into();
    published["cpu_quota_cores"] = 0.125.into();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    let record = serde_json::json!({ "revision": 7, "profile": published });
    std::fs::write(dir.path().join("state/profile.json"), record.to_string()).unwrap();
    assert_eq!(profile(), (published, String::new()));
}

#[test]
fn the_shipped_config_is_the_default() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/agent.toml");
    let output = agent(&["profile", "--config", shipped, "-o", "json"])
        .env("RECONVENE_AGENT__STATE_DIR", "/nonexistent")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", line(&output));
}

#[test]
fn usage_errors_exit_2_and_help_has_examples() {
    assert_eq!(output(&["fly"]).status.code(), Some(2));
    let help = output(&["--help"]);
    assert!(String::from_utf8(help.stdout).unwrap().contains("Examples:"));
}

#[test]
fn status_tells_a_running_agent_from_a_stopped_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "[serve]\nlisten = '127.0.0.1:0'");
    let before = output(&["status", "--config", &config]);
    assert_eq!(before.status.code(), Some(3));
    assert!(line(&before).contains("does not exist"));

    let status = || -> Value {
        let output = output(&["status", "--config", &config, "-o", "json"]);
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let running = Running::start(&config);
    let seen = status();
    assert_eq!((&seen["running"], &seen["ready"]), (&Value::Bool(true), &Value::Bool(false)));
    let bound = std::fs::read_to_string(dir.path().join("state/serving-address")).unwrap();
    assert_eq!(seen["serving_address"], bound);

    let second = output(&["run", "--config", &config]);
    assert_eq!(second.status.code(), Some(73));
    assert!(line(&second).contains("another reconvene-agent"));

    assert_eq!(running.terminate(), 0);
    assert_eq!(status()["running"], false);
    drop(Running::start(&config));
    assert_eq!(status()["running"], false, "killed, its stale address is not believed");
    assert_eq!(Running::start(&config).terminate(), 0);
}

#[test]
fn sighup_is_heard_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "[serve]\nlisten = '127.0.0.1:0'");
    let mut running = Running::start(&config);
    for _ in 0..2 {
        running.signal(rustix::process::Signal::HUP);
        running.says("SIGHUP");
    }
    let status = output(&["status", "--config", &config, "-o", "json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["running"], true);
    assert_eq!(running.terminate(), 0);
}

#[test]
fn an_agent_that_hangs_is_told_from_one_that_does_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "[serve]\nlisten = '127.0.0.1:0'");
    let picture = dir.path().join("grey.png");
    image::GrayImage::new(4, 4).save(&picture).unwrap();
    let infer = || output(&["infer", "--config", &config, "--image", picture.to_str().unwrap()]);
    let running = Running::start(&config);
    running.signal(rustix::process::Signal::STOP);
    let asked = Instant::now();
    let said = String::from_utf8(output(&["status", "--config", &config]).stdout).unwrap();
    assert!(said.contains("running, but does not answer"), "{said}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let hangs = infer();
    assert_eq!(hangs.status.code(), Some(69));
    assert!(line(&hangs).contains("did not answer within 5 s; `reconvene-agent status`"));
    // As on a disk that takes no writes.
    std::fs::remove_file(dir.path().join("state/serving-address")).unwrap();
    let lost = infer();
    assert_eq!(lost.status.code(), Some(3));
    assert!(line(&lost).contains("does not say where it listens; give --address"));
    running.signal(rustix::process::Signal::CONT);
    assert_eq!(running.terminate(), 0);
    let nobody = infer();
    assert_eq!(nobody.status.code(), Some(3));
    assert!(line(&nobody).contains("no agent runs"));
}

#[test]
fn what_is_no_picture_is_said_whoever_runs() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "");
    for (path, code) in [(dir.path().join("nowhere.png"), 3), (dir.path().to_owned(), 65)] {
        let path = path.to_str().unwrap();
        let output = output(&["infer", "--config", &config, "--image", path]);
        assert_eq!(output.status.code(), Some(code));
        assert!(line(&output).contains(&format!("cannot read {path}")));
    }
}
