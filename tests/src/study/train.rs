//! One arm from network to accuracy.

use std::ops::ControlFlow;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use pruner_core::budget::Budget;
use pruner_core::dataset::Dataset;
use pruner_core::graph::cost::cost;
use pruner_core::graph::onnx::{self, BatchNorms};
use pruner_core::plan::PrunePlan;
use pruner_core::saliency::{Mask, MaskRecipe, ScoreRecipe, mask};
use pruner_core::train::{Flip, Recipe, Schedule, Trainer, evaluate};
use pruner_core::{Network, init, zoo};
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

use super::arm::{Arm, Method};
use super::results::Trained;

/// What is trained: a network, and what a mask drops of it.
pub(super) struct Subject {
    pub(super) network: Network,
    pub(super) mask: Option<Mask>,
}

/// The same for all arms.
fn recipe(arm: &Arm) -> Recipe {
    Recipe {
        epochs: arm.epochs,
        batch: arm.batch,
        learning_rate: 0.1,
        schedule: Schedule::OneCycle,
        weight_decay: 5e-4,
        seed: arm.seed,
        flip: Flip::Horizontal,
        shift: 2,
        ..Recipe::default()
    }
}

/// Trained dense networks, each with the arm that it was trained in: the teachers of distilled arms.
#[derive(Debug, Default)]
pub(super) struct Teachers(Vec<(Arm, Network)>);

impl Teachers {
    /// The arm that trains the teacher of `arm`.
    fn arm_of(arm: &Arm) -> Arm {
        Arm { ratio: 1.0, method: Method::Dense, ..arm.clone() }
    }

    fn of(&self, arm: &Arm) -> Option<&Network> {
        let teacher = Self::arm_of(arm);
        self.0.iter().find(|(arm, _)| *arm == teacher).map(|(_, network)| network)
    }
}

/// Prunes, trains and evaluates. A dense network stays among the teachers.
pub(super) fn train(arm: &Arm, dataset: &Dataset, teachers: &mut Teachers, title: &str) -> Result<Trained> {
    let dataset = dataset.with_train(arm.images);
    let dense = dense(arm, &dataset)?;
    let started = processor_seconds();
    let Subject { network, mask } = prune(arm, &dense, &dataset)?;
    let seconds_to_prune = processor_seconds() - started;
    let dropped = mask.as_ref().map_or(0, |mask| {
        let all: usize = mask.tensors().map(|(name, _)| dense.weights[name].elem_count()).sum();
        all - mask.count()
    });
    let costs = cost(&network.graph);

    let recipe = recipe(arm);
    if arm.method == Method::Distilled && teachers.of(arm).is_none() {
        let trainer = Trainer::new(dense.clone(), &dataset, &recipe)?;
        teachers.0.push((Teachers::arm_of(arm), follow(trainer, &format!("{title}: teacher"))?));
    }
    let started = processor_seconds();
    let mut trainer = Trainer::new(network, &dataset, &recipe)?;
    if let Some(mask) = &mask {
        trainer = trainer.masked(mask)?;
    }
    if arm.method == Method::Distilled {
        trainer = trainer.taught(teachers.of(arm).context("its teacher was just trained")?)?;
    }
    let trained = follow(trainer, title)?;
    let seconds_to_train = processor_seconds() - started;
    if arm.method == Method::Dense {
        teachers.0.push((arm.clone(), trained.clone()));
    }
    let evaluation = evaluate(&trained, &dataset, &dataset.test)?;
    Ok(Trained {
        arm: arm.clone(),
        accuracy: evaluation.accuracy,
        test_images: evaluation.images,
        params: costs.params - dropped as u64,
        dense_params: cost(&dense.graph).params,
        macs: costs.macs,
        onnx_bytes: onnx::encode(&trained, BatchNorms::Folded)?.len() as u64,
        seconds_to_prune,
        seconds_to_train,
        machine: String::new(),
        command: String::new(),
    })
}

/// Seconds of processor time that this process has used: other work on the machine does not lengthen them.
fn processor_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The network before pruning, for 32x32 images of Fashion-MNIST's classes.
pub(super) fn dense(arm: &Arm, dataset: &Dataset) -> Result<Network> {
    let graph = zoo::build(arm.network.parse()?, dataset.shape, dataset.classes)?;
    Ok(Network { weights: init::init(&graph, arm.seed), graph })
}

/// What an arm makes of the dense network before any training.
pub(super) fn prune(arm: &Arm, dense: &Network, dataset: &Dataset) -> Result<Subject> {
    let go_on = &mut |_, _| ControlFlow::Continue(());
    let pruning = arm.pruning();
    let structured = |network| Ok(Subject { network, mask: None });
    match arm.method {
        Method::Dense => structured(dense.clone()),
        Method::Unstructured => {
            let (criterion, rounds) = (pruning.criterion, pruning.rounds);
            let recipe = ScoreRecipe { criterion, rounds, density: pruning.density, seed: arm.seed };
            let masked = mask(dense, &MaskRecipe::exact(recipe), None, go_on)?;
            Ok(Subject { network: dense.clone(), mask: Some(masked.mask) })
        }
        Method::Structured { .. } | Method::RandomChannels | Method::Distilled => {
            let images = pruning.images(dataset);
            let planner = pruning.planner(dense, images.as_ref(), go_on)?;
            let params = (cost(&dense.graph).params as f64 / arm.ratio) as u64;
            let mut plan = planner.plan(&Budget { params: Some(params), ..Budget::default() }, None, 1)?;
            if arm.method == Method::RandomChannels {
                draw(&mut plan, dense, arm.seed);
            }
            structured(pruning.carry_out(dense, &plan)?)
        }
    }
}

/// As many channels of each group as the plan keeps, others.
fn draw(plan: &mut PrunePlan, dense: &Network, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let groups = pruner_core::group::groups(&dense.graph);
    for (id, kept) in &mut plan.keep {
        let group = groups.iter().find(|group| group.id == *id).expect("the plan is of this network");
        *kept = sample(&mut rng, group.width, kept.len()).into_vec();
        kept.sort_unstable();
    }
}

/// Trains to the end under a bar.
fn follow(mut trainer: Trainer, title: &str) -> Result<Network> {
    let style = ProgressStyle::with_template("{prefix}  {bar:30} {pos}/{len} {msg} {eta} left")
        .expect("the template is a constant");
    let bar = ProgressBar::new(0).with_style(style).with_prefix(title.to_owned());
    while !trainer.is_done() {
        trainer
            .epoch(&mut |step| {
                bar.set_length(step.steps as u64);
                bar.set_position(step.step as u64);
                bar.set_message(format!("loss {:.3} {:.0} images/s", step.loss, step.images_per_second));
                ControlFlow::Continue(())
            })
            .with_context(|| format!("epoch {}", trainer.epochs() + 1))?;
    }
    bar.finish();
    Ok(trainer.finish()?)
}
