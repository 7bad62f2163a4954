//! The fleet's authority is exchanged for the next one, with real processes and real TLS.

use std::fs;

use fleet_tests::poll::{Answer, wait_until};

use crate::encrypted::{Fleet, LIMIT, complaint, logs, logs_times};

/// Waits until `authority list` shows `line`.
async fn authority(fleet: &Fleet, wanted: [&str; 3]) {
    wait_until(&format!("{wanted:?}"), LIMIT, async || {
        let list = fleet.admin(&["authority", "list", "--no-headers"]);
        let of = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            [words.first(), words.get(1), words.last()] == wanted.each_ref().map(Some)
        };
        Ok(if list.lines().any(of) { Answer::Ready(()) } else { Answer::NotYet(list) })
    })
    .await
    .unwrap();
}

/// One exchange, without a wait between its steps.
fn exchange(fleet: &Fleet) {
    fleet.admin(&["authority", "prepare"]);
    fleet.admin(&["authority", "activate"]);
    fleet.admin(&["operator", "renew"]);
    fleet.admin(&["authority", "retire"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_with_time_between_its_steps_drops_no_session() {
    let mut fleet = Fleet::start("6s").await;
    let join = fleet.join_file("join");
    let agent = fleet.agent("gw-1", "one", Some(&join));
    fleet.status("gw-1", "Online").await;
    let refused = fleet.run(&fleet.path("viewer"), &["authority", "prepare"]);
    assert!(complaint(&refused).contains("this needs admin"), "{}", complaint(&refused));
    for (verb, why) in
        [("activate", "no authority is prepared; first:"), ("retire", "no authority is superseded")]
    {
        let refused = fleet.run(&fleet.path("admin"), &["authority", verb]);
        assert!(complaint(&refused).contains(why), "{}", complaint(&refused));
    }
    assert_eq!(fleet.admin(&["authority", "prepare"]).trim(), "authority/2 prepared");
    // The device learns of it with its next certificate, from the old one still.
    wait_until("two authorities in the device's folder", LIMIT, async || {
        let known = fs::read_to_string(fleet.path("one/identity/ca.pem"))?;
        let count = known.matches("BEGIN CERTIFICATE").count();
        Ok(if count == 2 { Answer::Ready(()) } else { Answer::NotYet(format!("{count}")) })
    })
    .await
    .unwrap();
    authority(&fleet, ["1", "active", "1"]).await;
    assert_eq!(fleet.admin(&["authority", "activate"]).trim(), "authority/2 active");
    authority(&fleet, ["2", "active", "1"]).await;
    assert_eq!(agent.log().unwrap().matches("no session; trying again").count(), 0);
    // Who would be locked out by it gets an answer that says so, and nothing is retired.
    let refused = fleet.run(&fleet.path("admin"), &["authority", "retire"]);
    let told = complaint(&refused);
    assert!(
        told.contains("certificate is of authority 1") && told.contains("reconvene operator renew"),
        "{told}"
    );
    authority(&fleet, ["1", "superseded", "0"]).await;
    fleet.admin(&["operator", "renew"]);
    assert_eq!(fleet.admin(&["authority", "retire"]).trim(), "authority/1 retired");
    fleet.status("gw-1", "Online").await;
    assert_eq!(agent.log().unwrap().matches("no session; trying again").count(), 0);
    // It shows the new one's certificate at the next connection.
    drop(agent);
    let agent = fleet.agent("gw-1", "one", None);
    logs_times(&agent, "INFO agent::session: session", 2).await;
    assert!(!agent.log().unwrap().contains("UnknownCA"), "{}", agent.log_tail());

    // Who did not renew is nobody now, and the exchange outlives the coordinator.
    fleet.restart().await;
    let stale = fleet.run(&fleet.path("viewer"), &["get", "devices"]);
    assert!(!stale.status.success());
    assert!(complaint(&stale).contains("reconvene operator create"), "{}", complaint(&stale));
    fleet.status("gw-1", "Online").await;
    let history = fleet.admin(&["history", "authority/2"]);
    assert!(history.contains("admin  prepare") && history.contains("admin  activate"), "{history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_was_away_through_two_exchanges_comes_back_alone() {
    let mut fleet = Fleet::start("4s").await;
    let join = fleet.join_file("join");
    let devices = ["gw-1", "gw-2"];
    let agent = fleet.agent(devices[0], "one", Some(&join));
    fleet.status("gw-1", "Online").await;
    drop(agent);
    // The other one has its join file still, as a device in the field has.
    let second = fleet.join_file("join-2");
    let agent = fleet.agent(devices[1], "two", Some(&second));
    fleet.status("gw-2", "Online").await;
    drop(agent);
    exchange(&fleet);
    fleet.restart().await;
    exchange(&fleet);
    authority(&fleet, ["3", "active", "0"]).await;
    let before = fs::read_to_string(fleet.path("one/identity/ca.pem")).unwrap();

    let agent = fleet.agent(devices[0], "one", None);
    let _other = fleet.agent(devices[1], "two", Some(&second));
    for device in devices {
        fleet.status(device, "Online").await;
    }
    logs_times(&agent, "certificate obtained", 2).await;
    authority(&fleet, ["3", "active", "2"]).await;
    let after = fs::read_to_string(fleet.path("one/identity/ca.pem")).unwrap();
    assert_ne!(before, after, "it trusts the new one");
    assert_eq!(after, fs::read_to_string(fleet.path("two/identity/ca.pem")).unwrap());
    // A key that was banned meanwhile comes back by nothing.
    fleet.admin(&["device", "ban", "gw-1"]);
    drop(agent);
    exchange(&fleet);
    let agent = fleet.agent(devices[0], "one", None);
    logs(&agent, "the device is banned").await;
}
