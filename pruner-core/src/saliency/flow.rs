//! Synaptic flow through a network of absolute weights, in f32 with a power of two per tensor: scores, and which weights
//! die. Owns the sizes of the weights and all that flows; never the schedule by which weights die (see `synflow`).

mod dense;
mod geometry;
mod layer;
mod lower;
mod paths;
mod product;
mod route;
mod scaled;
mod sparse;
mod split;
#[cfg(test)]
mod tests;
mod window;

use rayon::prelude::*;

use lower::{Kernel, Program, Step};
use route::Spread;
use scaled::Scaled;

use super::mask::{Selection, Ties, cut};
use super::{SaliencyError, Scores};
use crate::graph::{Network, NodeId};

/// The flow through the output, in the units that scores are stored in, is at most 2^this: f32 then holds scores from
/// 2^-186 of it on.
const ROOM: i32 = 60;

/// A network of absolute weights, and what flows through it.
#[derive(Debug)]
pub(super) struct Flow {
    program: Program,
    values: Vec<Scaled>,
    /// Of each value; whether it holds anything is known during a pass only.
    gradients: Vec<Scaled>,
    /// A second contribution to a gradient, until it is added.
    spare: Scaled,
    /// Scores are stored times 2^this.
    unit: i32,
}

impl Flow {
    /// Fails where weights are missing, do not fit the graph, or are not finite.
    pub(super) fn new(network: &Network) -> Result<Self, SaliencyError> {
        let program = Program::of(network)?;
        let zeros = || program.lens.iter().map(|len| Scaled::zeros(*len)).collect::<Vec<_>>();
        let (mut values, mut gradients) = (zeros(), zeros());
        for ones in [&mut values[0], &mut gradients[program.output]] {
            ones.values.fill(1.0);
            ones.exponent = 0;
        }
        Ok(Self { values, gradients, program, spare: Scaled::default(), unit: 0 })
    }

    /// Weights that are scored, dead ones included.
    pub(super) fn weights(&self) -> usize {
        self.program.weights
    }

    /// Scores every weight that is alive; returns R, the sum of the outputs, as a number and a power of two.
    pub(super) fn score(&mut self) -> (f64, i32) {
        for Step { kernel, inputs, output } in &mut self.program.steps {
            let (before, after) = self.values.split_at_mut(*output);
            let (values, y) = (inputs.iter().map(|&input| &before[input]), &mut after[0]);
            let x = &before[inputs[0]];
            match kernel {
                Kernel::Route(route) => route.forward(values, y),
                Kernel::Spread => Spread::forward(values, y),
                Kernel::Layer { layer, .. } => layer.forward(x, y),
                Kernel::Affine(affine) => affine.forward(x, y),
                Kernel::Window(window) => window.forward(x, y),
                Kernel::Sum => {
                    y.clone_from(x);
                    inputs[1..].iter().for_each(|&input| y.add(&before[input]));
                    y.normalise();
                }
            }
        }
        let output = &self.values[self.program.output];
        let flow: f64 = output.values.iter().map(|&value| f64::from(value)).sum();
        self.unit = ROOM - output.exponent - flow.max(1.0).log2().ceil() as i32;
        self.backward();
        (flow, self.values[self.program.output].exponent)
    }

    fn backward(&mut self) {
        let mut reached = vec![false; self.values.len()];
        reached[self.program.output] = true;
        for Step { kernel, inputs, output } in self.program.steps.iter_mut().rev() {
            if !reached[*output] {
                // Nothing that leads to the output reads it.
                if let Kernel::Layer { layer, .. } = kernel {
                    layer.cut_off();
                }
                continue;
            }
            let (before, after) = self.gradients.split_at_mut(*output);
            let dy = &after[0];
            let unit = self.unit;
            for (index, &input) in inputs.iter().enumerate() {
                let wanted = input > 0;
                let first = wanted && !std::mem::replace(&mut reached[input], true);
                let dx = if first { &mut before[input] } else { &mut self.spare };
                if wanted {
                    dx.values.resize(self.program.lens[input], 0.0);
                }
                match kernel {
                    Kernel::Layer { layer, .. } => layer.backward(dy, unit, wanted.then_some(&mut *dx)),
                    Kernel::Affine(_)
                    | Kernel::Window(_)
                    | Kernel::Sum
                    | Kernel::Route(_)
                    | Kernel::Spread
                        if !wanted => {}
                    Kernel::Route(route) => route.backward(index, dy, dx),
                    Kernel::Spread => Spread::backward(dy, dx),
                    Kernel::Affine(affine) => affine.backward(dy, dx),
                    Kernel::Window(window) => window.backward(dy, dx),
                    Kernel::Sum => dx.clone_from(dy),
                }
                if wanted && !first {
                    before[input].add(&self.spare);
                    before[input].normalise();
                }
            }
        }
    }

    /// Lets all weights die but the `kept` of the highest scores.
    pub(super) fn keep(&mut self, kept: usize, selection: Selection) {
        let scores: Vec<&[f32]> = self.layers().flat_map(|(_, layer)| layer.scores()).collect();
        let cut = cut(&scores, (kept, self.program.weights), selection);
        let end = match cut.ties {
            Ties::None | Ties::All => None,
            Ties::First(count) => {
                let equal = self.layers().flat_map(|(_, layer)| layer.that_score(cut.threshold));
                let mut equal: Vec<usize> = equal.collect();
                equal.sort_unstable();
                Some(equal[count])
            }
        };
        self.program.steps.par_iter_mut().for_each(|step| {
            if let Kernel::Layer { layer, .. } = &mut step.kernel {
                layer.retain(cut.least());
                if let Some(end) = end {
                    layer.drop_equal(cut.threshold, end);
                }
            }
        });
    }

    /// The scores that are left, summed up layer by layer.
    pub(super) fn scores(&self) -> Scores {
        let unit = self.public_unit();
        Scores { layers: self.layers().map(|(node, layer)| (node.0, layer.summary(unit))).collect() }
    }

    /// The scores that are left, weight by weight in each layer's tensor; 0 where a weight is dead.
    pub(super) fn by_weight(&self) -> impl Iterator<Item = (NodeId, Vec<f64>)> {
        let unit = self.public_unit();
        self.layers().map(move |(node, layer)| (node, layer.weight_scores(unit)))
    }

    /// Beyond f64's range one factor for all layers, which changes no rank, brings the scores back into it.
    fn public_unit(&self) -> i32 {
        self.unit.max(ROOM - 1000)
    }

    fn layers(&self) -> impl Iterator<Item = (NodeId, &layer::Layer)> {
        self.program.steps.iter().filter_map(|step| match &step.kernel {
            Kernel::Layer { node, layer } => Some((*node, &**layer)),
            Kernel::Affine(_) | Kernel::Sum | Kernel::Window(_) | Kernel::Route(_) | Kernel::Spread => None,
        })
    }
}

#[cfg(test)]
impl Flow {
    /// Every weight's score of one layer, dead or alive, in the network's order.
    pub(super) fn weight_scores(&self, node: NodeId) -> Vec<f64> {
        let (_, layer) = self.layers().find(|(other, _)| *other == node).expect("a layer with weights");
        layer.weight_scores(self.unit)
    }
}
