//! Which plan each device gets: like devices are fitted together, to the slowest of them. Pure; makes no artifact.

pub(crate) mod reach;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use proto::{DeviceId, HardwareProfile};
use pruner_core::Graph;
use pruner_core::budget::{Budget, Ceiling};
use pruner_core::graph::cost::{Cost, cost};
use pruner_core::latency::{Latency, LatencyError, LatencyModel};
use pruner_core::plan::{PlanError, PrunePlan};
use pruner_core::surgery::SurgeryError;

use crate::budgeting::{self, BudgetError, DenseFigures};
use crate::class::{ClassId, ClassKey};
use crate::corrections::Corrections;
use crate::derive::Subject;
use crate::manifest::DeploymentSpec;
use crate::probes::ProbeSet;
use crate::store::DeviceRecord;

pub use reach::{Ground, Held, REASON, Unreachable};

/// Widths need be multiples of nothing: rten, the agents' engine, took the same time for plans of one size whether their
/// widths were multiples of 1, 4 or 16 (it works on vectors of positions, not of channels), and rounding only loses size.
const ROUND_TO: usize = 1;

/// Share of a latency ceiling that plans leave free: it covers a p95 of a quarter above its prediction. On the unthrottled
/// one-thread device of the demonstration a fitted network's p95 was 2 % below to 29 % above it in four runs; why the
/// prediction is low there, when it is good to a few percent in `examples/latency_fit`, is not known.
pub const LATENCY_HEADROOM: f64 = 0.2;

/// A device to be fitted.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which.
    pub id: DeviceId,
    /// For the budget rules.
    pub labels: BTreeMap<String, String>,
    /// Its class.
    pub class: ClassKey,
    /// What it measured; covers every probe.
    pub profile: HardwareProfile,
    /// What it broke, where it is fitted again.
    pub broken: Option<Broken>,
    /// What it has, where it has room for more.
    pub growing: Option<Growing>,
}

/// What a device showed that broke its budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Broken {
    /// The budget: it stands, whatever is learned of the device.
    pub budget: Budget,
    /// Measured over predicted, before any correction, of the time that broke it.
    pub factor: f64,
}

/// The least gain in multiply-accumulates that is worth a training and a change of models.
pub const LEAST_GAIN: f64 = 1.1;

/// The most in one step: what was measured of one network says little of one many times its size.
pub const MOST_GAIN: f64 = 2.0;

/// What a device has that shows room under its latency ceilings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growing {
    /// The budget: it stands.
    pub budget: Budget,
    /// Measured over predicted, before any correction.
    pub factor: f64,
    /// Multiply-accumulates of what it has.
    pub macs: u64,
}

impl Growing {
    /// Whether a network of so many multiply-accumulates is worth the change, and not too much at once.
    pub fn is_step(&self, macs: u64) -> bool {
        macs as f64 >= self.macs as f64 * LEAST_GAIN && macs <= self.most_macs()
    }

    fn most_macs(&self) -> u64 {
        (self.macs as f64 * MOST_GAIN) as u64
    }
}

impl Candidate {
    /// The device as it can be fitted, or what it waits for.
    pub fn of(device: &DeviceRecord, probes: &ProbeSet) -> Result<Self, &'static str> {
        let profile = device.profile.as_ref().filter(|profile| probes.covers(profile));
        let profile = profile.ok_or("it has not yet reported the times of all probe models")?;
        let class = ClassKey::of(profile).ok_or("it has timed no probe model")?;
        Ok(Self {
            id: device.id.clone(),
            labels: device.labels.clone(),
            profile: profile.clone(),
            class,
            broken: None,
            growing: None,
        })
    }
}

/// What one device gets.
#[derive(Debug, Clone)]
pub struct Fitting {
    /// Which device.
    pub id: DeviceId,
    /// Its class.
    pub class: ClassKey,
    /// The place of the budget rule that is for it.
    pub rule: Option<usize>,
    /// Its ceilings.
    pub budget: Budget,
    /// What its predictions were multiplied with.
    pub correction: f64,
    /// The plan, or why there is none.
    pub verdict: Verdict,
}

/// The plan, or why there is none.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// It fits.
    Fit {
        /// Shared by the devices that were fitted together.
        plan: Arc<PrunePlan>,
        /// For this device, by its own probes and telemetry.
        predicted: Latency,
    },
    /// No network of this shape meets the budget.
    NoFit {
        /// Which ceiling.
        ceiling: String,
        /// What the budget allows.
        allowed: f64,
        /// The least that pruning reaches.
        smallest: f64,
        /// All of it, for an operator.
        text: String,
    },
    /// Its means cannot be made sense of.
    Unusable(FitError),
}

/// Why a device cannot be fitted whatever its budget.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FitError {
    /// Its probe times fit no model.
    #[error("its probe times fit no latency model")]
    Latency(#[from] LatencyError),
    /// A rule gives no budget for it.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The planner lacks something: a defect.
    #[error("no plan can be made")]
    Plan(PlanError),
    /// The plan does not fit the network that it was made for: a defect.
    #[error("the plan cannot be carried out")]
    Surgery(#[source] Arc<SurgeryError>),
}

/// What like devices got before: a device that comes later gets the largest of these that is within its budget.
#[derive(Debug, Clone)]
pub struct Precedent {
    /// Their class.
    pub class: ClassId,
    /// Their budget rule's place in the deployment.
    pub rule: Option<usize>,
    /// What they got.
    pub plan: PrunePlan,
}

/// The place of the budget rule for a device with these labels and this profile; `None` where no rule is for it.
pub fn rule(
    spec: &DeploymentSpec,
    labels: &BTreeMap<String, String>,
    profile: Option<&HardwareProfile>,
) -> Option<usize> {
    spec.budgets.iter().position(|rule| rule.selector.matches(labels, profile))
}

/// Why devices are fitted: those who are for another reason are not fitted with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    New,
    Broken,
    Growing,
}

impl Why {
    fn of(candidate: &Candidate) -> Self {
        match (candidate.broken, candidate.growing) {
            (Some(_), _) => Self::Broken,
            (None, Some(_)) => Self::Growing,
            (None, None) => Self::New,
        }
    }
}

struct Member<'a> {
    candidate: &'a Candidate,
    correction: f64,
    model: LatencyModel,
    budget: Budget,
}

/// Fits every candidate. The order of the candidates decides nothing but the order of the result.
pub fn fit(
    subject: &Subject,
    probes: &ProbeSet,
    spec: &DeploymentSpec,
    candidates: &[Candidate],
    corrections: &Corrections,
    precedents: &[Precedent],
) -> Vec<Fitting> {
    let mut precedents: Vec<&Precedent> = precedents.iter().collect();
    precedents.sort_by_key(|precedent| Reverse(precedent.plan.promised.macs));
    let mut fittings = Vec::with_capacity(candidates.len());
    let mut groups: BTreeMap<(ClassKey, Option<usize>, Why), Vec<Member<'_>>> = BTreeMap::new();
    for candidate in candidates {
        let class = candidate.class.clone();
        let rule = rule(spec, &candidate.labels, Some(&candidate.profile));
        match member((&subject.graph, &subject.cost), probes, spec, candidate, corrections) {
            Ok(member) => {
                let alike = precedents.iter().filter(|p| p.class == class.id() && p.rule == rule);
                let is_step = |p: &&&Precedent| {
                    candidate.growing.is_none_or(|growing| growing.is_step(p.plan.promised.macs))
                };
                let alike = alike.filter(is_step);
                match alike.filter_map(|p| follow(subject, &member, &p.plan)).next() {
                    Some(verdict) => {
                        fittings.push(Fitting {
                            id: candidate.id.clone(),
                            class,
                            rule,
                            budget: member.budget,
                            correction: member.correction,
                            verdict,
                        });
                    }
                    None => groups.entry((class, rule, Why::of(candidate))).or_default().push(member),
                }
            }
            Err(error) => {
                let verdict = Verdict::Unusable(error);
                fittings.push(Fitting {
                    id: candidate.id.clone(),
                    class,
                    rule,
                    budget: Budget::default(),
                    correction: 1.0,
                    verdict,
                });
            }
        }
    }
    for ((class, rule, _), members) in groups {
        let budget = members.iter().map(|member| member.budget).reduce(Budget::tightest).unwrap_or_default();
        let planned = plan(subject, probes, &members, &budget);
        for member in members {
            let verdict = verdict(&planned, &member.model);
            let (id, correction) = (member.candidate.id.clone(), member.correction);
            fittings.push(Fitting { id, class: class.clone(), rule, budget, correction, verdict });
        }
    }
    fittings
}

fn member<'a>(
    (graph, cost): (&Graph, &Cost),
    probes: &ProbeSet,
    spec: &DeploymentSpec,
    candidate: &'a Candidate,
    corrections: &Corrections,
) -> Result<Member<'a>, FitError> {
    let class = candidate.class.id();
    let learnt = match spec.rollout.grow {
        Some(_) => corrections.measured(&class),
        None => corrections.factor(&class),
    };
    // Of its own times and its class's the later ones.
    let own = candidate.broken.map(|broken| broken.factor);
    let own = own.or(candidate.growing.map(|growing| growing.factor));
    let correction = own.map_or(learnt, |own| own.max(learnt));
    let model = probes.latency_model(&candidate.profile)?.corrected(correction);
    let dense = DenseFigures { cost: *cost, latency: Some(model.predict(graph)) };
    let stands = candidate.broken.map(|broken| broken.budget);
    let budget = match stands.or(candidate.growing.map(|growing| growing.budget)) {
        Some(budget) => budget,
        None => budgeting::budget(&candidate.profile, &candidate.labels, &spec.budgets, &dense)?,
    };
    Ok(Member { candidate, correction, model, budget })
}

type Planned = Result<(Arc<PrunePlan>, Graph), FitError>;

/// The largest network that the slowest of the members can run within `budget`.
fn plan(subject: &Subject, probes: &ProbeSet, members: &[Member<'_>], budget: &Budget) -> Planned {
    let correction = members.iter().map(|member| member.correction).reduce(f64::max).unwrap_or(1.0);
    let steps = members.iter().filter_map(|member| member.candidate.growing);
    let step = Budget { macs: steps.map(|growing| growing.most_macs()).min(), ..Budget::default() };
    let profile = slowest_profile(members);
    let model = probes.latency_model(&profile)?.corrected(correction);
    let plan = subject
        .planner
        .plan(&with_headroom(&budget.tightest(step)), Some(&model), ROUND_TO)
        .map_err(FitError::Plan)?;
    let graph = subject.planned_graph(&plan).map_err(|error| FitError::Surgery(Arc::new(error)))?;
    Ok((Arc::new(plan), graph))
}

/// The verdict for a device that gets `plan` as others did, if that is within its budget.
fn follow(subject: &Subject, member: &Member<'_>, plan: &PrunePlan) -> Option<Verdict> {
    let graph = subject.planned_graph(plan).ok()?;
    let predicted = member.model.predict(&graph);
    let broken = with_headroom(&member.budget).broken(&cost(&graph), Some(predicted));
    broken.is_none().then(|| Verdict::Fit { plan: Arc::new(plan.clone()), predicted })
}

fn with_headroom(budget: &Budget) -> Budget {
    let less = |ceiling: Option<f64>| ceiling.map(|ms| ms * (1.0 - LATENCY_HEADROOM));
    Budget {
        latency_p50_ms: less(budget.latency_p50_ms),
        latency_p95_ms: less(budget.latency_p95_ms),
        ..*budget
    }
}

fn verdict(planned: &Planned, model: &LatencyModel) -> Verdict {
    match planned {
        Ok((plan, graph)) => Verdict::Fit { plan: plan.clone(), predicted: model.predict(graph) },
        Err(FitError::Plan(error @ PlanError::NoFit { ceiling, allowed, smallest })) => {
            let text = in_words(*ceiling, error);
            Verdict::NoFit { ceiling: ceiling.to_string(), allowed: *allowed, smallest: *smallest, text }
        }
        Err(error) => Verdict::Unusable(error.clone()),
    }
}

/// That nothing fits, for an operator.
fn in_words(ceiling: Ceiling, error: &PlanError) -> String {
    match ceiling {
        Ceiling::Latency | Ceiling::LatencyP50 => {
            format!("{error} ({:.0} % of the ceiling are kept free)", 100.0 * LATENCY_HEADROOM)
        }
        Ceiling::Params | Ceiling::Macs | Ceiling::Bytes | Ceiling::Memory | Ceiling::Activations => {
            error.to_string()
        }
    }
}

/// A profile with the longest time of each probe among the members.
fn slowest_profile(members: &[Member<'_>]) -> HardwareProfile {
    let mut slowest = members[0].candidate.profile.clone();
    for timing in members[1..].iter().flat_map(|member| &member.candidate.profile.probes) {
        if let Some(other) = slowest.probes.iter_mut().find(|other| other.digest == timing.digest) {
            other.p50_ms = other.p50_ms.max(timing.p50_ms);
            other.p95_ms = other.p95_ms.max(timing.p95_ms);
        }
    }
    slowest
}
