//! Any order of events: what must hold of every step, and that each order ends.

use super::*;

/// Something that happens to one device, whether it fits its state or not.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Profiled,
    Derived,
    CannotFit,
    Answers,
    GivesUp,
    Leaves,
    IsBanned,
    Returns,
    Joins,
    TimePasses(u64),
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Profiled),
        8 => Just(Event::Derived),
        1 => Just(Event::CannotFit),
        8 => Just(Event::Answers),
        1 => Just(Event::GivesUp),
        2 => Just(Event::Leaves),
        1 => Just(Event::IsBanned),
        3 => Just(Event::Returns),
        2 => Just(Event::Joins),
        3 => (0..LIMIT_MS / 2).prop_map(Event::TimePasses),
    ]
}

impl Fleet {
    /// What `event` does to the `which`th device.
    pub(super) fn happens(&mut self, event: &Event, which: usize) {
        let count = self.devices.len();
        if let Event::Joins = event {
            let newcomer = format!("d{count}");
            self.devices.extend(Fleet::new(&[], &[&newcomer]).devices);
            return self.set(&newcomer, Outcome::Waiting { reason: "no profile yet".to_owned() });
        }
        let now = self.now;
        let (outcome, presence) = self.devices.values_mut().nth(which % count).unwrap();
        let online = presence.is_online();
        match (event, &outcome.state) {
            (Event::Profiled, Outcome::Waiting { .. }) if online => outcome.state = Outcome::Deriving,
            (Event::Derived, Outcome::Deriving) => outcome.state = Outcome::Fitted,
            (Event::CannotFit, Outcome::Deriving) => outcome.state = no_fit(),
            (Event::Answers, Outcome::Assigned { .. }) if online => {
                outcome.state = Outcome::Active { since_unix_ms: now };
            }
            (Event::GivesUp, Outcome::Assigned { .. }) if online => outcome.state = failed("given up"),
            (Event::Leaves, _) => *presence = Presence::Offline,
            (Event::IsBanned, _) => *presence = Presence::Banned,
            (Event::Returns, _) if !online => *presence = Presence::Online { since_unix_ms: now },
            (Event::TimePasses(ms), _) => self.now += ms,
            _ => {}
        }
    }

    /// Takes a step and checks what must hold of every step.
    pub(super) fn checked_step(&mut self) -> Result<Step, TestCaseError> {
        let before = self.devices.clone();
        let target = |fleet: &Fleet, wave: u32| {
            let counts = before.values().filter(|(outcome, presence)| match outcome.state {
                Outcome::NoFit { .. } => false,
                Outcome::Waiting { .. } => presence.is_online(),
                _ => true,
            });
            fleet.rollout().target(wave, counts.count())
        };
        let step = self.step();
        prop_assert_eq!(
            &step,
            &next(&{ self.at(&before) }.rollout(), self.now),
            "the same state, another step"
        );
        for placement in &step.assign {
            let (outcome, _) = &before[&placement.device];
            prop_assert_eq!(&outcome.state, &Outcome::Fitted, "{} was told already", placement.device);
            let reached = self
                .devices
                .values()
                .filter(|(outcome, _)| outcome.wave.is_some_and(|wave| wave <= placement.wave))
                .filter(|(outcome, _)| !matches!(outcome.state, Outcome::NoFit { .. }))
                .count();
            match self.rollout().is_selection(placement.wave) {
                true => {
                    prop_assert!(self.lab.contains(&placement.device), "{} is not meant", placement.device)
                }
                false => {
                    let target = target(self, placement.wave);
                    prop_assert!(reached <= target, "wave {} overflows", placement.wave);
                }
            }
            for (id, (outcome, presence)) in &self.devices {
                let earlier = outcome.wave.is_some_and(|wave| wave < placement.wave);
                let done = matches!(
                    outcome.state,
                    Outcome::Active { .. } | Outcome::NoFit { .. } | Outcome::Failed { .. }
                );
                prop_assert!(
                    !earlier || done || !presence.is_online(),
                    "{} was told before {id} of an earlier wave answered",
                    placement.device
                );
            }
        }
        let is_broken =
            |(outcome, _): &&(OutcomeRecord, Presence)| matches!(outcome.state, Outcome::Failed { .. });
        if before.values().filter(is_broken).count() + step.expired.len() > self.max_failures {
            prop_assert!(matches!(step.status, Status::Failed { .. }), "{step:?}");
            prop_assert!(step.assign.is_empty());
        }
        Ok(step)
    }

    fn at(&self, devices: &BTreeMap<DeviceId, (OutcomeRecord, Presence)>) -> Fleet {
        Fleet { devices: devices.clone(), ..self.clone() }
    }
}

proptest! {
    #[test]
    fn every_order_of_events_ends(
        (waves, lab) in waves(),
        names in 1usize..7,
        events in prop::collection::vec((event(), any::<usize>()), 0..60),
    ) {
        let names: Vec<_> = (0..names).map(|n| format!("d{n}")).collect();
        let mut fleet = Fleet::of(waves, lab, &names.iter().map(String::as_str).collect::<Vec<_>>());
        for name in &names {
            fleet.set(name, Outcome::Waiting { reason: "no profile yet".to_owned() });
        }
        for (event, which) in &events {
            fleet.happens(event, *which);
            fleet.checked_step()?;
        }
        // From now on everybody is there and does what is asked of it.
        for which in 0..fleet.devices.len() {
            fleet.happens(&Event::Returns, which);
            fleet.happens(&Event::Profiled, which);
            fleet.happens(&Event::Derived, which);
        }
        for _ in 0..=fleet.devices.len() {
            let step = fleet.checked_step()?;
            match step.status {
                Status::Waiting { .. } => all_answer(&mut fleet),
                Status::Failed { .. } => return Ok(()),
                Status::Complete { .. } => {
                    for (outcome, _) in fleet.devices.values() {
                        let ended = matches!(outcome.state, Outcome::Active { .. } | Outcome::NoFit { .. });
                        prop_assert!(ended, "{:?}", outcome.state);
                    }
                    return Ok(());
                }
            }
        }
        prop_assert!(false, "did not end: {}", fleet.tell());
    }

    #[test]
    fn silence_ends_too(waves in prop::collection::vec(0u8..=100, 0..4), names in 1usize..7) {
        let names: Vec<_> = (0..names).map(|n| format!("d{n}")).collect();
        let mut fleet = Fleet::new(&waves, &names.iter().map(String::as_str).collect::<Vec<_>>());
        let told = fleet.checked_step()?;
        prop_assert!(!told.assign.is_empty());
        fleet.now = told.wake_unix_ms.unwrap();
        let step = fleet.checked_step()?;
        prop_assert!(matches!(step.status, Status::Failed { .. }), "{step:?}");
    }
}
