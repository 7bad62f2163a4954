//! What devices get from deployments, and why: the tables and sentences that several verbs share.

use proto::v1;

use super::error::CliError;
use super::figures::{bytes, count, macs, ms, percent, ratio, short};
use super::table::{Entry, Table};

/// Outcomes under a heading each: the device's name, or the deployment's.
pub(crate) type Headed<'a> = [(&'a str, &'a v1::DeviceOutcome)];

/// A deployment's outcomes, each under its device.
pub(crate) fn by_device(outcomes: &[v1::DeviceOutcome]) -> Vec<(&str, &v1::DeviceOutcome)> {
    outcomes.iter().map(|outcome| (outcome.device_id.as_str(), outcome)).collect()
}

/// What was derived and rolled out: one line per outcome.
pub(crate) fn table(first: &'static str, outcomes: &Headed) -> Table {
    let titles = [
        first, "STATE", "MODEL", "BUDGET", "PARAMS", "MACS", "SIZE", "EST-P50", "EST-P95", "ACCURACY", "WAVE",
    ];
    let mut table = Table::new(titles);
    for (heading, outcome) in outcomes {
        let planned = outcome.planned.as_ref();
        table.row([
            Entry::text(*heading),
            Entry::state(&outcome.state),
            Entry::text(short(&outcome.digest)),
            Entry::text(budget(outcome)),
            Entry::figure_or_dash(planned, |f| count(f.params)),
            Entry::figure_or_dash(planned, |f| macs(f.macs)),
            Entry::figure_or_dash(planned, |f| bytes(f.bytes)),
            Entry::figure_or_dash(outcome.predicted_p50_ms, ms),
            Entry::figure_or_dash(outcome.predicted_p95_ms, ms),
            Entry::figure_or_dash(outcome.test_accuracy, percent),
            Entry::figure(if outcome.wave == 0 { String::new() } else { outcome.wave.to_string() }),
        ]);
    }
    table
}

/// What would be derived, beside the dense network.
pub(crate) fn plan_table(outcomes: &Headed, dense: &v1::Footprint) -> Table {
    let titles = [
        "DEVICE",
        "STATE",
        "BUDGET",
        "PARAMS",
        "RATIO",
        "MACS",
        "SIZE",
        "MEMORY",
        "ACTIVATIONS",
        "EST-P50",
        "EST-P95",
    ];
    let mut table = Table::new(titles);
    let planned = |planned: Option<&v1::Footprint>| {
        [
            Entry::figure_or_dash(planned, |f| count(f.params)),
            Entry::figure_or_dash(planned, |f| ratio(f.params, dense.params)),
            Entry::figure_or_dash(planned, |f| macs(f.macs)),
            Entry::figure_or_dash(planned, |f| bytes(f.bytes)),
            Entry::figure_or_dash(planned, |f| bytes(f.memory_bytes)),
            Entry::figure_or_dash(planned, |f| bytes(f.activation_bytes)),
        ]
    };
    let unknown = || [Entry::figure(""), Entry::figure("")];
    table.row(
        [Entry::text("(dense)"), Entry::text(""), Entry::text("")]
            .into_iter()
            .chain(planned(Some(dense)))
            .chain(unknown()),
    );
    for (heading, outcome) in outcomes {
        let given = [Entry::text(*heading), Entry::state(&outcome.state), Entry::text(budget(outcome))];
        let times = [outcome.predicted_p50_ms, outcome.predicted_p95_ms];
        let times = times.map(|time| Entry::figure_or_dash(time, ms));
        table.row(given.into_iter().chain(planned(outcome.planned.as_ref())).chain(times));
    }
    table
}

/// Why each got what it got: one line per outcome that has a reason; `nobody` where there is none at all.
pub(crate) fn reasons(outcomes: &Headed, nobody: &str) -> String {
    if outcomes.is_empty() {
        return nobody.to_owned();
    }
    let with_reason = outcomes.iter().filter(|(_, outcome)| !outcome.reason.is_empty());
    let lines: Vec<_> =
        with_reason.map(|(heading, outcome)| format!("{heading}: {}", outcome.reason)).collect();
    if lines.is_empty() { "none".to_owned() } else { lines.join("\n") }
}

/// What is said where a deployment's selector matches nothing.
pub(crate) const NO_DEVICE: &str = "no device matches the selector; each gets its plan once it does";

/// `params<=16,809 p95<=0.8ms`. One without ceilings gets the whole network; empty, while it is not known which it has.
pub(crate) fn budget(outcome: &v1::DeviceOutcome) -> String {
    let c = outcome.budget.unwrap_or_default();
    let parts = [
        c.params.map(|n| format!("params<={}", count(n))),
        c.macs.map(|n| format!("macs<={}", macs(n))),
        c.bytes.map(|n| format!("size<={}", bytes(n))),
        c.memory_bytes.map(|n| format!("memory<={}", bytes(n))),
        c.activation_bytes.map(|n| format!("activations<={}", bytes(n))),
        c.latency_p50_ms.map(|limit| format!("p50<={}", ms(limit))),
        c.latency_p95_ms.map(|limit| format!("p95<={}", ms(limit))),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true if outcome.class_id.is_empty() => String::new(),
        true => "none: whole network".to_owned(),
        false => parts.join(" "),
    }
}

/// `4 matched, 2 active, 1 without a fit, 1 failed`, and `1 over its ceiling` where there is one.
pub(crate) fn counts(deployment: &v1::Deployment) -> String {
    let v1::Deployment { matched, active, no_fit, failed, over_ceiling, .. } = deployment;
    let counts = format!("{matched} matched, {active} active, {no_fit} without a fit, {failed} failed");
    match over_ceiling {
        0 => counts,
        1 => counts + ", 1 over its ceiling",
        more => format!("{counts}, {more} over their ceilings"),
    }
}

/// Whether an ended deployment did what was asked of it.
pub(crate) fn verdict(deployment: &v1::Deployment) -> Result<(), CliError> {
    let v1::Deployment { name, phase, message, matched, no_fit, failed, .. } = deployment;
    if *failed > 0 {
        let text = format!(
            "deployment '{name}': {failed} of {matched} devices failed; `reconvene describe deployment {name}` says why"
        );
        return Err(CliError::Failed(text));
    }
    if *no_fit > 0 && no_fit == matched {
        let text = format!(
            "deployment '{name}': no device can meet its budget; `reconvene plan` says what each could meet"
        );
        return Err(CliError::NoFit(text));
    }
    if phase == "Failed" {
        return Err(CliError::Failed(format!("deployment '{name}' failed: {message}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(phase: &str, matched: u32, no_fit: u32, failed: u32) -> v1::Deployment {
        v1::Deployment {
            name: "d".to_owned(),
            phase: phase.to_owned(),
            matched,
            no_fit,
            failed,
            ..Default::default()
        }
    }

    #[test]
    fn a_deployment_is_judged_by_its_devices() {
        assert!(verdict(&ended("Complete", 3, 0, 0)).is_ok());
        assert!(
            verdict(&ended("Complete", 3, 1, 0)).is_ok(),
            "one without a fit is an answer, not a failure"
        );
        assert!(matches!(verdict(&ended("Complete", 3, 3, 0)), Err(CliError::NoFit(_))));
        assert!(matches!(verdict(&ended("Complete", 3, 1, 1)), Err(CliError::Failed(_))));
        assert!(matches!(verdict(&ended("Failed", 3, 0, 0)), Err(CliError::Failed(_))));
        assert!(verdict(&ended("Complete", 0, 0, 0)).is_ok());
    }

    #[test]
    fn devices_over_their_ceilings_are_counted_where_there_are_some() {
        let with = |over_ceiling| counts(&v1::Deployment { over_ceiling, ..ended("Complete", 3, 0, 0) });
        assert_eq!(with(0), "3 matched, 0 active, 0 without a fit, 0 failed");
        assert!(with(1).ends_with("0 failed, 1 over its ceiling"));
        assert!(with(2).ends_with("0 failed, 2 over their ceilings"));
    }

    #[test]
    fn budgets_name_each_ceiling() {
        let ceilings = v1::Ceilings { params: Some(16_809), latency_p95_ms: Some(0.8), ..Default::default() };
        let of = |class: &str, budget| v1::DeviceOutcome {
            class_id: class.to_owned(),
            budget,
            ..Default::default()
        };
        assert_eq!(budget(&of("3f9a", Some(ceilings))), "params<=16,809 p95<=0.800ms");
        assert_eq!(budget(&of("3f9a", Some(v1::Ceilings::default()))), "none: whole network");
        assert_eq!(budget(&of("", Some(v1::Ceilings::default()))), "", "it is not known yet");
        assert_eq!(budget(&of("", None)), "");
    }

    #[test]
    fn where_nobody_gets_anything_there_is_a_reason_too() {
        assert_eq!(reasons(&[], NO_DEVICE), NO_DEVICE);
        let silent = v1::DeviceOutcome::default();
        assert_eq!(reasons(&[("cam-1", &silent)], NO_DEVICE), "none");
    }
}
