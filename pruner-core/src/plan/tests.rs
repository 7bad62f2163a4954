//! Plans for budgets that are met, just met, and cannot be met.

use std::ops::ControlFlow;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::budget::Broken;
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
fn the_smallest_network_is_known_without_scores() {
    let graph = &SCORED.0.graph;
    for coupled in [Coupled::PruneWholeGroup, Coupled::Skip] {
        for min_channels in [0, 1, 2, 5] {
            let policy = WidthPolicy { min_channels, coupled, ..WidthPolicy::default() };
            let least = cost(&smallest(graph, policy));
            let planner = planner(policy);
            let Err(PlanError::NoFit { smallest, .. }) = planner.plan(&params(1), None, 1) else {
                panic!("1 parameter fits")
            };
            assert_eq!(least.params as f64, smallest, "{policy:?}");
            assert_eq!(planner.plan(&params(least.params), None, 1).unwrap().promised, least);
        }
    }
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

/// What a plan makes of `which`, scored by magnitude, at this share of its parameters: its costs and every width.
fn described(which: ZooNetwork, (input, classes): (Shape, usize), share: f64) -> String {
    let graph = zoo::build(which, input, classes).unwrap();
    let network = Network { weights: init::init(&graph, 1), graph };
    let recipe = ScoreRecipe { criterion: Criterion::Magnitude, rounds: 1, density: 1.0 / 16.21, seed: 0 };
    let scores = score(&network, &recipe, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let planner = Planner::new(&network.graph, &scores, density(&scores), WidthPolicy::default());
    let dense = cost(&network.graph);
    let plan = planner.plan(&params((dense.params as f64 * share) as u64), None, 1).unwrap();
    let pruned = surgery::apply(&network, &plan.keep).unwrap();
    assert_eq!(cost(&pruned.graph), plan.promised);
    assert_eq!(onnx::encode(&pruned, BatchNorms::Folded).unwrap().len() as u64, plan.promised.bytes);
    let figure = |name: &str, before: u64, after: u64| {
        format!("{name} {before} -> {after} ({:.2}x)", before as f64 / after as f64)
    };
    let figures = [
        figure("params", dense.params, plan.promised.params),
        figure("macs", dense.macs, plan.promised.macs),
        figure("bytes", dense.bytes, plan.promised.bytes),
        figure("memory", dense.memory_bytes, plan.promised.memory_bytes),
        figure("activations", dense.activation_bytes, plan.promised.activation_bytes),
    ];
    let layers =
        plan.layers.iter().map(|layer| format!("{} {} -> {}", layer.name, layer.before, layer.after));
    figures.into_iter().chain(layers).collect::<Vec<_>>().join("\n")
}

#[test]
fn plans_at_a_quarter_and_a_sixteenth() {
    let (small, large) = ((Shape::new(3, 32, 32), 10), (Shape::new(3, 224, 224), 1000));
    for (which, images) in
        [(ZooNetwork::ResNet20, small), (ZooNetwork::Vgg16Bn, small), (ZooNetwork::MobileNetV2, large)]
    {
        insta::assert_snapshot!(format!("{which}_at_a_quarter"), described(which, images, 0.25));
        insta::assert_snapshot!(format!("{which}_at_a_sixteenth"), described(which, images, 1.0 / 16.21));
    }
}

/// The network of the first scale that is above all of this plan's; none where it keeps everything.
fn next_larger(planner: &Planner, plan: &PrunePlan, round_to: usize) -> Option<Graph> {
    let kept = |group: &GroupId| plan.keep.get(group).map(Vec::len);
    let is_this = |scale: &&f64| {
        let widths = planner.widths.at(**scale, round_to);
        widths.len() == plan.keep.len() && widths.iter().all(|(group, width)| kept(group) == Some(*width))
    };
    let last =
        planner.scales.iter().rev().position(|scale| is_this(&scale)).expect("its scale is one of them");
    let next = (planner.scales.len() - last..planner.scales.len()).next()?;
    Some(planner.shrink(&planner.widths.at(planner.scales[next], round_to)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_tighter_budget_never_keeps_more(
        share in 0.02..1.0f64, tighter in 0.3..1.0f64, ceiling in 0..8usize, round_to in prop::sample::select(vec![1usize, 4, 8, 16]),
    ) {
        let planner = planner(WidthPolicy::default());
        let (dense, device) = (cost(&SCORED.0.graph), device());
        let slow = device.predict(&SCORED.0.graph);
        // The last of the ceilings is all of them.
        let bounds = |wanted: usize| ceiling == wanted || ceiling == 7;
        let count = |wanted: usize, figure: u64, share: f64| bounds(wanted).then_some((figure as f64 * share) as u64);
        let budget = |share: f64| Budget {
            params: count(0, dense.params, share),
            macs: count(1, dense.macs, share),
            bytes: count(2, dense.bytes, share),
            memory_bytes: count(3, dense.memory_bytes, share),
            activation_bytes: count(4, dense.activation_bytes, share),
            latency_p50_ms: bounds(5).then_some(slow.p50_ms * share),
            latency_p95_ms: bounds(6).then_some(slow.p95_ms * share),
        };
        let plan = |share| planner.plan(&budget(share), Some(&device), round_to);
        let loose = match plan(share) {
            Ok(plan) => plan,
            Err(PlanError::NoFit { ceiling, allowed, smallest }) => {
                let least = planner.shrink(&planner.widths.at(planner.scales[0], round_to));
                let broken = budget(share).broken_by(&least, Some(&device));
                prop_assert_eq!(broken, Some(Broken { ceiling, allowed, actual: smallest }));
                return Ok(());
            }
            Err(PlanError::NoLatencyModel) => unreachable!("a model was given"),
        };
        prop_assert_eq!(&loose, &plan(share).unwrap(), "the same plan each time");
        prop_assert_eq!(budget(share).broken(&loose.promised, loose.predicted), None);
        let figures = cost(&surgery::apply(&SCORED.0, &loose.keep).unwrap().graph);
        prop_assert_eq!(&figures, &loose.promised);
        prop_assert_eq!(next_larger(&planner, &loose, round_to).and_then(|larger| budget(share).broken_by(&larger, Some(&device))).is_none(), loose.is_identity());
        if let Ok(tight) = plan(share * tighter) {
            for (group, kept) in &loose.keep {
                let fewer = &tight.keep[group];
                prop_assert!(fewer.iter().all(|channel| kept.contains(channel)), "kept channels nest");
            }
        }
    }
}
