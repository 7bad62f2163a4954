//! Who of those that come after the rollout was complete is told, and why the others are not. Pure.
//!
//! A model that the rollout has brought to its end is given to the next device of its class at once. One that is new is
//! guarded as the rollout was: as many devices as its first wave would have get it, and the others once the gate or an
//! operator has let it pass. Nothing here ends a deployment that was complete: a model that fails is held back from those
//! that have not got it.

use std::collections::BTreeMap;

use proto::{DeviceId, Digest};

use super::gate::Judgement;
use super::plan::Placement;
use super::state::{Late, Rollout};
use super::survey::Survey;
use crate::store::Outcome;

/// Who is told, and who is not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Admitted {
    /// They are told now.
    pub(super) assign: Vec<Placement>,
    /// They are not, for a reason that is not just the number of devices that may change over at one time.
    pub(super) held: Vec<(DeviceId, String)>,
}

/// What a model's devices have come to.
#[derive(Default)]
struct Model {
    /// Of the devices that were told of it.
    told: usize,
    /// Of these, such as gave it up.
    lost: usize,
    /// Ready to be told.
    ready: usize,
}

/// How many more devices may get a model now.
enum Room {
    All,
    /// So many, and the others wait for this.
    Some(usize, String),
}

/// Tells those that may be told of their models, in the order of the rollout.
pub(super) fn admit(rollout: &Rollout<'_>, late: Late<'_>, survey: &Survey<'_>) -> Admitted {
    let last = rollout.wave_count() - 1;
    let mut free = rollout.max_concurrent.saturating_sub(survey.moving_count());
    let mut admitted = Admitted::default();
    for &(device, wave) in survey.untold.iter().take(free) {
        admitted.assign.push(Placement { device: device.clone(), wave });
    }
    free -= admitted.assign.len();
    let models = models(rollout);
    let mut rooms: BTreeMap<Digest, Room> = BTreeMap::new();
    for &(device, presence) in &survey.ready {
        let Some(digest) = rollout.members[device].outcome.digest else { continue };
        let room = rooms.entry(digest).or_insert_with(|| room(rollout, late, digest, &models[&digest]));
        let is_told = match room {
            _ if free == 0 => continue,
            Room::All => true,
            // One that is away would show nothing.
            Room::Some(left, _) => {
                let is_told = *left > 0 && presence.is_online();
                *left -= usize::from(is_told);
                is_told
            }
        };
        match room {
            _ if is_told => {
                admitted.assign.push(Placement { device: device.clone(), wave: last });
                free -= 1;
            }
            Room::Some(_, why) => admitted.held.push((device.clone(), why.clone())),
            Room::All => {}
        }
    }
    admitted
}

fn models(rollout: &Rollout<'_>) -> BTreeMap<Digest, Model> {
    let mut models: BTreeMap<Digest, Model> = BTreeMap::new();
    for member in rollout.members.values() {
        let Some(digest) = member.outcome.digest else { continue };
        let model = models.entry(digest).or_default();
        match (&member.outcome.state, member.outcome.wave) {
            (Outcome::Fitted, None) => model.ready += 1,
            (Outcome::Failed { .. }, Some(_)) => {
                model.told += 1;
                model.lost += 1;
            }
            // One that is fitted again has the digest of what it serves meanwhile.
            (Outcome::Assigned { .. } | Outcome::Active { .. } | Outcome::Fitted, Some(_)) => model.told += 1,
            _ => {}
        }
    }
    models
}

fn room(rollout: &Rollout<'_>, late: Late<'_>, digest: Digest, model: &Model) -> Room {
    let name = rollout.deployment;
    if model.lost > rollout.max_failures {
        let devices = if model.lost == 1 { "1 device".to_owned() } else { format!("{} devices", model.lost) };
        let why = format!("{devices} failed with its model; `reconvene rollout retry {name}` tries again");
        return Room::Some(0, why);
    }
    if late.proven.contains(&digest) || !rollout.is_guarded() {
        return Room::All;
    }
    let approve = format!("`reconvene rollout approve {name}`");
    let why = match late.judged.get(&digest) {
        Some(Judgement::Closed { reason }) => {
            let why = format!("its model did not pass the gate: {reason}; {approve} gives it all the same");
            return Room::Some(0, why);
        }
        Some(Judgement::Open) if !rollout.needs_approval => return Room::All,
        Some(Judgement::Short { requests, wanted }) => format!(
            "its model is new here, others try it first: {requests} of the {wanted} requests that the gate wants; \
             {approve} goes on without"
        ),
        Some(Judgement::Open) | None => {
            format!("its model is new here, others try it first; {approve} gives it to all")
        }
    };
    let first = rollout.target(0, model.told + model.ready).max(1);
    Room::Some(first.saturating_sub(model.told), why)
}
