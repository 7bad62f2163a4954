//! Which authorities the fleet has had, and what each counts for. Pure: a step makes a new value, or says why not.
//!
//! Each authority's key is also certified by the authority before it (a cross-certificate). The coordinator shows these with its own
//! certificate, so that whoever trusts an authority that has gone since finds its way to the one that issues now.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::caller::Issuer;

/// Predecessors whose trust leads to the present authority. rustls follows six certificates between one that is shown and
/// one that is trusted.
pub const REACH: usize = 6;

/// What an authority counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is made known with every certificate, and issues none yet.
    Prepared,
    /// It issues.
    Active,
    /// It issues no more; what it issued is taken.
    Superseded,
    /// What it issued is refused.
    Retired,
}

impl Phase {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Superseded => "superseded",
            Self::Retired => "retired",
        }
    }
}

/// From one authority to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make the next one, and make it known.
    Prepare,
    /// Have it issue.
    Activate,
    /// Refuse what those before it issued.
    Retire,
}

impl FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "prepare" => Ok(Self::Prepare),
            "activate" => Ok(Self::Activate),
            "retire" => Ok(Self::Retire),
            other => Err(format!("'{other}' is no verb; allowed: prepare, activate, retire")),
        }
    }
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Counts from 1.
    pub number: u32,
    /// What it counts for.
    pub phase: Phase,
    /// When it came to that, milliseconds since 1970.
    pub since_unix_ms: u64,
    /// Its certificate, self-signed, PEM.
    pub certificate: String,
    /// The same key certified by the authority before it, PEM; the first has none.
    pub cross: Option<String>,
}

/// Every authority, oldest first; exactly one is active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession(Vec<Member>);

/// Why a step is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// One at a time.
    #[error("authority {0} is prepared already; next: reconvene authority activate")]
    Prepared(u32),
    /// It has to be made known first.
    #[error("no authority is prepared; first: reconvene authority prepare")]
    NothingPrepared,
    /// There is one authority, and it issues.
    #[error("no authority is superseded; first: reconvene authority prepare, then activate")]
    NothingSuperseded,
    /// Who asks would have no certificate that counts.
    #[error(
        "your own certificate is of authority {0}, and would be refused from then on; nothing was changed; first: reconvene operator \
         renew, as every operator who has one of it"
    )]
    Own(u32),
    /// Who asks may have no certificate that counts.
    #[error(
        "which authority your own certificate is of is not known, and it would be refused from then on; nothing was changed; first: \
         reconvene operator renew"
    )]
    OwnUnknown,
}

impl Succession {
    /// Of the first authority.
    pub fn of(certificate: String, since_unix_ms: u64) -> Self {
        let first = Member { number: 1, phase: Phase::Active, since_unix_ms, certificate, cross: None };
        Self(vec![first])
    }

    /// Whether this is one that the steps can lead to.
    pub fn is_sound(&self) -> bool {
        let numbered = self.0.iter().zip(1..).all(|(member, number)| member.number == number);
        let crossed = self.0.iter().skip(1).all(|member| member.cross.is_some());
        let active = self.0.iter().filter(|member| member.phase == Phase::Active).count();
        numbered && crossed && active == 1
    }

    /// Oldest first.
    pub fn members(&self) -> &[Member] {
        &self.0
    }

    /// The one that issues.
    pub fn active(&self) -> &Member {
        self.find(Phase::Active).expect("the steps leave one that is active")
    }

    /// The one that is made known.
    pub fn prepared(&self) -> Option<&Member> {
        self.find(Phase::Prepared)
    }

    /// The one that `step`, taken last, was about.
    pub fn changed_by(&self, step: Step) -> &Member {
        let phase = match step {
            Step::Prepare => Phase::Prepared,
            Step::Activate => Phase::Active,
            Step::Retire => Phase::Retired,
        };
        self.0.iter().rev().find(|member| member.phase == phase).unwrap_or_else(|| self.active())
    }

    fn find(&self, phase: Phase) -> Option<&Member> {
        self.0.iter().find(|member| member.phase == phase)
    }

    /// What number the next one has.
    pub fn next_number(&self) -> u32 {
        self.0.last().map_or(1, |last| last.number + 1)
    }

    /// With the next authority, which is known from now on.
    ///
    /// # Errors
    /// When another is known and not active yet.
    pub fn prepare(&self, certificate: String, cross: String, now_unix_ms: u64) -> Result<Self, StepError> {
        self.may_prepare()?;
        let mut next = self.clone();
        next.0.push(Member {
            number: self.next_number(),
            phase: Phase::Prepared,
            since_unix_ms: now_unix_ms,
            certificate,
            cross: Some(cross),
        });
        Ok(next)
    }

    /// Whether the next one may be made.
    ///
    /// # Errors
    /// When another is known and not active yet.
    pub fn may_prepare(&self) -> Result<(), StepError> {
        self.prepared().map_or(Ok(()), |prepared| Err(StepError::Prepared(prepared.number)))
    }

    /// The prepared one issues from now on.
    ///
    /// # Errors
    /// When there is none.
    pub fn activate(&self, now_unix_ms: u64) -> Result<Self, StepError> {
        self.prepared().ok_or(StepError::NothingPrepared)?;
        Ok(self.turned(now_unix_ms, |phase| match phase {
            Phase::Prepared => Phase::Active,
            Phase::Active | Phase::Superseded => Phase::Superseded,
            Phase::Retired => Phase::Retired,
        }))
    }

    /// What the superseded ones have issued is refused from now on. Who asks is not locked out by it: `own` issued the certificate
    /// that he showed.
    ///
    /// # Errors
    /// When there is none, or `own` is one of them.
    pub fn retire(&self, own: Issuer, now_unix_ms: u64) -> Result<Self, StepError> {
        self.find(Phase::Superseded).ok_or(StepError::NothingSuperseded)?;
        let next = self.turned(now_unix_ms, |phase| match phase {
            Phase::Superseded | Phase::Retired => Phase::Retired,
            Phase::Prepared => Phase::Prepared,
            Phase::Active => Phase::Active,
        });
        match own {
            Issuer::Authority(number) if next.is_retired(number) => Err(StepError::Own(number)),
            Issuer::Unknown => Err(StepError::OwnUnknown),
            Issuer::Authority(_) | Issuer::Nobody => Ok(next),
        }
    }

    fn turned(&self, now_unix_ms: u64, into: impl Fn(Phase) -> Phase) -> Self {
        let turn = |member: &Member| {
            let phase = into(member.phase);
            let since_unix_ms = if phase == member.phase { member.since_unix_ms } else { now_unix_ms };
            Member { phase, since_unix_ms, ..member.clone() }
        };
        Self(self.0.iter().map(turn).collect())
    }

    /// Those by which a device knows its coordinator: PEM, one after another.
    pub fn told(&self) -> String {
        let is_told = |member: &&Member| matches!(member.phase, Phase::Active | Phase::Prepared);
        self.0.iter().filter(is_told).map(|member| member.certificate.as_str()).collect()
    }

    /// Those whose certificates the coordinator takes, PEM.
    pub fn taken(&self) -> impl Iterator<Item = &str> {
        let is_taken = |member: &&Member| member.phase != Phase::Retired;
        self.0.iter().filter(is_taken).map(|member| member.certificate.as_str())
    }

    /// Whether what the `number`th issued is refused.
    pub fn is_retired(&self, number: u32) -> bool {
        self.0.iter().any(|member| member.number == number && member.phase == Phase::Retired)
    }

    /// How many authorities' certificates are refused.
    pub fn retired(&self) -> usize {
        self.0.iter().filter(|member| member.phase == Phase::Retired).count()
    }

    /// The way from the active one back to those before it, PEM.
    pub fn crosses(&self) -> impl Iterator<Item = &str> {
        let active = self.active().number;
        let behind = self.0.iter().rev().filter(move |member| member.number <= active);
        behind.filter_map(|member| member.cross.as_deref()).take(REACH)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Event {
        Prepare,
        Activate,
        Retire,
        /// A device gets a certificate.
        Renew(usize),
        /// The coordinator's process ends: what it knows is what it wrote.
        Restart,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Prepare),
            Just(Event::Activate),
            Just(Event::Retire),
            (0..3usize).prop_map(Event::Renew),
            Just(Event::Restart),
        ]
    }

    /// What a device knows: whom it trusts, and which authority issued what it shows.
    #[derive(Clone)]
    struct Device {
        trusts: BTreeSet<u32>,
        shows: u32,
        /// Which one issued, when it was there last.
        seen: u32,
    }

    fn numbers<'a>(pems: impl Iterator<Item = &'a str>) -> BTreeSet<u32> {
        let words = pems.flat_map(str::split_whitespace).map(|word| word.parse().unwrap());
        words.collect()
    }

    impl Device {
        fn renewed(now: &Succession) -> Self {
            let active = now.active().number;
            Self { trusts: numbers([now.told().as_str()].into_iter()), shows: active, seen: active }
        }

        /// Whether a path leads from the coordinator's certificate to one that the device trusts. A cross-certificate is `N by N-1`.
        fn reaches(&self, now: &Succession) -> bool {
            let mut issuers = BTreeSet::from([now.active().number]);
            for cross in now.crosses() {
                let (number, by) = cross.split_once(" by ").unwrap();
                assert!(issuers.contains(&number.parse().unwrap()), "{cross} leads nowhere");
                issuers.insert(by.parse().unwrap());
            }
            !issuers.is_disjoint(&self.trusts)
        }
    }

    proptest! {
        #[test]
        fn whoever_was_there_within_reach_finds_the_way_back(
            events in prop::collection::vec(event(), 0..60),
        ) {
            let mut now = Succession::of("1\n".to_owned(), 0);
            let mut devices = vec![Device::renewed(&now); 3];
            for (event, at) in events.into_iter().zip(1..) {
                let before = now.clone();
                let number = now.next_number();
                let step = match event {
                    Event::Prepare => now.prepare(format!("{number}\n"), format!("{number} by {}", number - 1), at),
                    Event::Activate => now.activate(at),
                    Event::Retire => now.retire(Issuer::Nobody, at),
                    Event::Renew(device) => {
                        prop_assume!(devices[device].reaches(&now));
                        devices[device] = Device::renewed(&now);
                        Ok(now.clone())
                    }
                    Event::Restart => Ok(serde_json::from_str(&serde_json::to_string(&now).unwrap()).unwrap()),
                };
                // What is refused changes nothing, and nothing but a step is refused.
                now = step.unwrap_or(before);
                prop_assert!(now.is_sound());
                prop_assert!(numbers(now.taken()).contains(&now.active().number));
                for device in &devices {
                    let missed = now.active().number.saturating_sub(device.seen);
                    prop_assert!(device.reaches(&now) || missed as usize > REACH);
                    // One that was there since the last activation is let in whatever was retired.
                    let is_taken = numbers(now.taken()).contains(&device.shows);
                    prop_assert!(is_taken || device.seen < now.active().number);
                }
            }
        }
    }

    #[test]
    fn steps_come_in_their_order() {
        let one = Succession::of("1\n".to_owned(), 0);
        assert_eq!(one.activate(1), Err(StepError::NothingPrepared));
        assert_eq!(one.retire(Issuer::Nobody, 1), Err(StepError::NothingSuperseded));
        let two = one.prepare("2\n".to_owned(), "2 by 1".to_owned(), 1).unwrap();
        assert_eq!(two.may_prepare(), Err(StepError::Prepared(2)));
        assert_eq!(
            (two.told().as_str(), two.crosses().count()),
            ("1\n2\n", 0),
            "it is known before it issues"
        );
        let two = two.activate(2).unwrap();
        assert_eq!(two.taken().collect::<Vec<_>>(), ["1\n", "2\n"]);
        assert_eq!(two.crosses().collect::<Vec<_>>(), ["2 by 1"]);
        assert_eq!(two.retire(Issuer::Authority(1), 3), Err(StepError::Own(1)), "who asks would be out");
        assert_eq!(two.retire(Issuer::Unknown, 3), Err(StepError::OwnUnknown));
        assert_eq!(two.retire(Issuer::Nobody, 3), two.retire(Issuer::Authority(2), 3));
        let two = two.retire(Issuer::Authority(2), 3).unwrap();
        assert_eq!(two.taken().collect::<Vec<_>>(), ["2\n"]);
        let phases: Vec<_> = two.members().iter().map(|m| (m.phase.name(), m.since_unix_ms)).collect();
        assert_eq!(phases, [("retired", 3), ("active", 2)]);
    }
}
