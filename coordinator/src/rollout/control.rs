//! What an operator may do to a rollout under way. Pure: from the record and the verb to what becomes of it.

use std::str::FromStr;

use crate::store::{DeploymentPhase, DeploymentRecord, OutcomeRecord};

/// As `reconvene rollout` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Tell no more devices for now.
    Pause,
    /// Go on.
    Resume,
    /// Tell the next wave, whatever the one before has shown.
    Approve,
    /// Tell no more devices for good.
    Abort,
    /// Begin again what failed, or was undone.
    Retry,
    /// Back to the manifest before.
    Undo,
}

/// What becomes of the rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// It is as it was asked to be already.
    Unchanged,
    /// Whether devices are told.
    Pause(bool),
    /// It ends as failed.
    Abort,
    /// Waves before this one have shown enough.
    Approve(u32),
    /// Those that came after it was complete get their models.
    Admit,
    /// Devices that failed after it was complete begin again.
    Again,
    /// This manifest is applied.
    Apply(String),
    /// What was complete before is in force again.
    Undo,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 6] =
        [Self::Pause, Self::Resume, Self::Approve, Self::Abort, Self::Retry, Self::Undo];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Approve => "approve",
            Self::Abort => "abort",
            Self::Retry => "retry",
            Self::Undo => "undo",
        }
    }

    /// What it makes of the deployment, or why it makes no sense now.
    ///
    /// # Errors
    /// What is the matter, and what to do instead, for an operator.
    pub fn on(self, record: &DeploymentRecord) -> Result<Control, String> {
        let name = &record.name;
        let is_failed = matches!(record.phase, DeploymentPhase::Failed { .. });
        match self {
            Self::Pause | Self::Resume | Self::Approve if is_failed => Err(format!(
                "deployment '{name}' has failed; `reconvene rollout retry {name}` begins it again"
            )),
            Self::Pause | Self::Resume => {
                let paused = self == Self::Pause;
                Ok(if record.paused == paused { Control::Unchanged } else { Control::Pause(paused) })
            }
            Self::Approve if !record.held_back().is_empty() => Ok(Control::Admit),
            Self::Approve if record.was_complete || record.phase == DeploymentPhase::Complete => {
                Err(format!("deployment '{name}' is complete: nobody waits for your word"))
            }
            Self::Approve if !record.is_told() => Err(format!(
                "no device was told of deployment '{name}' yet: there is nothing to judge its model by"
            )),
            Self::Approve => {
                let approved = record.reached() + 1;
                Ok(if record.approved >= approved { Control::Unchanged } else { Control::Approve(approved) })
            }
            Self::Abort if is_failed => Ok(Control::Unchanged),
            Self::Abort if record.phase == DeploymentPhase::Complete => Err(format!(
                "deployment '{name}' is complete: there is nothing to abort; `reconvene rollout undo {name}` goes back"
            )),
            Self::Abort => Ok(Control::Abort),
            Self::Retry if is_failed => Ok(Control::Apply(record.text.clone())),
            Self::Retry if record.was_complete && record.outcomes.values().any(OutcomeRecord::is_failed) => {
                Ok(Control::Again)
            }
            Self::Retry => match &record.undone {
                Some(undone) if !undone.text.is_empty() => Ok(Control::Apply(undone.text.clone())),
                Some(_) | None => Err(format!("deployment '{name}' has not failed")),
            },
            Self::Undo if record.way_back().is_some() => Ok(Control::Undo),
            Self::Undo => Err(format!("deployment '{name}' has no other manifest that was complete before")),
        }
    }
}

impl FromStr for Verb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|verb| verb.name() == text)
            .ok_or_else(|| format!("'{text}' is no verb of a rollout; allowed: {}", names()))
    }
}

#[cfg(test)]
mod tests {
    use proto::{DeviceId, Digest, Generation};

    use super::*;
    use crate::manifest::DeploymentManifest;
    use crate::store::{Before, Outcome, Undone};

    const TEXT: &str = "
apiVersion: reconvene/v1
kind: Deployment
metadata: { name: fashion }
spec:
  network: resnet20
  dataset: { format: idx, path: /data }
";

    fn record(phase: DeploymentPhase, paused: bool) -> DeploymentRecord {
        let manifest = DeploymentManifest::read(TEXT).unwrap();
        let dataset = crate::manifest::DatasetSpec {
            format: crate::manifest::DatasetFormat::Idx,
            path: "/data".into(),
            test_share: None,
        };
        DeploymentRecord {
            name: "fashion".to_owned(),
            generation: Generation(3),
            manifest: manifest.with_dataset(dataset),
            manifest_digest: Digest::of(b""),
            text: TEXT.to_owned(),
            applied_unix_ms: 0,
            phase,
            message: String::new(),
            outcomes: Default::default(),
            paused,
            was_complete: false,
            proven: Default::default(),
            before: None,
            undone: None,
            undo_due: false,
            approved: 0,
        }
    }

    #[test]
    fn each_verb_does_what_it_says_or_says_why_not() {
        let (rolling, complete) = (DeploymentPhase::RollingOut, DeploymentPhase::Complete);
        let failed = DeploymentPhase::Failed { reason: "why".to_owned() };
        let again = || Control::Apply(TEXT.to_owned());
        let table = [
            (Verb::Pause, &rolling, false, Ok(Control::Pause(true))),
            (Verb::Pause, &rolling, true, Ok(Control::Unchanged)),
            (Verb::Resume, &rolling, true, Ok(Control::Pause(false))),
            (Verb::Resume, &rolling, false, Ok(Control::Unchanged)),
            (Verb::Pause, &complete, false, Ok(Control::Pause(true))),
            (Verb::Pause, &failed, false, Err("rollout retry fashion")),
            (Verb::Abort, &rolling, false, Ok(Control::Abort)),
            (Verb::Abort, &failed, false, Ok(Control::Unchanged)),
            (Verb::Abort, &complete, false, Err("rollout undo fashion")),
            (Verb::Retry, &failed, false, Ok(again())),
            (Verb::Retry, &rolling, false, Err("has not failed")),
        ];
        for (verb, phase, paused, expected) in table {
            let got = verb.on(&record(phase.clone(), paused));
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{verb:?} {phase:?} {paused}"),
                (Err(got), Err(part)) => assert!(got.contains(part), "{verb:?} {phase:?}: {got}"),
                (got, expected) => panic!("{verb:?} {phase:?}: {got:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn undo_goes_back_to_another_manifest_only() {
        let mut record = record(DeploymentPhase::RollingOut, false);
        let before = |digest| {
            let (manifest, text) = (record.manifest.clone(), "older".to_owned());
            Some(Box::new(Before { manifest, manifest_digest: digest, text, outcomes: Default::default() }))
        };
        let (other, same) = (before(Digest::of(b"other")), before(record.manifest_digest));
        for (before, goes_back) in [(other, true), (same, false), (None, false)] {
            record.before = before;
            match Verb::Undo.on(&record) {
                Ok(control) => assert!(goes_back && control == Control::Undo),
                Err(why) => assert!(!goes_back && why.contains("no other manifest"), "{why}"),
            }
        }
    }

    #[test]
    fn what_was_undone_is_tried_again_on_an_operators_word() {
        let mut record = record(DeploymentPhase::Complete, false);
        let undone = |text: &str| {
            Some(Undone { generation: Generation(1), reason: "late".to_owned(), text: text.to_owned() })
        };
        record.undone = undone("the later one");
        assert_eq!(Verb::Retry.on(&record), Ok(Control::Apply("the later one".to_owned())));
        // An older coordinator did not write which it was.
        record.undone = undone("");
        assert!(Verb::Retry.on(&record).unwrap_err().contains("has not failed"));
    }

    #[test]
    fn a_wave_is_approved_once_it_was_told() {
        let mut record = record(DeploymentPhase::RollingOut, false);
        assert!(Verb::Approve.on(&record).unwrap_err().contains("nothing to judge"));
        let device: DeviceId = "gw-1".parse().unwrap();
        record.outcomes.insert(
            device,
            OutcomeRecord { wave: Some(1), state: Outcome::Fitted, ..OutcomeRecord::waiting("") },
        );
        assert_eq!(Verb::Approve.on(&record), Ok(Control::Approve(2)));
        record.approved = 2;
        assert_eq!(Verb::Approve.on(&record), Ok(Control::Unchanged));
        record.phase = DeploymentPhase::Complete;
        assert!(Verb::Approve.on(&record).unwrap_err().contains("nobody waits"));
    }
}
