//! Training in small: it learns, repeats to the bit, and says what is wrong.

use candle_core::Tensor;

use super::sgd::Sgd;
use super::*;
use crate::dataset::Split;
use crate::graph::{Conv, Node, NodeId, Op, Opaque, Operand, Shape, Window};
use crate::init::init;
use crate::saliency::{Criterion, MaskRecipe, ScoreRecipe, mask};

/// 96 + 32 images of 1 x 6 x 6: noise, with a bright row in class 0 and a bright column in class 1.
fn stripes() -> Dataset {
    let split = |count: usize, offset: usize| {
        let mut images = Vec::new();
        for index in offset..offset + count {
            for place in 0..36 {
                let line = if index % 2 == 0 { place / 6 } else { place % 6 };
                let noise = (index * 7919 + place * 104_729) % 61;
                images.push(if line == index / 2 % 6 { 200 } else { noise as u8 });
            }
        }
        Split::new(images, (0..count).map(|index| ((index + offset) % 2) as u8).collect(), 36)
    };
    Dataset::new(Shape::new(1, 6, 6), split(96, 0), split(32, 1000))
}

fn network(outputs: usize) -> Network {
    let conv =
        Op::Conv(Conv { inputs: 1, outputs: 8, window: Window::square(3, 1, 1), groups: 1, bias: false });
    let ops = [
        ("input", Op::Input),
        ("conv", conv),
        ("bn", Op::BatchNorm { channels: 8, eps: 1e-5 }),
        ("relu", Op::RELU),
        ("pool", Op::GlobalAvgPool),
        ("fc", Op::Linear { inputs: 8, outputs, bias: true }),
    ];
    let node = |(index, (name, op)): (usize, (&str, Op))| {
        let inputs = (index > 0).then(|| NodeId(index - 1)).into_iter().collect();
        Node { name: name.into(), op, inputs }
    };
    let graph = Graph::new(Shape::new(1, 6, 6), ops.into_iter().enumerate().map(node).collect()).unwrap();
    let weights = init(&graph, 1);
    Network { graph, weights }
}

fn recipe() -> Recipe {
    Recipe { epochs: 20, batch: 20, flip: Flip::Horizontal, shift: 1, ..Recipe::default() }
}

fn go_on(_: &Step) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn values(network: &Network, name: &str) -> Vec<f32> {
    network.weights[name].flatten_all().and_then(|flat| flat.to_vec1()).unwrap()
}

#[test]
fn learns_rows_from_columns() {
    let dataset = stripes();
    let before = evaluate(&network(2), &dataset, &dataset.test).unwrap();
    let mut steps = Vec::new();
    let trained = fit(network(2), &dataset, &recipe(), &mut |step| {
        steps.push(step.clone());
        ControlFlow::Continue(())
    });
    let after = evaluate(&trained.unwrap(), &dataset, &dataset.test).unwrap();
    assert!(before.accuracy < 0.8 && after.accuracy > 0.95, "{before:?}, {after:?}");
    assert!(after.loss < before.loss);
    assert_eq!((steps.len(), after.images), (80, 32));
    let last = steps.last().unwrap();
    assert_eq!((last.epoch, last.epochs, last.step, last.steps), (20, 20, 80, 80));
    assert!(last.loss < steps[0].loss && last.accuracy > 0.9 && last.images_per_second > 0.0);
}

#[test]
fn repeats_to_the_bit_on_any_number_of_threads() {
    let trained = |threads, seed| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let recipe = Recipe { seed, epochs: 2, ..recipe() };
        let trained = pool.install(|| fit(network(2), &stripes(), &recipe, &mut go_on)).unwrap();
        values(&trained, "conv.weight")
    };
    assert_eq!(trained(1, 5), trained(2, 5));
    assert_ne!(trained(1, 5), trained(1, 6));
}

#[test]
fn decay_touches_weights_alone() {
    // With a vanishing gradient only the penalty moves anything.
    let (graph, rate) = (network(2).graph, 0.5);
    let layout = crate::exec::ParamLayout::of(&graph);
    let recipe = Recipe { weight_decay: 0.1, momentum: 0.0, ..recipe() };
    let mut params = vec![1.0; layout.len()];
    let grads = vec![0.0; layout.len()];
    Sgd::new(&layout, &recipe).step(&mut params, &grads, rate);
    for entry in layout.entries() {
        let expected = if ["conv.weight", "fc.weight"].contains(&entry.tensor.as_str()) { 0.95 } else { 1.0 };
        assert!(params[entry.range.clone()].iter().all(|&value| value == expected), "{}", entry.tensor);
    }
}

#[test]
fn nesterov_by_hand() {
    let graph = network(2).graph;
    let layout = crate::exec::ParamLayout::of(&graph);
    let mut sgd = Sgd::new(&layout, &Recipe { weight_decay: 0.0, momentum: 0.5, ..recipe() });
    let mut params = vec![0.0; layout.len()];
    let grads = vec![1.0; layout.len()];
    // Velocities 1 and 1.5; moves 1 + 0.5 and 1 + 0.75.
    sgd.step(&mut params, &grads, 1.0);
    assert_eq!(params[0], -1.5);
    sgd.step(&mut params, &grads, 1.0);
    assert_eq!(params[0], -3.25);
}

#[test]
fn plain_momentum_by_hand() {
    let layout = crate::exec::ParamLayout::of(&network(2).graph);
    let recipe = Recipe { weight_decay: 0.0, momentum: 0.5, nesterov: false, ..recipe() };
    let mut sgd = Sgd::new(&layout, &recipe);
    let (mut params, grads) = (vec![0.0; layout.len()], vec![1.0; layout.len()]);
    sgd.step(&mut params, &grads, 1.0);
    sgd.step(&mut params, &grads, 1.0);
    assert_eq!(params[0], -2.5);
}

/// The bytes of the file are what is gone on from, as after kill -9.
#[test]
fn gone_on_with_after_any_epoch_it_ends_in_the_same_bits() {
    let dataset = stripes();
    let stop = Some(EarlyStop { held_out: 0.2, patience: 9 });
    for recipe in [Recipe { epochs: 4, ..recipe() }, Recipe { epochs: 4, early_stop: stop, ..recipe() }] {
        let whole = fit(network(2), &dataset, &recipe, &mut go_on).unwrap();
        for interrupted in 0..4 {
            let mut first = Trainer::new(network(2), &dataset, &recipe).unwrap();
            for _ in 0..interrupted {
                first.epoch(&mut go_on).unwrap();
            }
            let file = first.checkpoint().unwrap().encode().unwrap();
            assert_eq!(file, first.checkpoint().unwrap().encode().unwrap());
            let checkpoint = Checkpoint::decode(&file).unwrap();
            assert_eq!(checkpoint.epochs(), interrupted);
            let mut second =
                Trainer::new(network(2), &dataset, &recipe).unwrap().resumed(&checkpoint).unwrap();
            while !second.is_done() {
                second.epoch(&mut go_on).unwrap();
            }
            let second = second.finish().unwrap();
            for name in whole.weights.keys() {
                assert_eq!(values(&second, name), values(&whole, name), "{name} after {interrupted} epochs");
            }
        }
    }
}

#[test]
fn a_checkpoint_of_something_else_is_refused() {
    let dataset = stripes();
    let trainer = |recipe: &Recipe| Trainer::new(network(2), &dataset, recipe).unwrap();
    let file = trainer(&recipe()).checkpoint().unwrap().encode().unwrap();
    let checkpoint = Checkpoint::decode(&file).unwrap();
    let other = Recipe { seed: 9, ..recipe() };
    let error = trainer(&other).resumed(&checkpoint).err().unwrap();
    assert_eq!(error.to_string(), "the checkpoint cannot be used: it is of another recipe");
    let fewer = Trainer::new(network(2), &dataset.with_train(60), &recipe()).unwrap();
    assert!(fewer.resumed(&checkpoint).err().unwrap().to_string().ends_with("another data set"));
    for length in 0..file.len() {
        assert!(Checkpoint::decode(&file[..length]).is_err(), "cut after {length} bytes");
    }
    for text in ["", "not a checkpoint at all", "\u{8}\0\0\0\0\0\0\0{}      "] {
        assert!(Checkpoint::decode(text.as_bytes()).is_err());
    }
}

#[test]
fn what_a_mask_drops_stays_zero() {
    let dataset = stripes();
    let scores = ScoreRecipe { criterion: Criterion::Magnitude, rounds: 1, density: 0.5, seed: 1 };
    let masked = mask(&network(2), &MaskRecipe::exact(scores), None, &mut |_, _| ControlFlow::Continue(()));
    let mask = masked.unwrap().mask;
    let mut trainer = Trainer::new(network(2), &dataset, &recipe()).unwrap().masked(&mask).unwrap();
    while !trainer.is_done() {
        trainer.epoch(&mut go_on).unwrap();
    }
    let trained = trainer.finish().unwrap();
    for (tensor, kept) in mask.tensors() {
        let values = values(&trained, tensor);
        let alive: Vec<u32> =
            (0..).zip(&values).filter(|(_, v)| **v != 0.0).map(|(place, _)| place).collect();
        assert_eq!(alive, kept, "{tensor}");
    }
    assert!(evaluate(&trained, &dataset, &dataset.test).unwrap().accuracy > 0.9);
}

#[test]
fn it_ends_when_held_out_images_get_no_better() {
    let dataset = stripes();
    let stop = Some(EarlyStop { held_out: 0.25, patience: 2 });
    let recipe = Recipe { epochs: 200, learning_rate: 0.5, early_stop: stop, ..recipe() };
    let mut trainer = Trainer::new(network(2), &dataset, &recipe).unwrap();
    let mut losses = Vec::new();
    while !trainer.is_done() {
        trainer.epoch(&mut go_on).unwrap();
        let checkpoint = trainer.checkpoint().unwrap();
        losses.push(checkpoint.best.unwrap().loss);
    }
    assert!(losses.len() < 200, "it ended early");
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let first = losses.iter().position(|&loss| loss == best).unwrap();
    assert_eq!(losses.len(), first + 1 + 2, "two epochs after the best one");
    let (_, held_out) = dataset.train.hold_out(0.25);
    let dataset = Dataset { train: dataset.train.hold_out(0.25).0, ..dataset };
    assert_eq!(evaluate(&trainer.finish().unwrap(), &dataset, &held_out).unwrap().loss, best);
}

#[test]
fn a_teacher_is_learnt_from() {
    let dataset = stripes();
    let teacher = fit(network(2), &dataset, &recipe(), &mut go_on).unwrap();
    // With the teacher alone the labels do not matter: those of the student's images are all wrong.
    let wrong = Split::new(
        (0..96).flat_map(|index| dataset.train.pixels(index).to_vec()).collect(),
        (0..96).map(|index| 1 - dataset.train.label(index)).collect(),
        36,
    );
    let mislabelled = Dataset { train: wrong, ..dataset.clone() };
    let recipe = Recipe { distillation: Distillation { weight: 1.0, temperature: 2.0 }, ..recipe() };
    let mut trainer = Trainer::new(network(2), &mislabelled, &recipe).unwrap().taught(&teacher).unwrap();
    while !trainer.is_done() {
        trainer.epoch(&mut go_on).unwrap();
    }
    assert!(evaluate(&trainer.finish().unwrap(), &dataset, &dataset.test).unwrap().accuracy > 0.9);
}

#[test]
fn breaking_cancels() {
    let error = fit(network(2), &stripes(), &recipe(), &mut |step| match step.step {
        3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(error, Err(TrainError::Cancelled { step: 3 })));
}

#[test]
fn divergence_is_told_with_its_step() {
    let mut network = network(2);
    let poison = Tensor::full(f32::NAN, 2, &candle_core::Device::Cpu).unwrap();
    network.weights.insert("fc.bias".into(), poison);
    let error = fit(network, &stripes(), &recipe(), &mut go_on);
    assert!(matches!(error, Err(TrainError::Diverged { step: 1 })));
}

#[test]
fn what_does_not_fit_is_told() {
    let dataset = stripes();
    let message =
        |network, recipe: Recipe| fit(network, &dataset, &recipe, &mut go_on).unwrap_err().to_string();
    assert_eq!(
        message(network(2), Recipe { batch: 100, ..recipe() }),
        "96 training images do not fill one batch of 100; use a smaller batch or more images"
    );
    assert_eq!(message(network(3), recipe()), "the network has 3 outputs but the dataset 2 classes");
    assert_eq!(
        message(network(2), Recipe { epochs: 0, ..recipe() }),
        "the recipe's epochs must be at least 1"
    );
    let nan = Recipe { learning_rate: f32::NAN, ..recipe() };
    assert_eq!(message(network(2), nan), "the recipe's learning_rate must be above 0");
    let error = evaluate(&network(2), &dataset, &dataset.test.take(0)).unwrap_err();
    assert_eq!(error.to_string(), "the split to evaluate on has no images");
}

/// What nobody here can run is told before the first step, with the way out.
#[test]
fn an_unknown_operator_is_told_with_the_way_out() {
    let network = network(2);
    let mut nodes = network.graph.nodes().to_vec();
    let opaque = Opaque {
        operator: "com.example.Mystery".into(),
        node: Vec::new(),
        operands: vec![Operand::Value { rank: 4 }],
        outputs: vec![vec![1, 8, 6, 6]],
    };
    nodes[3] = Node { name: "mystery".into(), op: Op::Opaque(opaque.into()), ..nodes[3].clone() };
    let network = Network { graph: Graph::new(Shape::new(1, 6, 6), nodes).unwrap(), ..network };
    let expected = "node 'mystery' computes com.example.Mystery, which cannot be run here; \
                    prune without training and train the pruned network elsewhere";
    let dataset = stripes();
    assert_eq!(evaluate(&network, &dataset, &dataset.test).unwrap_err().to_string(), expected);
    assert_eq!(fit(network, &dataset, &recipe(), &mut go_on).unwrap_err().to_string(), expected);
}
