//! The last profile that was published. Owns its revision, which a restart does not set back.

use proto::HardwareProfile;
use serde::{Deserialize, Serialize};

use crate::state::{self, FileError, StateDir};

/// As it is on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// 0 before the first.
    pub revision: u64,
    profile: Option<HardwareProfile>,
}

impl Published {
    /// The last one; a file that means nothing is none.
    pub fn load(state: &StateDir) -> Result<Self, FileError> {
        Ok(state::unless_damaged(state::read_json(&state.profile()))?.unwrap_or_default())
    }

    /// What the agent found on the device when it looked last; `None` before the first.
    pub fn profile(self) -> Option<HardwareProfile> {
        self.profile
    }

    /// `profile` with its revision: the same as the last one's, or the next, which is then on disk.
    pub(super) fn publish(state: &StateDir, profile: HardwareProfile) -> Result<HardwareProfile, FileError> {
        let last = Self::load(state)?;
        if last.profile.as_ref() == Some(&HardwareProfile { revision: last.revision, ..profile.clone() }) {
            return Ok(HardwareProfile { revision: last.revision, ..profile });
        }
        let revision = last.revision + 1;
        let profile = HardwareProfile { revision, ..profile };
        let next = Self { revision, profile: Some(profile.clone()) };
        state::replace(
            &state.profile(),
            &serde_json::to_vec_pretty(&next).expect("a profile is plain data"),
        )?;
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::engines::Engines;

    #[test]
    fn a_revision_counts_differences_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let profile = super::super::profile(&Engines::rten(1), None, Vec::new());
        let revision =
            |profile: &HardwareProfile| Published::publish(&state, profile.clone()).unwrap().revision;
        assert_eq!(Published::load(&state).unwrap().revision, 0);
        assert_eq!([revision(&profile), revision(&profile)], [1, 1]);
        let throttled = HardwareProfile { cpu_quota_cores: Some(0.25), ..profile.clone() };
        assert_eq!([revision(&throttled), revision(&throttled), revision(&profile)], [2, 2, 3]);
        assert_eq!(Published::load(&state).unwrap().revision, 3);
    }
}
