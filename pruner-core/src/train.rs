//! Training by stochastic gradient descent, and accuracy. Same network, dataset, recipe: the same result to the
//! bit, on any number of threads of one machine. Never prunes, never reads files.

mod augment;
mod error;
mod evaluate;
pub(crate) mod loss;
mod schedule;
mod sgd;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

pub use augment::Flip;
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};

use augment::Batches;
use loss::CrossEntropy;
use schedule::Schedule;
use sgd::Sgd;

use crate::dataset::{Dataset, Split};
use crate::exec::Executor;
use crate::graph::{Graph, Network};

/// How to train.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Passes over the training images; each leaves out the images that fill no batch, other ones each time.
    pub epochs: usize,
    /// Images per step.
    pub batch: usize,
    /// The highest learning rate, reached after the warm-up; falls to 0 along a cosine.
    pub learning_rate: f32,
    /// Of Nesterov's method.
    pub momentum: f32,
    /// L2 penalty on weights of convolutions and linear layers; none on biases and batch norm.
    pub weight_decay: f32,
    /// Epochs in which the learning rate rises linearly.
    pub warmup_epochs: f32,
    /// Share of the target spread evenly over all classes; 0 for plain cross-entropy.
    pub label_smoothing: f32,
    /// Of the order of images, and of flips and shifts.
    pub seed: u64,
    /// Whether images are mirrored at random.
    pub flip: Flip,
    /// Most pixels by which images are moved at random in each direction; black comes in.
    pub shift: u8,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            epochs: 10,
            batch: 128,
            learning_rate: 0.1,
            momentum: 0.9,
            weight_decay: 1e-4,
            warmup_epochs: 0.5,
            label_smoothing: 0.0,
            seed: 0,
            flip: Flip::Horizontal,
            shift: 0,
        }
    }
}

/// Where training stands after a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// From 1.
    pub epoch: usize,
    /// In all.
    pub epochs: usize,
    /// From 1, over all epochs.
    pub step: usize,
    /// In all.
    pub steps: usize,
    /// Mean over this epoch's steps so far.
    pub loss: f64,
    /// Share of this epoch's images so far that were classified rightly before their step.
    pub accuracy: f64,
    /// Speed since the start, the callback's time not counted.
    pub images_per_second: f64,
}

/// Trains `network` on `dataset.train`. `on_step` hears of every step and may break, which ends in
/// [`TrainError::Cancelled`]. A loss that is no finite number ends in [`TrainError::Diverged`].
pub fn fit(
    network: Network,
    dataset: &Dataset,
    recipe: &Recipe,
    on_step: &mut dyn FnMut(&Step) -> ControlFlow<()>,
) -> Result<Network, TrainError> {
    check_shapes(&network.graph, dataset)?;
    check_recipe(recipe, &dataset.train)?;
    let mut run = Run::new(&network, dataset, recipe)?;
    for epoch in 0..recipe.epochs {
        run.epoch(epoch, on_step)?;
    }
    let weights = run.executor.layout().scatter(&run.params)?;
    Ok(Network { graph: network.graph, weights })
}

/// Training under way.
struct Run<'a> {
    dataset: &'a Dataset,
    recipe: &'a Recipe,
    schedule: Schedule,
    executor: Executor<f32>,
    params: Vec<f32>,
    grads: Vec<f32>,
    sgd: Sgd,
    loss: CrossEntropy<f32>,
    step: usize,
    busy: Duration,
}

impl<'a> Run<'a> {
    fn new(network: &Network, dataset: &'a Dataset, recipe: &'a Recipe) -> Result<Self, TrainError> {
        let executor = Executor::new(&network.graph, recipe.batch)?;
        let params = executor.layout().gather(&network.weights)?;
        Ok(Self {
            dataset,
            recipe,
            schedule: Schedule::new(recipe, dataset.train.len() / recipe.batch),
            grads: vec![0.0; params.len()],
            sgd: Sgd::new(executor.layout(), recipe),
            loss: CrossEntropy::new(dataset.classes, recipe.label_smoothing),
            executor,
            params,
            step: 0,
            busy: Duration::ZERO,
        })
    }

    fn epoch(
        &mut self,
        epoch: usize,
        on_step: &mut dyn FnMut(&Step) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let mut batches = Batches::new(self.dataset, self.recipe, epoch);
        let (mut loss, mut correct, mut seen) = (0.0, 0, 0);
        let mut start = Instant::now();
        while batches.next() {
            let (batch_loss, batch_correct) = self.step(batches.images(), batches.labels())?;
            self.busy += start.elapsed();
            loss += batch_loss;
            correct += batch_correct;
            seen += 1;
            let images = (seen * self.recipe.batch) as f64;
            let report = Step {
                epoch: epoch + 1,
                epochs: self.recipe.epochs,
                step: self.step,
                steps: self.schedule.steps(),
                loss: loss / f64::from(seen as u32),
                accuracy: correct as f64 / images,
                images_per_second: (self.step * self.recipe.batch) as f64 / self.busy.as_secs_f64(),
            };
            if on_step(&report).is_break() {
                return Err(TrainError::Cancelled { step: self.step });
            }
            start = Instant::now();
        }
        Ok(())
    }

    /// One batch forward, backward and into the parameters; its mean loss and rightly classified images.
    fn step(&mut self, images: &[f32], labels: &[u8]) -> Result<(f64, usize), TrainError> {
        let logits = self.executor.forward_train(&mut self.params, images, labels.len());
        let (loss, correct) = self.loss.measure(logits, labels);
        self.step += 1;
        if !loss.is_finite() {
            return Err(TrainError::Diverged { step: self.step });
        }
        self.executor.backward(&self.params, self.loss.gradient(), &mut self.grads);
        self.sgd.step(&mut self.params, &self.grads, self.schedule.learning_rate(self.step - 1));
        Ok((loss, correct))
    }
}

/// Whether the network reads such images and tells such classes apart.
fn check_shapes(graph: &Graph, dataset: &Dataset) -> Result<(), TrainError> {
    let (input, outputs) = (graph.input_shape(), graph.shape(graph.output()).numel());
    if input != dataset.shape {
        return Err(TrainError::Images { network: input, dataset: dataset.shape });
    }
    if outputs != dataset.classes {
        return Err(TrainError::Classes { network: outputs, dataset: dataset.classes });
    }
    Ok(())
}

fn check_recipe(recipe: &Recipe, train: &Split) -> Result<(), TrainError> {
    let wrong = |setting, allowed| Err(TrainError::Recipe { setting, allowed });
    if recipe.epochs == 0 {
        return wrong("epochs", "at least 1");
    }
    if recipe.batch == 0 {
        return wrong("batch", "at least 1");
    }
    if !(recipe.learning_rate > 0.0 && recipe.learning_rate.is_finite()) {
        return wrong("learning_rate", "above 0");
    }
    if !(0.0..1.0).contains(&recipe.momentum) {
        return wrong("momentum", "from 0 to below 1");
    }
    if !(recipe.weight_decay >= 0.0 && recipe.weight_decay.is_finite()) {
        return wrong("weight_decay", "at least 0");
    }
    if !(recipe.warmup_epochs >= 0.0 && recipe.warmup_epochs.is_finite()) {
        return wrong("warmup_epochs", "at least 0");
    }
    if !(0.0..1.0).contains(&recipe.label_smoothing) {
        return wrong("label_smoothing", "from 0 to below 1");
    }
    if train.len() < recipe.batch {
        return Err(TrainError::TooFewImages { images: train.len(), batch: recipe.batch });
    }
    Ok(())
}
