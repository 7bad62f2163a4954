//! Who may talk to whom, with real processes and real TLS: joining, operators' roles, bans, renewal, and those who are nobody.

use std::fs;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use fleet_tests::poll::{Answer, wait_until};
use fleet_tests::proxy::FaultProxy;

use crate::encrypted::{Fleet, LIMIT, complaint, logs, logs_times};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_joins_by_its_token_and_by_nothing_else() {
    let fleet = Fleet::start("24h").await;
    let join = fleet.join_file("join");
    let first = fleet.agent("gw-1", "one", Some(&join));
    fleet.status("gw-1", "Online").await;
    let device = fleet.admin(&["get", "device", "gw-1", "-o", "json"]);
    assert!(device.contains(r#""site": "lab""#), "the token's label outweighs the device's own: {device}");
    assert!(fleet.admin(&["token", "list"]).contains("1/1"));

    let second = fleet.agent("gw-2", "two", Some(&join));
    logs(&second, "the join token was used as often as it may be").await;
    let nobody = fleet.agent("gw-3", "three", None);
    logs(&nobody, "this device has not joined yet").await;
    let guess = fleet.path("guess");
    let text = fs::read_to_string(&join).unwrap();
    let (line, authority) = text.split_once('\n').unwrap();
    let (id, _) = line.split_once('.').unwrap();
    fs::write(&guess, format!("{id}.{}\n{authority}", "0".repeat(32))).unwrap();
    let guessing = fleet.agent("gw-4", "four", Some(&guess));
    logs(&guessing, "the join token is not known").await;

    // Another fleet's coordinator is not believed.
    let other = Fleet::start("24h").await;
    let foreign = other.join_file("join");
    let lost = fleet.agent("gw-5", "five", Some(&foreign));
    logs(&lost, "invalid peer certificate").await;

    // A certificate is one device's, whatever it calls itself, and another machine does not get its name.
    drop(first);
    let thief = fleet.agent("gw-9", "one", None);
    logs(&thief, "its certificate is gw-1's, and it says that it is gw-9").await;
    drop(thief);
    let again = fleet.join_file("join-again");
    let double = fleet.agent("gw-1", "six", Some(&again));
    logs(&double, "the device is enrolled with another key").await;
    assert_eq!(fleet.admin(&["device", "forget", "gw-1"]).trim(), "device/gw-1 forgotten");
    fleet.status("gw-1", "Online").await;
    let known = fleet.admin(&["get", "devices", "-o", "name"]);
    assert_eq!(known.trim(), "device/gw-1", "nobody else came");

    // They all try again and again; the coordinator's log has each once, and no secret.
    let log = fleet.coordinator.log().unwrap();
    for (device, why) in [
        ("gw-2 (asks for", "the join token was used as often"),
        ("gw-4 (asks for", "the join token is not known"),
        ("gw-1 (key", "and it says that it is gw-9"),
        ("gw-1 (asks for", "enrolled with another key"),
    ] {
        let lines = log.lines().filter(|line| line.contains(device) && line.contains(why));
        assert_eq!(lines.count(), 1, "{device} {why}: {log}");
    }
    let secret = line.split_once('.').unwrap().1;
    assert!(!log.contains(secret) && !log.contains(&"0".repeat(32)), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_do_what_their_role_allows_and_others_nothing() {
    let mut fleet = Fleet::start("24h").await;
    let viewer = fleet.path("viewer");
    assert!(fleet.run(&viewer, &["get", "devices"]).status.success());
    let refused = fleet.run(&viewer, &["token", "create"]);
    assert!(
        complaint(&refused).contains("viewer has the role viewer; this needs admin"),
        "{}",
        complaint(&refused)
    );
    let refused = fleet.run(&viewer, &["rollout", "pause", "x"]);
    assert!(complaint(&refused).contains("this needs operator"), "{}", complaint(&refused));

    assert_eq!(fleet.admin(&["operator", "revoke", "viewer"]).trim(), "operator/viewer revoked");
    let refused = fleet.run(&viewer, &["get", "devices"]);
    assert!(complaint(&refused).contains("viewer's certificates were revoked"), "{}", complaint(&refused));
    let himself = fleet.run(&fleet.path("admin"), &["operator", "revoke", "admin"]);
    assert!(complaint(&himself).contains("another admin can"), "{}", complaint(&himself));

    let other = Fleet::start("24h").await;
    let foreign = fleet.run(&other.path("admin"), &["get", "devices"]);
    assert!(complaint(&foreign).contains("invalid peer certificate"), "{}", complaint(&foreign));
    let server = format!("https://{}", fleet.address);
    let without =
        Command::new(&fleet.binaries.coordinator).args(["--server", &server, "get", "devices"]).output();
    let without = without.unwrap();
    assert!(complaint(&without).contains("needs --identity DIR"), "{}", complaint(&without));
    let plain = format!("http://{}", fleet.address);
    let plain =
        Command::new(&fleet.binaries.coordinator).args(["--server", &plain, "get", "devices"]).output();
    assert!(!plain.unwrap().status.success());
    // What is no handshake harms nobody.
    fleet.coordinator.ensure_running().unwrap();
    fleet.restart().await;
    assert!(!fleet.run(&viewer, &["get", "devices"]).status.success(), "it was forgotten");
    assert_eq!(fleet.admin(&["operator", "reinstate", "viewer"]).trim(), "operator/viewer reinstated");
    assert!(fleet.run(&viewer, &["get", "devices"]).status.success());
    let log = fleet.admin(&["history", "operator/viewer"]);
    assert!(log.contains("admin  revoke") && log.contains("admin  reinstate"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_banned_device_is_out_at_once_and_stays_out_over_a_restart() {
    let mut fleet = Fleet::start("24h").await;
    let join = fleet.join_file("join");
    let agent = fleet.agent("gw-1", "one", Some(&join));
    fleet.status("gw-1", "Online").await;
    assert_eq!(fleet.admin(&["device", "ban", "gw-1"]).trim(), "device/gw-1 banned");
    fleet.status("gw-1", "Banned").await;
    assert!(fleet.admin(&["explain", "device/gw-1"]).contains("banned (`reconvene device unban gw-1`"));
    logs(&agent, "device gw-1 is banned").await;
    fleet.restart().await;
    drop(agent);
    let agent = fleet.agent("gw-1", "one", None);
    logs(&agent, "device gw-1 is banned").await;
    assert_eq!(fleet.admin(&["device", "unban", "gw-1"]).trim(), "device/gw-1 unbanned");
    fleet.status("gw-1", "Online").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_in_an_open_session_and_after_they_have_expired() {
    let fleet = Fleet::start("4s").await;
    let join = fleet.join_file("join");
    let agent = fleet.agent("gw-1", "one", Some(&join));
    fleet.status("gw-1", "Online").await;
    logs_times(&agent, "certificate obtained", 3).await;
    let log = agent.log().unwrap();
    assert_eq!(log.matches("no session; trying again").count(), 0, "no session was dropped for it: {log}");
    drop(agent);
    // Away for longer than its certificate lasts, and its token is used up: its key is enough.
    let certificate = fs::read(fleet.path("one").join("identity/certificate.json")).unwrap();
    let certificate: serde_json::Value = serde_json::from_slice(&certificate).unwrap();
    let [obtained, lifetime] =
        ["obtained_unix_ms", "lifetime_ms"].map(|key| certificate[key].as_u64().unwrap());
    wait_until("its certificate to expire", LIMIT, async || {
        let left = Duration::from_millis(obtained + lifetime).checked_sub(UNIX_EPOCH.elapsed()?);
        Ok(left.map_or(Answer::Ready(()), |left| Answer::NotYet(format!("{left:?}"))))
    })
    .await
    .unwrap();
    let agent = fleet.agent("gw-1", "one", None);
    fleet.status("gw-1", "Online").await;
    logs(&agent, "certificate obtained").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_has_to_be_approved_of_waits_until_its_key_was_named() {
    let mut fleet = Fleet::start("24h").await;
    let join = fleet.path("join");
    fs::write(&join, fleet.admin(&["token", "create", "--approve"])).unwrap();
    let agent = fleet.agent("gw-1", "one", Some(&join));
    const COMMAND: &str = "reconvene device approve gw-1 ";
    logs(&agent, COMMAND).await;
    let log = agent.log().unwrap();
    let after = &log[log.find(COMMAND).unwrap() + COMMAND.len()..];
    let key: String = after.chars().take_while(char::is_ascii_hexdigit).collect();
    // It is there in the list, with that key, also after a restart, and in no other.
    fleet.restart().await;
    let pending = fleet.admin(&["device", "pending", "--no-headers"]);
    assert!(pending.contains("gw-1") && pending.contains(&key) && pending.contains("approval"), "{pending}");
    assert_eq!(fleet.admin(&["get", "devices", "-o", "name"]).trim(), "");
    let approve = |key: &str| fleet.run(&fleet.path("admin"), &["device", "approve", "gw-1", key]);
    let (other, none) = ("0".repeat(24), "g".repeat(24));
    for (wrong, why) in [(&*other, "another key"), (&key[..12], "at least 24 digits"), (&*none, "digits")] {
        let refused = approve(wrong);
        assert!(complaint(&refused).contains(why), "{wrong}: {}", complaint(&refused));
    }
    let refused = fleet.run(&fleet.path("viewer"), &["device", "approve", "gw-1", &key]);
    assert!(complaint(&refused).contains("this needs admin"), "{}", complaint(&refused));
    assert_eq!(fleet.admin(&["get", "devices", "-o", "name"]).trim(), "");
    let approved = approve(&key);
    assert!(approved.status.success(), "{}", complaint(&approved));
    fleet.status("gw-1", "Online").await;
    assert_eq!(fleet.admin(&["device", "pending", "--no-headers"]).trim(), "");
    assert!(fleet.admin(&["token", "list"]).contains("1/1"));
    let history = fleet.admin(&["history", "device/gw-1"]);
    assert!(history.contains("  approve  ") && history.contains(&key), "{history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_on_the_coordinators_host_needs_no_certificate_and_is_named_in_the_log() {
    let fleet = Fleet::start("24h").await;
    let socket = format!("unix://{}", fleet.path("operators.sock").display());
    let run = |arguments: &[&str]| {
        Command::new(&fleet.binaries.coordinator)
            .args(["--server", &socket])
            .args(arguments)
            .output()
            .unwrap()
    };
    let listed = run(&["get", "devices"]);
    assert!(listed.status.success(), "{}", complaint(&listed));
    let made = run(&["token", "create"]);
    assert!(made.status.success(), "{}", complaint(&made));
    let own = rustix::process::geteuid().as_raw();
    let log = fleet.admin(&["audit", "tail"]);
    assert!(log.contains(&format!("uid-{own}  create")), "{log}");
    // Whom the configuration gives nothing does not get as far as a call.
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(fleet.path("operators.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let renewed = run(&["operator", "renew"]);
    assert!(complaint(&renewed).contains("--identity says whose"), "{}", complaint(&renewed));
    let taken = run(&["operator", "revoke", &format!("uid-{own}")]);
    assert!(complaint(&taken).contains("nobody revokes himself"), "{}", complaint(&taken));
}

/// What an idle session may cost on the wire, bytes of TCP's payload a second, both ways.
const IDLE: u64 = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the figure is for docs/agent.md")]
async fn an_idle_session_costs_little_on_the_wire() {
    let fleet = Fleet::start_with("24h", "").await;
    let join = fleet.join_file("join");
    let proxy = FaultProxy::start(fleet.address.parse().unwrap()).await.unwrap();
    let _agent = fleet.agent_towards(&proxy.address().to_string(), "gw-1", "one", Some(&join));
    wait_until("its profile", Duration::from_secs(120), async || {
        let device = fleet.admin(&["get", "devices", "-o", "json"]);
        let is_profiled = device.contains("fittedP95Ms");
        Ok(if is_profiled { Answer::Ready(()) } else { Answer::NotYet(device) })
    })
    .await
    .unwrap();
    const SECONDS: u64 = 40;
    let before = proxy.passed();
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let bytes = proxy.passed() - before;
    println!("figure: an idle session costs {:.1} B/s over TLS", bytes as f64 / SECONDS as f64);
    assert!(bytes <= IDLE * SECONDS, "{bytes} bytes in {SECONDS} s");
    assert_eq!(proxy.connections(), 2, "one to enroll, one for everything else");
}
