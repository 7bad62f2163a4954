//! The networks that we ship as structure: names, counts and geometry as in the papers. Never weights (see `init`).

mod probe;
mod resnet;
mod stack;
mod vgg;

use std::fmt;
use std::str::FromStr;

pub use probe::{Probe, probes};

use crate::graph::{Graph, GraphError, Shape};

/// A network that can be built by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ZooNetwork {
    /// ResNet-20 (He et al. 2015, section 4.2) with 1x1 convolution shortcuts (option B).
    ResNet20,
    /// VGG-16 with batch norm and one linear layer, as usual on small images.
    Vgg16Bn,
}

impl ZooNetwork {
    /// Every network, in the order they are listed to people.
    pub const ALL: [Self; 2] = [Self::ResNet20, Self::Vgg16Bn];

    /// The name people type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ResNet20 => "resnet20",
            Self::Vgg16Bn => "vgg16-bn",
        }
    }
}

impl fmt::Display for ZooNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no network of ours has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no network '{name}'; known: {}", ZooNetwork::ALL.map(ZooNetwork::name).join(", "))]
pub struct UnknownNetwork {
    /// What was asked for.
    pub name: String,
}

impl FromStr for ZooNetwork {
    type Err = UnknownNetwork;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|network| network.name() == name);
        known.ok_or_else(|| UnknownNetwork { name: name.to_owned() })
    }
}

/// The network's graph for images of shape `input` and `classes` logits.
///
/// Fails where the image is empty, too small for the pooling, or there are no classes.
pub fn build(which: ZooNetwork, input: Shape, classes: usize) -> Result<Graph, GraphError> {
    match which {
        ZooNetwork::ResNet20 => resnet::resnet(input, classes, resnet::Size { stem: 16, blocks: 3 }),
        ZooNetwork::Vgg16Bn => vgg::vgg(input, classes, &vgg::VGG16),
    }
}

#[cfg(test)]
mod tests;
