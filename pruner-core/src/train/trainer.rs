//! Training under way: one network, one data set, one recipe, epoch by epoch. Between epochs it can be written down
//! and gone on with, to the same bits.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::augment::Batches;
use super::checkpoint::{Best, Checkpoint};
use super::evaluate::run;
use super::loss::CrossEntropy;
use super::schedule::Rates;
use super::sgd::Sgd;
use super::{Recipe, Step, TrainError, check_shapes};
use crate::dataset::Dataset;
use crate::exec::Executor;
use crate::graph::{Graph, Network};
use crate::saliency::Mask;

/// Training under way.
pub struct Trainer {
    graph: Graph,
    /// With what is held out taken from its training images.
    dataset: Dataset,
    held_out: Option<crate::dataset::Split>,
    recipe: Recipe,
    rates: Rates,
    executor: Executor<f32>,
    params: Vec<f32>,
    grads: Vec<f32>,
    sgd: Sgd,
    loss: CrossEntropy<f32>,
    teacher: Option<Teacher>,
    /// 1 where a number may change, 0 where a mask holds it at 0; empty without a mask.
    mask: Vec<f32>,
    epochs: usize,
    steps: usize,
    best: Option<Best>,
    busy: Duration,
    images: usize,
}

/// A trained network that is looked at while another learns.
struct Teacher {
    executor: Executor<f32>,
    params: Vec<f32>,
}

impl Trainer {
    /// Training of `network` on `dataset.train` that has not begun.
    pub fn new(network: Network, dataset: &Dataset, recipe: &Recipe) -> Result<Self, TrainError> {
        check_shapes(&network.graph, dataset)?;
        let mut dataset = dataset.clone();
        let mut held_out = None;
        if let Some(stop) = recipe.early_stop.filter(|stop| stop.held_out > 0.0) {
            let (train, rest) = dataset.train.hold_out(f64::from(stop.held_out));
            dataset.train = train;
            held_out = Some(rest);
        }
        recipe.check(&dataset.train)?;
        if held_out.as_ref().is_some_and(crate::dataset::Split::is_empty) {
            return Err(TrainError::Empty);
        }
        let executor = Executor::new(&network.graph, recipe.batch)?;
        let params = executor.layout().gather(&network.weights)?;
        Ok(Self {
            rates: Rates::new(recipe, dataset.train.len() / recipe.batch),
            grads: vec![0.0; params.len()],
            sgd: Sgd::new(executor.layout(), recipe),
            loss: CrossEntropy::new(dataset.classes, recipe.label_smoothing),
            teacher: None,
            mask: Vec::new(),
            graph: network.graph,
            dataset,
            held_out,
            recipe: recipe.clone(),
            executor,
            params,
            epochs: 0,
            steps: 0,
            best: None,
            busy: Duration::ZERO,
            images: 0,
        })
    }

    /// The same with the weights that `mask` drops held at 0: unstructured pruning.
    pub fn masked(mut self, mask: &Mask) -> Result<Self, TrainError> {
        self.mask = vec![1.0; self.params.len()];
        for entry in self.executor.layout().entries() {
            let Some(kept) = mask.kept(&entry.tensor) else { continue };
            let held = &mut self.mask[entry.range.clone()];
            held.fill(0.0);
            for &place in kept {
                let length = entry.range.len();
                let place = held.get_mut(place as usize).ok_or_else(|| TrainError::Mask {
                    tensor: entry.tensor.clone(),
                    place,
                    length,
                })?;
                *place = 1.0;
            }
        }
        hold(&self.mask, &mut self.params);
        Ok(self)
    }

    /// The same with `teacher` beside it, as [`Recipe::distillation`] says.
    pub fn taught(mut self, teacher: &Network) -> Result<Self, TrainError> {
        check_shapes(&teacher.graph, &self.dataset)?;
        let executor = Executor::new(&teacher.graph, self.recipe.batch)?;
        let params = executor.layout().gather(&teacher.weights)?;
        self.teacher = Some(Teacher { executor, params });
        self.loss = self.loss.distilled(self.recipe.distillation);
        Ok(self)
    }

    /// The same gone on with from where `checkpoint` was taken. Fails where that was of another network, recipe or data set.
    pub fn resumed(mut self, checkpoint: &Checkpoint) -> Result<Self, TrainError> {
        checkpoint.check(&self.recipe, &self.dataset)?;
        self.params = self.executor.layout().gather(&checkpoint.weights)?;
        if checkpoint.velocity.len() != self.params.len()
            || checkpoint.best.as_ref().is_some_and(|best| best.params.len() != self.params.len())
        {
            return Err(TrainError::Checkpoint { problem: "it is of another network".to_owned() });
        }
        self.sgd.velocity.copy_from_slice(&checkpoint.velocity);
        self.epochs = checkpoint.epochs;
        self.steps = checkpoint.epochs * (self.dataset.train.len() / self.recipe.batch);
        self.best.clone_from(&checkpoint.best);
        Ok(self)
    }

    /// Epochs that are done.
    pub fn epochs(&self) -> usize {
        self.epochs
    }

    /// Whether nothing is left to do: all epochs are done, or the held-out images got no better for long enough.
    pub fn is_done(&self) -> bool {
        let patience = self.recipe.early_stop.map(|stop| stop.patience);
        let waited = self.best.as_ref().map_or(0, |best| self.epochs - best.epoch);
        self.epochs >= self.recipe.epochs || patience.is_some_and(|patience| waited >= patience)
    }

    /// One pass over the training images. `on_step` hears of every step and may break.
    pub fn epoch(&mut self, on_step: &mut dyn FnMut(&Step) -> ControlFlow<()>) -> Result<(), TrainError> {
        let dataset = self.dataset.clone();
        let recipe = self.recipe.clone();
        let mut batches = Batches::new(&dataset, &recipe, self.epochs);
        let (mut loss, mut correct, mut seen) = (0.0, 0, 0);
        let mut start = Instant::now();
        while batches.next() {
            let (batch_loss, batch_correct) = self.step(batches.images(), batches.labels())?;
            self.busy += start.elapsed();
            self.images += recipe.batch;
            loss += batch_loss;
            correct += batch_correct;
            seen += 1;
            let report = Step {
                epoch: self.epochs + 1,
                epochs: recipe.epochs,
                step: self.steps,
                steps: self.rates.steps(),
                loss: loss / f64::from(seen as u32),
                accuracy: correct as f64 / (seen * recipe.batch) as f64,
                images_per_second: self.images as f64 / self.busy.as_secs_f64(),
            };
            if on_step(&report).is_break() {
                return Err(TrainError::Cancelled { step: self.steps });
            }
            start = Instant::now();
        }
        self.epochs += 1;
        self.look_at_held_out()
    }

    /// Where training stands, to go on with later.
    pub fn checkpoint(&self) -> Result<Checkpoint, TrainError> {
        Ok(Checkpoint {
            recipe: self.recipe.clone(),
            data: Checkpoint::mark(&self.dataset),
            epochs: self.epochs,
            weights: self.executor.layout().scatter(&self.params)?,
            velocity: self.sgd.velocity.clone(),
            best: self.best.clone(),
        })
    }

    /// The network as it is now; with early stopping, as it was after its best epoch.
    pub fn finish(self) -> Result<Network, TrainError> {
        let params = self.best.as_ref().map_or(&self.params, |best| &best.params);
        let weights = self.executor.layout().scatter(params)?;
        Ok(Network { graph: self.graph, weights })
    }

    /// One batch forward, backward and into the parameters; its mean loss and rightly classified images.
    fn step(&mut self, images: &[f32], labels: &[u8]) -> Result<(f64, usize), TrainError> {
        let logits = self.executor.forward_train(&mut self.params, images, labels.len());
        let (mut loss, correct) = self.loss.measure(logits, labels);
        if let Some(Teacher { executor, params }) = &mut self.teacher {
            loss = self.loss.learn_from(loss, logits, executor.forward_eval(params, images, labels.len()));
        }
        self.steps += 1;
        if !loss.is_finite() {
            return Err(TrainError::Diverged { step: self.steps });
        }
        self.executor.backward(&self.params, self.loss.gradient(), &mut self.grads);
        hold(&self.mask, &mut self.grads);
        self.sgd.step(&mut self.params, &self.grads, self.rates.rate(self.steps - 1));
        Ok((loss, correct))
    }

    fn look_at_held_out(&mut self) -> Result<(), TrainError> {
        let Some(held_out) = &self.held_out else { return Ok(()) };
        let loss = run(&self.graph, &self.params, &self.dataset, held_out)?.loss;
        if self.best.as_ref().is_none_or(|best| loss < best.loss) {
            self.best = Some(Best { epoch: self.epochs, loss, params: self.params.clone() });
        }
        Ok(())
    }
}

/// What a mask drops is 0; without a mask all stays.
fn hold(mask: &[f32], values: &mut [f32]) {
    for (value, &held) in values.iter_mut().zip(mask) {
        *value *= held;
    }
}
