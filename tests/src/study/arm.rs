//! One arm of the study: which network, pruned how far and how, from which seed. Owns names; trains nothing.

use std::fmt;

use pruner_core::plan::WidthPolicy;
use pruner_core::pruning::Pruning;
use pruner_core::rectify::Reinit;
use pruner_core::sensitivity::Measure;
use serde::{Deserialize, Serialize};

/// One training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// A name of the zoo.
    pub network: String,
    /// How many times fewer parameters than the dense network; 1 for the dense one.
    pub ratio: f64,
    /// How it is pruned.
    pub method: Method,
    /// Of weights, pruning and training.
    pub seed: u64,
    /// Training images.
    pub images: usize,
    /// Passes over them.
    pub epochs: usize,
    /// Images of one step.
    #[serde(default = "usual_batch")]
    pub batch: usize,
}

/// Of the results that name none.
fn usual_batch() -> usize {
    128
}

/// What a training may take; arms are compared at the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Training images.
    pub images: usize,
    /// Passes over them.
    pub epochs: usize,
    /// Images of one step.
    pub batch: usize,
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, epochs, batch } = self;
        write!(f, "{images} images, {epochs} epochs, batch {batch}")
    }
}

/// How a network is pruned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Not at all.
    Dense,
    /// Single weights by synaptic flow, masked while training: unstructured pruning at initialisation.
    Unstructured,
    /// Whole channels, by a measure of sensitivity and an exponent from it to widths.
    Structured {
        /// Which measure.
        measure: Measure,
        /// 0: all layers alike, which makes the measure irrelevant.
        exponent: f64,
        /// What the network starts from.
        reinit: Reinit,
    },
    /// The structured default's widths, channels drawn at random.
    RandomChannels,
    /// The structured default, learning from the dense network as well.
    Distilled,
}

/// Arms that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Series {
    /// Every measure and exponent at 16.21 times, to choose the default.
    Ablation,
    /// Dense, unstructured, structured, uniform, random, kept weights and distilled, at all ratios.
    Headline,
}

/// The paper's.
pub(super) const RATIO: f64 = 16.21;
/// Those of the headline.
const RATIOS: [f64; 3] = [4.0, RATIO, 64.0];
const EXPONENTS: [f64; 3] = [0.25, 0.5, 1.0];
/// At which the measures are compared: strong enough to tell them apart.
const MEASURES_AT: f64 = 0.5;

impl Method {
    /// What the product does unless told otherwise.
    pub fn product() -> Self {
        let Pruning { measure, widths, reinit, .. } = Pruning::default();
        Self::Structured { measure, exponent: widths.exponent, reinit }
    }

    /// The same for every layer.
    fn uniform() -> Self {
        let Pruning { measure, reinit, .. } = Pruning::default();
        Self::Structured { measure, exponent: 0.0, reinit }
    }

    /// For people.
    pub fn title(&self) -> String {
        let product = Self::product();
        match self {
            Self::Dense => "dense".to_owned(),
            Self::Unstructured => "unstructured (SynFlow mask)".to_owned(),
            same if *same == Self::uniform() => "uniform width".to_owned(),
            Self::Structured { measure, exponent, reinit } => {
                let start =
                    if *reinit == Pruning::default().reinit { String::new() } else { format!(", {reinit}") };
                let default = if *self == product { " (the default)" } else { "" };
                format!("structured, {measure}, exponent {exponent}{start}{default}")
            }
            Self::RandomChannels => "random channels".to_owned(),
            Self::Distilled => "structured, distilled".to_owned(),
        }
    }
}

impl Arm {
    /// For people.
    pub fn title(&self) -> String {
        let Self { network, ratio, method, seed, .. } = self;
        match method {
            Method::Dense => format!("{network} dense, seed {seed}"),
            _ => format!("{network} 1/{ratio} {}, seed {seed}", method.title()),
        }
    }

    /// What its training takes.
    pub fn effort(&self) -> Effort {
        Effort { images: self.images, epochs: self.epochs, batch: self.batch }
    }

    /// How its channels are chosen, where any are.
    pub fn pruning(&self) -> Pruning {
        let usual = Pruning { density: 1.0 / self.ratio, seed: self.seed, ..Pruning::default() };
        match self.method {
            Method::Structured { measure, exponent, reinit } => {
                let widths = WidthPolicy { exponent, ..usual.widths };
                Pruning { measure, widths, reinit, ..usual }
            }
            Method::Dense | Method::Unstructured | Method::RandomChannels | Method::Distilled => usual,
        }
    }

    /// Whether both arms make a network of the same shapes, so that one timing serves both.
    pub fn is_shaped_like(&self, other: &Self) -> bool {
        let shape = |arm: &Self| {
            let Pruning { measure, widths, seed, .. } = arm.pruning();
            let structured = !matches!(arm.method, Method::Dense | Method::Unstructured);
            structured.then_some((arm.ratio, measure, widths.exponent, seed))
        };
        self.network == other.network && shape(self) == shape(other)
    }

    /// The arms of a series for one network.
    pub fn series(series: Series, network: &str, seeds: &[u64], effort: Effort) -> Vec<Self> {
        let product = Pruning::default();
        let structured = |measure: Measure, exponent: f64, reinit: Reinit| Method::Structured {
            measure,
            exponent,
            reinit,
        };
        let methods: Vec<(f64, Method)> = match series {
            Series::Ablation => {
                let measures = Measure::ALL.iter().map(|&m| structured(m, MEASURES_AT, product.reinit));
                let exponents = EXPONENTS.iter().map(|&e| structured(product.measure, e, product.reinit));
                let mut methods: Vec<Method> = Vec::new();
                for method in measures.chain(exponents).chain([Method::uniform()]) {
                    if !methods.contains(&method) {
                        methods.push(method);
                    }
                }
                methods.into_iter().map(|method| (RATIO, method)).collect()
            }
            Series::Headline => {
                let compared = [Method::Unstructured, Method::product(), Method::uniform()];
                let at_all =
                    RATIOS.iter().flat_map(|&ratio| compared.iter().map(move |m| (ratio, m.clone())));
                let once = [
                    Method::RandomChannels,
                    structured(product.measure, product.widths.exponent, Reinit::SliceKept),
                    Method::Distilled,
                ];
                std::iter::once((1.0, Method::Dense))
                    .chain(at_all)
                    .chain(once.into_iter().map(|method| (RATIO, method)))
                    .collect()
            }
        };
        let arm = |seed: u64, (ratio, method): &(f64, Method)| Self {
            network: network.to_owned(),
            ratio: *ratio,
            method: method.clone(),
            seed,
            images: effort.images,
            epochs: effort.epochs,
            batch: effort.batch,
        };
        seeds.iter().flat_map(|&seed| methods.iter().map(move |method| arm(seed, method))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFORT: Effort = Effort { images: 100, epochs: 1, batch: 10 };

    #[test]
    fn a_series_has_each_arm_once() {
        for series in [Series::Ablation, Series::Headline] {
            let arms = Arm::series(series, "resnet20", &[1, 2], EFFORT);
            for (index, arm) in arms.iter().enumerate() {
                assert!(!arms[..index].contains(arm), "{}", arm.title());
            }
            assert!(arms.iter().any(|arm| arm.method == Method::product() && arm.ratio == RATIO));
        }
        assert_eq!(Arm::series(Series::Headline, "resnet20", &[1], EFFORT).len(), 13);
    }

    #[test]
    fn like_shapes_share_a_timing() {
        let arms = Arm::series(Series::Headline, "resnet20", &[1], EFFORT);
        let at = |method: &Method| arms.iter().find(|a| a.method == *method && a.ratio != 4.0).unwrap();
        let product = at(&Method::product());
        assert!(product.is_shaped_like(at(&Method::RandomChannels)));
        assert!(product.is_shaped_like(at(&Method::Distilled)));
        assert!(at(&Method::Dense).is_shaped_like(at(&Method::Unstructured)), "a mask leaves all shapes");
        assert!(!product.is_shaped_like(at(&Method::uniform())));
    }
}
