//! What of a deployment's change is worth an entry in the audit log, which is every device's history too. Pure.

use proto::DeviceId;

use crate::audit::{COORDINATOR, Event};
use crate::store::{AssignmentRecord, DeploymentPhase, DeploymentRecord, Outcome, OutcomeRecord};

/// What the driver changed.
pub(super) fn changes(before: &DeploymentRecord, after: &DeploymentRecord) -> Vec<Event> {
    let devices = after.outcomes.iter().flat_map(|(device, outcome)| {
        outcome_changed(&after.name, device, before.outcomes.get(device), outcome)
    });
    devices.chain(phase_changed(before, after)).collect()
}

/// A device was told.
pub(super) fn assigned(before: Option<&AssignmentRecord>, after: &AssignmentRecord, wave: u32) -> Event {
    let model = |record: &AssignmentRecord| record.digest().short();
    let order = &after.order;
    let told = format!(
        "model {} of {} generation {}, wave {}",
        model(after),
        order.deployment,
        order.deployment_generation,
        wave + 1
    );
    let had = before.map(|before| format!("model {} of {}", model(before), before.order.deployment));
    Event::new(COORDINATOR, "assign", device_subject(&after.device)).changed(had.unwrap_or_default(), told)
}

/// A device said how its assignment ended.
pub(super) fn reported(
    deployment: &str,
    device: &DeviceId,
    before: Option<&Outcome>,
    outcome: &OutcomeRecord,
) -> Option<Event> {
    let (action, after) = match &outcome.state {
        Outcome::Active { .. } => ("serve", format!("model {} of {deployment}", model(outcome))),
        Outcome::Failed { reason } => ("fail", reason.clone()),
        _ => return None,
    };
    let subject = device_subject(device);
    Some(Event::new(subject.clone(), action, subject).changed(before.map(was).unwrap_or_default(), after))
}

/// What a device's outcome was, in a few words.
fn was(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Waiting { reason } => format!("waiting: {reason}"),
        Outcome::Deriving => "its model was being made".to_owned(),
        Outcome::NoFit { .. } => "no network fitted".to_owned(),
        Outcome::Fitted => "its model was ready".to_owned(),
        Outcome::Assigned { .. } => "told, changing over".to_owned(),
        Outcome::Active { .. } => "serving".to_owned(),
        Outcome::Failed { reason } => format!("failed: {reason}"),
    }
}

/// What it was given anew or took back, and what came of it at once. What it serves by that, it says itself.
fn outcome_changed(
    deployment: &str,
    device: &DeviceId,
    before: Option<&OutcomeRecord>,
    after: &OutcomeRecord,
) -> Vec<Event> {
    let step = step(deployment, device, before, after);
    let has_step = step.is_some();
    let state = state_changed(deployment, device, before, after);
    let is_over = matches!(after.state, Outcome::NoFit { .. } | Outcome::Failed { .. });
    step.into_iter().chain(state.filter(|_| is_over || !has_step)).collect()
}

/// It is fitted again, or its network grew or shrank.
fn step(
    deployment: &str,
    device: &DeviceId,
    before: Option<&OutcomeRecord>,
    after: &OutcomeRecord,
) -> Option<Event> {
    let subject = device_subject(device);
    if let Some(breach) = after.breaches.get(before.map_or(0, |before| before.breaches.len())) {
        let had = format!("model {} of {deployment}", model(before.unwrap_or(after)));
        return Some(Event::new(COORDINATOR, "refit", subject).changed(had, breach.text()));
    }
    if let Some(growth) = after.growths.get(before.map_or(0, |before| before.growths.len())) {
        let had = format!("model {} of {deployment}", model(before.unwrap_or(after)));
        return Some(Event::new(COORDINATOR, "grow", subject).changed(had, growth.text()));
    }
    let taken_back = |outcome: &OutcomeRecord| outcome.growths.iter().filter(|g| g.ended.is_some()).count();
    if taken_back(after) <= before.map_or(0, taken_back) {
        return None;
    }
    let given = before.map_or_else(String::new, |before| format!("model {} of {deployment}", model(before)));
    let ended = after.taken_back().map(|(_, why)| why).unwrap_or_default();
    let told = format!("back to model {}: {ended}", model(after));
    Some(Event::new(COORDINATOR, "shrink", subject).changed(given, told))
}

fn state_changed(
    deployment: &str,
    device: &DeviceId,
    before: Option<&OutcomeRecord>,
    after: &OutcomeRecord,
) -> Option<Event> {
    let state = before.map(|before| &before.state);
    if state == Some(&after.state) {
        return None;
    }
    let (subject, had) = (device_subject(device), state.map(was).unwrap_or_default());
    match (&after.state, state) {
        (Outcome::NoFit { text, .. }, _) => {
            Some(Event::new(COORDINATOR, "no-fit", subject).changed(had, format!("{deployment}: {text}")))
        }
        (Outcome::Failed { reason }, _) => {
            Some(Event::new(COORDINATOR, "fail", subject).changed(had, format!("{deployment}: {reason}")))
        }
        (Outcome::Active { .. }, Some(Outcome::Assigned { .. } | Outcome::Failed { .. })) => {
            reported(deployment, device, state, after)
        }
        _ => None,
    }
}

fn phase_changed(before: &DeploymentRecord, after: &DeploymentRecord) -> Option<Event> {
    let action = match &after.phase {
        _ if before.phase == after.phase => return None,
        DeploymentPhase::Complete => "complete",
        DeploymentPhase::Failed { .. } => "fail",
        _ => return None,
    };
    let generation = format!("generation {}", after.generation);
    let subject = format!("deployment/{}", after.name);
    Some(
        Event::new(COORDINATOR, action, subject)
            .changed(generation.clone(), format!("{generation}: {}", after.message)),
    )
}

fn device_subject(device: &DeviceId) -> String {
    format!("device/{device}")
}

fn model(outcome: &OutcomeRecord) -> String {
    outcome.digest.map_or_else(|| "-".to_owned(), |digest| digest.short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refit::Breach;

    #[test]
    fn a_device_that_broke_its_budget_and_fits_no_more_has_an_entry_for_each() {
        let before =
            OutcomeRecord { state: Outcome::Active { since_unix_ms: 1 }, ..OutcomeRecord::waiting("") };
        let breach = Breach { quantile: "p95".to_owned(), measured_ms: 2.0, ceiling_ms: 1.0, requests: 900 };
        let text = "p95 1.0 ms cannot be met".to_owned();
        let (ceiling, allowed, smallest) = ("p95".to_owned(), 1.0, 1.5);
        let mut after = before.clone();
        after.breaches.push(breach);
        let actions = |after: &OutcomeRecord| -> Vec<(String, String)> {
            let events = outcome_changed("d", &"gw-1".parse().unwrap(), Some(&before), after);
            events.into_iter().map(|event| (event.action, event.before)).collect()
        };
        let refit = ("refit".to_owned(), "model - of d".to_owned());
        after.state = Outcome::Deriving;
        assert_eq!(actions(&after), std::slice::from_ref(&refit));
        after.state = Outcome::NoFit { ceiling, allowed, smallest, text };
        assert_eq!(actions(&after), [refit, ("no-fit".to_owned(), "serving".to_owned())]);
    }
}
