use std::collections::BTreeMap;
use std::fmt::Write;

use proptest::prelude::*;
use proto::DeviceId;

use super::{Status, Step, next};
use crate::rollout::state::{Member, Presence, Rollout};
use crate::store::{Outcome, OutcomeRecord};

const LIMIT_MS: u64 = 60_000;

/// A fleet that does what each step says, as the driver would.
struct Fleet {
    waves: Vec<u8>,
    now: u64,
    devices: BTreeMap<DeviceId, (OutcomeRecord, Presence)>,
}

fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn failed(reason: &str) -> Outcome {
    Outcome::Failed { reason: reason.to_owned() }
}

fn no_fit() -> Outcome {
    Outcome::NoFit {
        ceiling: "params".to_owned(),
        allowed: 10.0,
        smallest: 90.0,
        text: "too small".to_owned(),
    }
}

impl Fleet {
    fn new(waves: &[u8], names: &[&str]) -> Self {
        let mut fleet = Self { waves: waves.to_vec(), now: 1000, devices: BTreeMap::new() };
        for name in names {
            fleet.devices.insert(
                id(name),
                (OutcomeRecord::waiting("no profile yet"), Presence::Online { since_unix_ms: 0 }),
            );
            fleet.set(name, Outcome::Fitted);
        }
        fleet
    }

    fn set(&mut self, name: &str, state: Outcome) {
        self.devices.get_mut(&id(name)).unwrap().0.state = state;
    }

    fn active(&mut self, name: &str) {
        self.set(name, Outcome::Active { since_unix_ms: self.now });
    }

    fn presence(&mut self, name: &str, presence: Presence) {
        self.devices.get_mut(&id(name)).unwrap().1 = presence;
    }

    fn rollout(&self) -> Rollout<'_> {
        let members = self
            .devices
            .iter()
            .map(|(id, (outcome, presence))| (id, Member { outcome, presence: *presence }))
            .collect();
        Rollout { deployment: "mnist", waves: &self.waves, settle_limit_ms: LIMIT_MS, members }
    }

    fn step(&mut self) -> Step {
        let step = next(&self.rollout(), self.now);
        for expiry in &step.expired {
            self.devices.get_mut(&expiry.device).unwrap().0.state = failed(&expiry.reason);
        }
        for placement in &step.assign {
            let outcome = &mut self.devices.get_mut(&placement.device).unwrap().0;
            outcome.wave = Some(placement.wave);
            outcome.state = Outcome::Assigned { since_unix_ms: self.now };
        }
        step
    }

    /// The next step as text.
    fn tell(&mut self) -> String {
        let step = self.step();
        let mut text = String::new();
        for placement in &step.assign {
            writeln!(text, "assign {} in wave {}", placement.device, placement.wave).unwrap();
        }
        for expiry in &step.expired {
            writeln!(text, "expire {}: {}", expiry.device, expiry.reason).unwrap();
        }
        match &step.status {
            Status::Waiting { reason } => write!(text, "waiting: {reason}").unwrap(),
            Status::Complete { summary } => write!(text, "complete: {summary}").unwrap(),
            Status::Failed { reason } => write!(text, "failed: {reason}").unwrap(),
        }
        if let Some(wake) = step.wake_unix_ms {
            write!(text, "\nwake at {wake}").unwrap();
        }
        text
    }
}

#[test]
fn dump() {
    let p = |f: &mut Fleet| println!("{}\n--", f.tell());
    println!("== waves");
    let mut f = Fleet::new(&[20, 60], &["a", "b", "c", "d", "e"]);
    p(&mut f);
    p(&mut f);
    for d in ["a", "b", "c", "d", "e"] {
        if matches!(f.devices[&id(d)].0.state, Outcome::Assigned { .. }) {
            f.active(d);
        }
    }
    p(&mut f);
    for d in ["a", "b", "c", "d", "e"] {
        if matches!(f.devices[&id(d)].0.state, Outcome::Assigned { .. }) {
            f.active(d);
        }
    }
    p(&mut f);
    for d in ["a", "b", "c", "d", "e"] {
        if matches!(f.devices[&id(d)].0.state, Outcome::Assigned { .. }) {
            f.active(d);
        }
    }
    p(&mut f);
}
