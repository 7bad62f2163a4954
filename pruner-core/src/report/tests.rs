//! A report adds up, says what was frozen, and its picture has a bar for every layer.

use super::*;
use crate::budget::Budget;
use crate::graph::{Conv, Network, Node, Opaque, Operand, Shape, Window};
use crate::init::init;
use crate::latency::Latency;
use crate::plan::{Planner, WidthPolicy};
use crate::saliency::{Criterion, ScoreRecipe, score};
use crate::sensitivity::density;
use crate::surgery;
use crate::zoo::{ZooNetwork, build, probes};

fn report(graph: Graph, params: u64, latency: Option<&LatencyModel>) -> Report {
    let network = Network { weights: init(&graph, 1), graph };
    let recipe = ScoreRecipe { criterion: Criterion::Magnitude, rounds: 1, density: 0.1, seed: 1 };
    let scores = score(&network, &recipe, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
    let planner = Planner::new(&network.graph, &scores, density(&scores), WidthPolicy::default());
    let plan = planner.plan(&Budget { params: Some(params), ..Budget::default() }, None, 1).unwrap();
    let pruned = surgery::apply(&network, &plan.keep).unwrap();
    Report::new(&network.graph, &plan, &pruned.graph, latency)
}

#[test]
fn layers_add_up_to_the_whole() {
    let shape = Shape::new(1, 28, 28);
    let probes = probes();
    let time = |index: usize| Latency { p50_ms: 1.0 + index as f64, p95_ms: 2.0 + index as f64 };
    let samples: Vec<_> =
        probes.iter().enumerate().map(|(index, probe)| (&probe.network.graph, time(index))).collect();
    let model = LatencyModel::fit(16, &samples).unwrap();
    let report = report(build(ZooNetwork::ResNet20, shape, 10).unwrap(), 60_000, Some(&model));
    assert_eq!(report.layers.len(), 22);
    assert_eq!(report.layers.iter().map(|layer| layer.macs.after).sum::<u64>(), report.pruned.macs);
    let params: u64 = report.layers.iter().map(|layer| layer.params.before).sum();
    assert!(params < report.dense.params, "batch norms have parameters too");
    let ms: f64 = report.layers.iter().filter_map(|layer| layer.predicted_ms).map(|ms| ms.before).sum();
    assert!(ms > 0.0 && report.frozen.is_empty());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["layers"][21]["params"], serde_json::json!({ "before": 650, "after": 330 }));
    assert_eq!(serde_json::from_value::<Report>(json).unwrap().pruned, report.pruned);
}

#[test]
fn tables_and_pictures_name_every_layer() {
    let report = report(build(ZooNetwork::Vgg16Bn, Shape::new(3, 32, 32), 10).unwrap(), 900_000, None);
    let (table, svg) = (report.to_string(), report.to_svg().unwrap());
    let lengths: Vec<usize> = table.lines().take(15).map(str::len).collect();
    assert!(lengths.iter().all(|length| *length == lengths[0]), "{table}");
    for layer in &report.layers {
        assert!(
            table.contains(&layer.name) && svg.contains(&format!("{}  {}/", layer.name, layer.width.after))
        );
    }
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.matches("<rect").count() > 3 * report.layers.len());
}

#[test]
fn what_was_frozen_is_said_with_the_operator() {
    let node = |name: &str, op: Op, inputs: &[usize]| Node {
        name: name.to_owned(),
        op,
        inputs: inputs.iter().copied().map(NodeId).collect(),
    };
    let conv = |inputs, outputs| {
        Op::Conv(Conv { inputs, outputs, window: Window::square(1, 1, 0), groups: 1, bias: false })
    };
    let opaque = Opaque {
        operator: "Einsum".into(),
        node: Vec::new(),
        operands: vec![Operand::Value { rank: 4 }],
        outputs: vec![vec![1, 6, 4, 4]],
    };
    let nodes = vec![
        node("input", Op::Input, &[]),
        node("stem", conv(3, 6), &[0]),
        node("odd", Op::Opaque(opaque.into()), &[1]),
        node("wide", conv(6, 40), &[2]),
        node("out", conv(40, 2), &[3]),
    ];
    let graph = Graph::new(Shape::new(3, 4, 4), nodes).unwrap();
    let found = frozen(&graph);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].layers.as_slice(), found[0].channels), (["stem".to_owned()].as_slice(), 6));
    assert_eq!(found[0].reason, "needed whole by 'odd' (Einsum, carried through unchanged)");
}
