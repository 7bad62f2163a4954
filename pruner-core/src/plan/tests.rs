//! Plans for budgets that are met, just met, and cannot be met.

use std::ops::ControlFlow;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::graph::onnx::{self, BatchNorms};
use crate::graph::{Network, Shape};
use crate::saliency::{Criterion, ScoreRecipe, score};
use crate::sensitivity::density;
use crate::zoo::{self, ZooNetwork};
use crate::{init, rectify};

static SCORED: LazyLock<(Network, Scores)> = LazyLock::new(|| {
    let graph = zoo::build(ZooNetwork::ResNet20, Shape::new(1, 28, 28), 10).unwrap();
    let network = Network { weights: init::init(&graph, 1), graph };
    let recipe = ScoreRecipe { criterion: Criterion::SynFlow, rounds: 10, density: 1.0 / 16.21, seed: 0 };
    let scores = score(&network, &recipe, &mut |_, _| ControlFlow::Continue(())).unwrap();
    (network, scores)
});

fn planner(policy: WidthPolicy) -> Planner {
    Planner::new(&SCORED.0.graph, &SCORED.1, density(&SCORED.1), policy)
}

/// A device whose time is what an engine of one core could take.
fn device() -> LatencyModel {
    let probes = zoo::probes();
    let time = |graph: &Graph| {
        let ms = 0.05 + cost(graph).macs as f64 / 2e7;
        Latency { p50_ms: ms, p95_ms: 1.1 * ms }
    };
    let samples: Vec<_> =
        probes.iter().map(|probe| (&probe.network.graph, time(&probe.network.graph))).collect();
    LatencyModel::fit(16, &samples).unwrap()
}

fn params(params: u64) -> Budget {
    Budget { params: Some(params), ..Budget::default() }
}

#[test]
fn no_ceiling_keeps_everything() {
    let plan = planner(WidthPolicy::default()).plan(&Budget::default(), None, 16).unwrap();
    assert!(plan.is_identity());
    assert_eq!(plan.promised, cost(&SCORED.0.graph));
    let same = surgery::apply(&SCORED.0, &plan.keep).unwrap();
    let bytes = |network: &Network| onnx::encode(network, BatchNorms::Kept).unwrap();
    assert!(bytes(&same) == bytes(&SCORED.0), "the empty plan is the identity, bit for bit");
}

#[test]
fn a_sixteenth_of_the_parameters_is_reached_and_promised_exactly() {
    let (network, _) = &*SCORED;
    let allowed = (cost(&network.graph).params as f64 / 16.21) as u64;
    let plan = planner(WidthPolicy::default()).plan(&params(allowed), None, 1).unwrap();
    assert!(plan.promised.params <= allowed);
    assert!(
        plan.promised.params > allowed * 9 / 10,
        "{} of {allowed}: not the largest",
        plan.promised.params
    );
    let pruned = rectify::reinit(surgery::apply(network, &plan.keep).unwrap(), &network.graph, 1);
    assert_eq!(cost(&pruned.graph), plan.promised);
    assert_eq!(onnx::encode(&pruned, BatchNorms::Folded).unwrap().len() as u64, plan.promised.bytes);
    for layer in &plan.layers {
        let node = pruned.graph.find(&layer.name).unwrap();
        assert_eq!(pruned.graph.shape(node).channels, layer.after, "{}", layer.name);
    }
}

#[test]
fn what_nothing_meets_names_the_ceiling_and_the_smallest_figure() {
    let planner = planner(WidthPolicy::default());
    let Err(PlanError::NoFit { ceiling: Ceiling::Params, allowed, smallest }) =
        planner.plan(&params(50), None, 1)
    else {
        panic!("50 parameters fit")
    };
    assert_eq!(allowed, 50.0);
    let least = planner.plan(&params(smallest as u64), None, 1).unwrap();
    assert_eq!(least.promised.params as f64, smallest, "the figure that was named can be had");
    let latency = Budget { latency_p95_ms: Some(1.0), ..Budget::default() };
    assert_eq!(planner.plan(&latency, None, 1), Err(PlanError::NoLatencyModel));
}

#[test]
fn coupled_groups_can_be_left_alone() {
    let skip = WidthPolicy { coupled: Coupled::Skip, ..WidthPolicy::default() };
    let plan = planner(skip).plan(&params(60_000), None, 1).unwrap();
    for layer in
        plan.layers.iter().filter(|layer| layer.name.ends_with("conv2") || layer.name.contains("shortcut"))
    {
        assert_eq!(layer.after, layer.before, "{}", layer.name);
    }
    assert!(plan.layers.iter().any(|layer| layer.after < layer.before));
}

#[test]
fn widths_at_a_sixteenth() {
    let plan = planner(WidthPolicy::default()).plan(&params(16_809), None, 1).unwrap();
    let lines = plan.layers.iter().map(|layer| format!("{} {} -> {}", layer.name, layer.before, layer.after));
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_tighter_budget_never_keeps_more(
        share in 0.02..1.0f64, tighter in 0.3..1.0f64, ceiling in 0..5usize, round_to in prop::sample::select(vec![1usize, 4, 8, 16]),
    ) {
        let planner = planner(WidthPolicy::default());
        let (dense, device) = (cost(&SCORED.0.graph), device());
        let slow = device.predict(&SCORED.0.graph).p95_ms;
        let count = |wanted: usize, figure: u64, share: f64| (ceiling == wanted).then_some((figure as f64 * share) as u64);
        let budget = |share: f64| Budget {
            params: count(0, dense.params, share),
            macs: count(1, dense.macs, share),
            bytes: count(2, dense.bytes, share),
            memory_bytes: count(3, dense.memory_bytes, share),
            latency_p95_ms: (ceiling == 4).then_some(slow * share),
        };
        let plan = |share| planner.plan(&budget(share), Some(&device), round_to);
        let Ok(loose) = plan(share) else { return Ok(()) };
        prop_assert_eq!(&loose, &plan(share).unwrap(), "the same plan each time");
        prop_assert_eq!(budget(share).broken(&loose.promised, loose.predicted), None);
        if let Ok(tight) = plan(share * tighter) {
            for (group, kept) in &loose.keep {
                let fewer = &tight.keep[group];
                prop_assert!(fewer.iter().all(|channel| kept.contains(channel)), "kept channels nest");
            }
        }
    }
}
