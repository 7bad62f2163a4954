//! Where a training stands, as bytes: safetensors, so that any tool reads the weights. Never touches the disk.

use std::collections::{BTreeMap, HashMap};

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::{Recipe, TrainError};
use crate::dataset::Dataset;
use crate::graph::weights::{to_bytes, to_numbers};
use crate::graph::{Shape, Weights};

/// The key of the metadata under which everything but numbers stands.
const KEY: &str = "reconvene";
/// Tensors are `weights/NAME` as in [`Weights`], and these two, which are flat in the graph's order.
const WEIGHTS: &str = "weights/";
const VELOCITY: &str = "velocity";
const BEST: &str = "best";

/// Where a training stands between two epochs.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    pub(super) recipe: Recipe,
    pub(super) data: DataMark,
    pub(super) epochs: usize,
    pub(super) weights: Weights,
    pub(super) velocity: Vec<f32>,
    pub(super) best: Option<Best>,
}

/// The best epoch so far, by the loss of images that were held out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Best {
    pub(super) epoch: usize,
    pub(super) loss: f64,
    pub(super) params: Vec<f32>,
}

/// What tells one data set from another without reading it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct DataMark {
    shape: [usize; 3],
    classes: usize,
    images: usize,
    mean: Vec<f32>,
    std: Vec<f32>,
}

/// All but numbers.
#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    recipe: Recipe,
    data: DataMark,
    epochs: usize,
    best: Option<(usize, f64)>,
}

const VERSION: u32 = 1;

impl Checkpoint {
    /// Epochs that were done when it was taken.
    pub fn epochs(&self) -> usize {
        self.epochs
    }

    pub(super) fn mark(dataset: &Dataset) -> DataMark {
        let Shape { channels, height, width } = dataset.shape;
        DataMark {
            shape: [channels, height, width],
            classes: dataset.classes,
            images: dataset.train.len(),
            mean: dataset.mean.clone(),
            std: dataset.std.clone(),
        }
    }

    /// Whether a training by `recipe` on `dataset` can go on from here.
    pub(super) fn check(&self, recipe: &Recipe, dataset: &Dataset) -> Result<(), TrainError> {
        let other = |what: &str| Err(TrainError::Checkpoint { problem: format!("it is of another {what}") });
        if self.recipe != *recipe {
            return other("recipe");
        }
        if self.data != Self::mark(dataset) {
            return other("data set");
        }
        if self.epochs > recipe.epochs {
            return Err(TrainError::Checkpoint { problem: "it is from after the last epoch".to_owned() });
        }
        Ok(())
    }

    /// As a safetensors file. The same training makes the same bytes.
    pub fn encode(&self) -> Result<Vec<u8>, TrainError> {
        let failed = |problem: String| TrainError::Checkpoint { problem };
        let mut tensors = BTreeMap::new();
        for (name, tensor) in &self.weights {
            let values: Vec<f32> = tensor
                .flatten_all()
                .and_then(|flat| flat.to_vec1())
                .map_err(|error| failed(format!("{name}: {error}")))?;
            tensors.insert(format!("{WEIGHTS}{name}"), (tensor.dims().to_vec(), to_bytes(&values)));
        }
        tensors.insert(VELOCITY.to_owned(), (vec![self.velocity.len()], to_bytes(&self.velocity)));
        if let Some(best) = &self.best {
            tensors.insert(BEST.to_owned(), (vec![best.params.len()], to_bytes(&best.params)));
        }
        let header = Header {
            version: VERSION,
            recipe: self.recipe.clone(),
            data: self.data.clone(),
            epochs: self.epochs,
            best: self.best.as_ref().map(|best| (best.epoch, best.loss)),
        };
        let header = serde_json::to_string(&header).map_err(|error| failed(error.to_string()))?;
        let views = tensors.iter().map(|(name, (dims, bytes))| {
            TensorView::new(Dtype::F32, dims.clone(), bytes).map(|view| (name.as_str(), view))
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(|error| failed(error.to_string()))?;
        let metadata = HashMap::from([(KEY.to_owned(), header)]);
        safetensors::serialize(views, Some(metadata)).map_err(|error| failed(error.to_string()))
    }

    /// Reads what [`Checkpoint::encode`] wrote; anything else is an error.
    pub fn decode(file: &[u8]) -> Result<Self, TrainError> {
        let failed = |problem: String| TrainError::Checkpoint { problem };
        let (_, metadata) = SafeTensors::read_metadata(file)
            .map_err(|error| failed(format!("no safetensors file: {error}")))?;
        let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let header = header.ok_or_else(|| failed("it says nothing of a training".to_owned()))?;
        let header: Header = serde_json::from_str(header)
            .map_err(|error| failed(format!("it is not of this version: {error}")))?;
        if header.version != VERSION {
            return Err(failed(format!("it is of version {}, not {VERSION}", header.version)));
        }
        let tensors = SafeTensors::deserialize(file).map_err(|error| failed(error.to_string()))?;
        let mut weights = Weights::new();
        let (mut velocity, mut best) = (Vec::new(), None);
        for (name, view) in tensors.tensors() {
            let values =
                numbers(&view).ok_or_else(|| failed(format!("{name} holds no finite f32 numbers")))?;
            match name.as_str() {
                VELOCITY => velocity = values,
                BEST => best = Some(values),
                _ => {
                    let Some(name) = name.strip_prefix(WEIGHTS) else { continue };
                    let tensor = Tensor::from_vec(values, view.shape(), &Device::Cpu)
                        .map_err(|error| failed(format!("{name}: {error}")))?;
                    weights.insert(name.to_owned(), tensor);
                }
            }
        }
        let best = header.best.zip(best).map(|((epoch, loss), params)| Best { epoch, loss, params });
        if best.as_ref().is_some_and(|best| best.epoch > header.epochs) {
            return Err(failed("its best epoch is after its last".to_owned()));
        }
        let Header { recipe, data, epochs, .. } = header;
        Ok(Self { recipe, data, epochs, weights, velocity, best })
    }
}

/// The numbers of a tensor; `None` where they are no f32, or not finite.
fn numbers(view: &TensorView<'_>) -> Option<Vec<f32>> {
    to_numbers(view).filter(|values| values.iter().all(|value| value.is_finite()))
}
