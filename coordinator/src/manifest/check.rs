//! What the values of a manifest may be, beyond their types. Owns the rules and their wording; never sees the text.

use std::ops::RangeInclusive;

use proto::{ByteSize, DeviceId};
use pruner_core::plan::WidthPolicy;

use super::dataset::DatasetFields;
use super::{
    API_VERSION, BudgetRule, DatasetFormat, DatasetRef, DatasetSpec, DeploymentManifest, DeploymentSpec,
    GateSpec, GrowSpec, KIND, Limit, ProbationSpec, PruningSpec, RolloutSpec, Selector, TrainerKind,
    TrainingSpec, Wave,
};
use crate::calibration::MIN_REQUESTS;
use crate::fitting::LATENCY_HEADROOM;

/// The first value that is not allowed: its path, and what is wrong with it.
pub(super) fn problem(manifest: &DeploymentManifest<DatasetFields>) -> Option<(String, String)> {
    let spec = &manifest.spec;
    header(manifest)
        .or_else(|| network(&spec.network))
        .or_else(|| dataset(&spec.dataset))
        .or_else(|| pruning(&spec.pruning))
        .or_else(|| training(&spec.training))
        .or_else(|| budgets(&spec.budgets))
        .or_else(|| rollout(&spec.rollout))
        .or_else(|| grow(spec))
}

type Problem = Option<(String, String)>;

fn refuse_if(is_wrong: bool, field: &str, problem: impl FnOnce() -> String) -> Problem {
    is_wrong.then(|| (field.to_owned(), problem()))
}

fn header(manifest: &DeploymentManifest<DatasetFields>) -> Problem {
    let DeploymentManifest { api_version, kind, metadata, .. } = manifest;
    refuse_if(api_version != API_VERSION, "apiVersion", || {
        format!("'{api_version}' is not known; allowed: {API_VERSION}")
    })
    .or_else(|| refuse_if(kind != KIND, "kind", || format!("'{kind}' is not known; allowed: {KIND}")))
    .or_else(|| {
        // Deployments are named by the same rule as devices.
        refuse_if(metadata.name.parse::<DeviceId>().is_err(), "metadata.name", || {
            let name = &metadata.name;
            format!("'{name}' is not 1 to 63 of a-z 0-9 - . with a letter or digit at both ends")
        })
    })
}

fn network(name: &str) -> Problem {
    // Whether there is one of that name is the coordinator's to say: operators bring networks of their own.
    refuse_if(name.parse::<DeviceId>().is_err(), "spec.network", || {
        format!("'{name}' is not 1 to 63 of a-z 0-9 - . with a letter or digit at both ends")
    })
}

fn dataset(fields: &DatasetFields) -> Problem {
    match fields.meant() {
        None => {
            let gap = match fields {
                DatasetFields { name: Some(_), .. } => "stands for the files: give it alone",
                DatasetFields { path: None, .. } => "needs a path, or the name of an added dataset",
                _ => "needs a format: idx, cifar10, cifar100 or folder",
            };
            let field = if fields.name.is_some() { "spec.dataset.name" } else { "spec.dataset" };
            Some((field.to_owned(), gap.to_owned()))
        }
        Some(DatasetRef::Named { name }) => {
            refuse_if(name.parse::<DeviceId>().is_err(), "spec.dataset.name", || {
                format!("'{name}' is not 1 to 63 of a-z 0-9 - . with a letter or digit at both ends")
            })
        }
        Some(DatasetRef::Files(spec)) => files(&spec),
    }
}

fn files(spec: &DatasetSpec) -> Problem {
    let DatasetSpec { format, ref path, test_share } = *spec;
    refuse_if(path.as_os_str().is_empty(), "spec.dataset.path", || "is empty".into()).or_else(|| {
        let has_own = test_share.is_some() && format != DatasetFormat::Folder;
        refuse_if(has_own, "spec.dataset.testShare", || {
            format!("is not allowed with format {format}, which has test images of its own; only with folder")
        })
    })
}

/// Rounds of scoring: up to a hundred times as many as are usual. Every worker is busy with them until they are done.
const ROUNDS: RangeInclusive<u32> = 1..=10_000;

fn pruning(spec: &PruningSpec) -> Problem {
    let PruningSpec { rounds, density, exponent, min_channels, .. } = *spec;
    let field = "spec.pruning.rounds";
    refuse_if(!ROUNDS.contains(&rounds), field, || {
        format!("{rounds} is not allowed; from 1 to {}", ROUNDS.end())
    })
    .or_else(|| {
        refuse_if(!(density > 0.0 && density <= 1.0), "spec.pruning.density", || {
            format!("{density} is not allowed; more than 0, at most 1")
        })
    })
    .or_else(|| {
        let allowed = WidthPolicy::EXPONENTS.contains(&exponent);
        refuse_if(!allowed, "spec.pruning.exponent", || {
            format!("{exponent} is not allowed; from 0 to 4, as in 0.25")
        })
    })
    .or_else(|| {
        refuse_if(min_channels == 0, "spec.pruning.minChannels", || "0 is not allowed; at least 1".into())
    })
}

fn training(spec: &TrainingSpec) -> Problem {
    refuse_if(spec.images == Some(0), "spec.training.images", || "must be at least 1".into()).or_else(|| {
        let (setting, allowed) = spec.recipe().problem()?;
        Some((format!("spec.training.{}", camel_case(setting)), format!("must be {allowed}")))
    })
}

/// `learning_rate` as a manifest spells it.
fn camel_case(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| name + &part[..1].to_uppercase() + &part[1..])
}

fn budgets(rules: &[BudgetRule]) -> Problem {
    rules.iter().enumerate().find_map(|(index, rule)| {
        let field = |name: &str| format!("spec.budgets.{index}.{name}");
        let nothing = |limit: Option<Limit<ByteSize>>| limit == Some(Limit::Absolute(ByteSize(0)));
        refuse_if(nothing(rule.size), &field("size"), || "must be above 0".into())
            .or_else(|| refuse_if(nothing(rule.memory), &field("memory"), || "must be above 0".into()))
            .or_else(|| {
                refuse_if(nothing(rule.activations), &field("activations"), || "must be above 0".into())
            })
            .or_else(|| unreachable_rule(&rules[..index], rule, index))
    })
}

/// A rule that can never be a device's first match would starve silently, so it is refused.
fn unreachable_rule(earlier: &[BudgetRule], rule: &BudgetRule, index: usize) -> Problem {
    let first = earlier.iter().position(|other| other.selector.covers(&rule.selector))?;
    let problem = format!(
        "rule {} of the list never applies: rule {} already matches all of its devices; put the narrower one first",
        index + 1,
        first + 1,
    );
    Some((format!("spec.budgets.{index}"), problem))
}

/// One that could tell nobody, whatever the fleet, is a mistake.
fn waves(waves: &[Wave]) -> Problem {
    let is_rising = |numbers: Vec<u32>| numbers.windows(2).all(|pair| pair[0] < pair[1]);
    let percents = waves.iter().filter_map(|wave| match wave {
        Wave::Percent(percent) => Some(u32::from(*percent)),
        Wave::Count(_) | Wave::Selector(_) => None,
    });
    let counts = waves.iter().filter_map(|wave| match wave {
        Wave::Count(count) => Some(*count),
        Wave::Percent(_) | Wave::Selector(_) => None,
    });
    let is_possible = |(index, wave): (usize, &Wave)| match wave {
        Wave::Percent(percent) => (1..=100).contains(percent),
        Wave::Count(count) => *count > 0,
        Wave::Selector(selector) => {
            let covers = |earlier: &Wave| matches!(earlier, Wave::Selector(it) if it.covers(selector));
            *selector != Selector::default() && !waves[..index].iter().any(covers)
        }
    };
    // Nobody is left after all of them.
    let whole = waves.iter().position(|wave| *wave == Wave::Percent(100));
    let is_sound = whole.is_none_or(|whole| whole + 1 == waves.len())
        && is_rising(percents.collect())
        && is_rising(counts.collect())
        && waves.iter().enumerate().all(is_possible);
    refuse_if(!is_sound, "spec.rollout.waves", || {
        let written: Vec<String> = waves.iter().map(Wave::to_string).collect();
        format!(
            "[{}] is not allowed; percentages from 1 to 100 and counts from 1, each above the one before, and selectors that match \
             something new, as in [{{ selector: site=lab }}, {{ count: 3 }}, 25, 100]",
            written.join(", ")
        )
    })
}

fn rollout(spec: &RolloutSpec) -> Problem {
    waves(&spec.waves).or_else(|| {
        let spans = [
            ("spec.rollout.bake", spec.bake),
            ("spec.rollout.probation.duration", spec.probation.duration),
            ("spec.rollout.probation.period", spec.probation.period),
        ];
        spans.into_iter().find_map(|(field, span)| {
            refuse_if(span.is_too_long(), field, || {
                format!("{} is too long; at most 49d 17h", span.in_days())
            })
        })
    })
    .or_else(|| gate(spec.gate.as_ref()?))
    .or_else(|| {
        refuse_if(spec.max_concurrent == Some(0), "spec.rollout.maxConcurrent", || {
            "0 is not allowed; at least 1, or leave it out".into()
        })
    })
    .or_else(|| {
        refuse_if(spec.probation.period.millis() == 0, "spec.rollout.probation.period", || {
            "0 is not allowed; as in 10s".into()
        })
    })
    .or_else(|| {
        let ProbationSpec { duration, period, failure_threshold } = spec.probation;
        let shortest = u64::from(period.millis()) * u64::from(failure_threshold);
        let is_too_short = duration.millis() > 0 && u64::from(duration.millis()) < shortest;
        refuse_if(is_too_short, "spec.rollout.probation.duration", || {
            format!(
                "{duration} has no room for {failure_threshold} looks, {period} apart; longer, or 0s for none"
            )
        })
    })
    .or_else(|| {
        refuse_if(spec.probation.failure_threshold == 0, "spec.rollout.probation.failureThreshold", || {
            "0 is not allowed; at least 1".into()
        })
    })
}

fn gate(spec: &GateSpec) -> Problem {
    let GateSpec { latency_increase, errors, min_requests } = *spec;
    let increase = latency_increase.unwrap_or(0.0);
    refuse_if(!(0.0..=1000.0).contains(&increase), "spec.rollout.gate.latencyIncrease", || {
        format!("{increase} is not allowed; percent, from 0 to 1000, as in 10")
    })
    .or_else(|| {
        refuse_if(!(0.0..=100.0).contains(&errors), "spec.rollout.gate.errors", || {
            format!("{errors} is not allowed; percent, from 0 to 100, as in 1")
        })
    })
    .or_else(|| {
        refuse_if(min_requests == 0, "spec.rollout.gate.minRequests", || {
            "0 is not allowed; at least 1".into()
        })
    })
}

/// What makes devices grow by themselves, and what nobody may grow under.
fn grow<D>(spec: &DeploymentSpec<D>) -> Problem {
    let GrowSpec { when_room, at_most_every, at_least_requests } = spec.rollout.grow?;
    let kept = LATENCY_HEADROOM * 100.0;
    refuse_if(!(kept..=95.0).contains(&when_room), "spec.rollout.grow.whenRoom", || {
        format!(
            "{when_room} is not allowed; percent, from {kept}, which plans leave free anyway, to 95, as in 30"
        )
    })
    .or_else(|| {
        refuse_if(at_most_every.0.is_zero(), "spec.rollout.grow.atMostEvery", || {
            "0 is not allowed; as in 1d".into()
        })
    })
    .or_else(|| {
        refuse_if(at_least_requests < MIN_REQUESTS, "spec.rollout.grow.atLeastRequests", || {
            format!("{at_least_requests} is not allowed; at least {MIN_REQUESTS}")
        })
    })
    .or_else(|| {
        refuse_if(spec.rollout.approval, "spec.rollout.grow", || {
            "is not allowed with approval: networks grow without asking; leave one of them out".into()
        })
    })
    .or_else(|| {
        refuse_if(spec.training.trainer == TrainerKind::External, "spec.rollout.grow", || {
            "is not allowed with trainer external: somebody would have to train each larger network".into()
        })
    })
}
