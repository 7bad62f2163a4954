//! SNIP (Lee et al. 2019, "SNIP: Single-shot network pruning based on connection sensitivity").

use super::SaliencyError;
use super::gradient::LossGradient;
use super::rounds::Saliency;
use crate::dataset::LabelledImages;
use crate::graph::Graph;

/// |w * dL/dw|, L the mean cross-entropy: how much the loss would change if the weight were scaled. As the Synaptic-Flow
/// code has it: batch norm with its running statistics, the absolute value taken of the gradient over all images.
pub(super) struct Snip<'a>(LossGradient<'a>);

impl<'a> Snip<'a> {
    pub(super) fn new(graph: &Graph, images: &'a LabelledImages) -> Result<Self, SaliencyError> {
        LossGradient::new(graph, images, 1.0).map(Self)
    }
}

impl Saliency for Snip<'_> {
    fn score(&mut self, weights: &[f64], scores: &mut [f64]) {
        self.0.gradient(weights, scores);
        scores.iter_mut().zip(weights).for_each(|(score, weight)| *score = (*score * weight).abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Node, NodeId, Op, Shape};

    /// Test vector T4: one linear layer, one image.
    #[test]
    fn snip_of_one_linear_layer() {
        let linear = Op::Linear { inputs: 2, outputs: 2, bias: false };
        let nodes = vec![
            Node { name: "in".to_owned(), op: Op::Input, inputs: Vec::new() },
            Node { name: "w".to_owned(), op: linear, inputs: vec![NodeId(0)] },
        ];
        let graph = Graph::new(Shape::vector(2), nodes).unwrap();
        let images = LabelledImages::new(Shape::vector(2), 2, vec![1.0, 2.0], vec![0]);
        let mut snip = Snip::new(&graph, &images).unwrap();
        let weights = [0.5, -1.0, 1.0, 0.25];
        assert!((snip.0.loss(&weights) - 3.048_587_351_6).abs() < 1e-9);
        let mut scores = [0.0; 4];
        snip.score(&weights, &mut scores);
        let expected = [0.476_287_063_4, 1.905_148_253_6, 0.952_574_126_8, 0.476_287_063_4];
        assert!(scores.iter().zip(expected).all(|(got, wanted)| (got - wanted).abs() < 1e-9), "{scores:?}");
        let total: f64 = scores.iter().sum();
        for (score, share) in scores.iter().zip([0.125, 0.5, 0.25, 0.125]) {
            assert!((score / total - share).abs() < 1e-12);
        }
    }

    /// Of two images with opposite gradients nothing is left: the absolute value is taken of their sum.
    #[test]
    fn batches_are_summed_before_the_absolute_value() {
        let linear = Op::Linear { inputs: 1, outputs: 2, bias: false };
        let nodes = vec![
            Node { name: "in".to_owned(), op: Op::Input, inputs: Vec::new() },
            Node { name: "w".to_owned(), op: linear, inputs: vec![NodeId(0)] },
        ];
        let graph = Graph::new(Shape::vector(1), nodes).unwrap();
        let count = 40;
        let labels: Vec<u8> = (0..count).map(|image| image / (count / 2)).collect();
        let images = LabelledImages::new(Shape::vector(1), 2, vec![1.0; count.into()], labels);
        let mut scores = [1.0; 2];
        Snip::new(&graph, &images).unwrap().score(&[0.5, 0.5], &mut scores);
        assert!(scores.iter().all(|score| *score < 1e-15), "{scores:?}");
    }
}
