//! The gradient of the loss over a few labelled images, batch norm with its running statistics. Moves no weight.

use crate::dataset::LabelledImages;
use crate::exec::Executor;
use crate::graph::Graph;
use crate::train::loss::CrossEntropy;

use super::SaliencyError;

/// Images per pass: more would only need more memory.
const BATCH: usize = 32;

/// Mean cross-entropy over all images, of logits divided by a temperature. In f64, so that differences of it tell.
pub(crate) struct LossGradient<'a> {
    executor: Executor<f64>,
    cross_entropy: CrossEntropy<f64>,
    images: &'a LabelledImages,
    temperature: f64,
    /// Of one batch.
    grads: Vec<f64>,
}

impl<'a> LossGradient<'a> {
    /// Of a network of this graph. Fails where the images are none, or not what the network reads and tells apart.
    pub(crate) fn new(
        graph: &Graph,
        images: &'a LabelledImages,
        temperature: f64,
    ) -> Result<Self, SaliencyError> {
        let outputs = graph.shape(graph.output()).numel();
        if images.is_empty() {
            return Err(SaliencyError::NoImages);
        }
        if images.shape() != graph.input_shape() {
            let (network, images) = (graph.input_shape(), images.shape());
            return Err(SaliencyError::Images { network, images });
        }
        if images.classes() != outputs {
            return Err(SaliencyError::Classes { network: outputs, images: images.classes() });
        }
        let executor = Executor::new(graph, BATCH.min(images.len()))?;
        let grads = vec![0.0; executor.layout().len()];
        Ok(Self { executor, cross_entropy: CrossEntropy::new(outputs, 0.0), images, temperature, grads })
    }

    /// The loss at `weights`.
    pub(crate) fn loss(&mut self, weights: &[f64]) -> f64 {
        let mut loss = 0.0;
        self.each_batch(weights, |_, batch_loss| loss += batch_loss);
        loss
    }

    /// The gradient at `weights`, into `gradient`; batches are summed up before anything else is made of them.
    pub(crate) fn gradient(&mut self, weights: &[f64], gradient: &mut [f64]) {
        gradient.fill(0.0);
        self.each_batch(weights, |run, _| {
            let share = run.share();
            let logits: Vec<f64> =
                run.cross_entropy.gradient().iter().map(|by_logit| by_logit * share).collect();
            run.executor.backward(weights, &logits, &mut run.grads);
            gradient.iter_mut().zip(&run.grads).for_each(|(sum, part)| *sum += part);
        });
    }

    /// What a batch's mean counts by in the mean over all images, the temperature's factor included.
    fn share(&self) -> f64 {
        let batch = self.cross_entropy.gradient().len() / self.images.classes();
        batch as f64 / (self.images.len() as f64 * self.temperature)
    }

    /// Runs forward batch by batch; `then` gets each batch's part of the mean loss.
    fn each_batch(&mut self, weights: &[f64], mut then: impl FnMut(&mut Self, f64)) {
        let images = self.images;
        let numel = images.shape().numel();
        for (pixels, labels) in images.images().chunks(BATCH * numel).zip(images.labels().chunks(BATCH)) {
            let input: Vec<f64> = pixels.iter().map(|&pixel| f64::from(pixel)).collect();
            let logits = self.executor.forward_eval(weights, &input, labels.len());
            let logits: Vec<f64> = logits.iter().map(|logit| logit / self.temperature).collect();
            let (loss, _) = self.cross_entropy.measure(&logits, labels);
            then(self, loss * labels.len() as f64 / images.len() as f64);
        }
    }
}
