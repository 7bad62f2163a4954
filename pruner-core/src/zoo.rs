//! The networks that we ship as structure: names, counts and geometry as in the papers. Never weights (see `init`).

mod deep_resnet;
mod mobilenet;
mod probe;
mod resnet;
mod stack;
mod vgg;

use std::fmt;
use std::str::FromStr;

pub use probe::{Probe, probes};

use crate::graph::{Graph, GraphError, Shape};
use deep_resnet::{Block, Deep};
use stack::Stem;

/// A network that can be built by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ZooNetwork {
    /// ResNet-20 (He et al. 2015, section 4.2) with 1x1 convolution shortcuts (option B).
    ResNet20,
    /// ResNet-32, likewise.
    ResNet32,
    /// ResNet-44, likewise.
    ResNet44,
    /// ResNet-56, likewise.
    ResNet56,
    /// ResNet-18 (He et al. 2015, table 1) for large images: a 7x7 stem of step 2 and a max pooling.
    ResNet18,
    /// ResNet-34, likewise.
    ResNet34,
    /// ResNet-50, likewise; its blocks take their step in the 3x3 convolution, as torchvision's do.
    ResNet50,
    /// ResNet-18 for small images: a 3x3 stem of step 1, no pooling.
    ResNet18Cifar,
    /// ResNet-34, likewise.
    ResNet34Cifar,
    /// ResNet-50, likewise.
    ResNet50Cifar,
    /// VGG-11 (Simonyan and Zisserman 2014, configuration A) with batch norm and one linear layer, as usual on small images.
    Vgg11Bn,
    /// VGG-13 (configuration B), likewise.
    Vgg13Bn,
    /// VGG-16 with batch norm and one linear layer, as usual on small images.
    Vgg16Bn,
    /// VGG-19 (configuration E), likewise.
    Vgg19Bn,
    /// MobileNetV2 of width 1 (Sandler et al. 2018, table 2) for large images: a stem of step 2.
    MobileNetV2,
    /// MobileNetV2 for small images: a stem of step 1.
    MobileNetV2Cifar,
}

impl ZooNetwork {
    /// Every network, in the order they are listed to people.
    pub const ALL: [Self; 16] = [
        Self::ResNet20,
        Self::ResNet32,
        Self::ResNet44,
        Self::ResNet56,
        Self::ResNet18,
        Self::ResNet34,
        Self::ResNet50,
        Self::ResNet18Cifar,
        Self::ResNet34Cifar,
        Self::ResNet50Cifar,
        Self::Vgg11Bn,
        Self::Vgg13Bn,
        Self::Vgg16Bn,
        Self::Vgg19Bn,
        Self::MobileNetV2,
        Self::MobileNetV2Cifar,
    ];

    /// The name people type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ResNet20 => "resnet20",
            Self::ResNet32 => "resnet32",
            Self::ResNet44 => "resnet44",
            Self::ResNet56 => "resnet56",
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::ResNet50 => "resnet50",
            Self::ResNet18Cifar => "resnet18-cifar",
            Self::ResNet34Cifar => "resnet34-cifar",
            Self::ResNet50Cifar => "resnet50-cifar",
            Self::Vgg11Bn => "vgg11-bn",
            Self::Vgg13Bn => "vgg13-bn",
            Self::Vgg16Bn => "vgg16-bn",
            Self::Vgg19Bn => "vgg19-bn",
            Self::MobileNetV2 => "mobilenet-v2",
            Self::MobileNetV2Cifar => "mobilenet-v2-cifar",
        }
    }

    /// The least height and width of an image, in pixels. Only VGG's poolings have no padding; the other networks'
    /// features shrink to one pixel and stay there.
    pub const fn least_side(self) -> usize {
        match self {
            Self::Vgg11Bn | Self::Vgg13Bn | Self::Vgg16Bn | Self::Vgg19Bn => 1 << (vgg::STAGES - 1),
            Self::ResNet20
            | Self::ResNet32
            | Self::ResNet44
            | Self::ResNet56
            | Self::ResNet18
            | Self::ResNet34
            | Self::ResNet50
            | Self::ResNet18Cifar
            | Self::ResNet34Cifar
            | Self::ResNet50Cifar
            | Self::MobileNetV2
            | Self::MobileNetV2Cifar => 1,
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

/// Why a network cannot be built for some images.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BuildError {
    /// The features would shrink to nothing.
    #[error("{network} needs images of at least {least}x{least} pixels, not {height}x{width}")]
    TooSmall {
        /// Which network.
        network: ZooNetwork,
        /// Least height and width.
        least: usize,
        /// The images' height.
        height: usize,
        /// The images' width.
        width: usize,
    },
    /// Images without channels.
    #[error("{network} needs images of at least one channel")]
    NoChannels {
        /// Which network.
        network: ZooNetwork,
    },
    /// Nothing to tell apart.
    #[error("{network} needs at least one class")]
    NoClasses {
        /// Which network.
        network: ZooNetwork,
    },
    /// The nodes do not fit each other: a defect.
    #[error("{network} does not hold together")]
    Graph {
        /// Which network.
        network: ZooNetwork,
        /// Why.
        source: GraphError,
    },
}

/// The network's graph for images of shape `input` and `classes` logits.
///
/// Fails where the image has no channel or is too small for the pooling, or there are no classes.
pub fn build(which: ZooNetwork, input: Shape, classes: usize) -> Result<Graph, BuildError> {
    let (least, Shape { height, width, .. }) = (which.least_side(), input);
    if height.min(width) < least {
        return Err(BuildError::TooSmall { network: which, least, height, width });
    }
    if input.channels == 0 {
        return Err(BuildError::NoChannels { network: which });
    }
    if classes == 0 {
        return Err(BuildError::NoClasses { network: which });
    }
    let thin = |blocks| resnet::resnet(input, classes, resnet::Size { stem: 16, blocks });
    let deep = |deep: Deep, stem| deep_resnet::deep_resnet(input, classes, deep, stem);
    let (resnet18, resnet34, resnet50) = (
        Deep { block: Block::Basic, blocks: [2, 2, 2, 2] },
        Deep { block: Block::Basic, blocks: [3, 4, 6, 3] },
        Deep { block: Block::Bottleneck, blocks: [3, 4, 6, 3] },
    );
    let graph = match which {
        ZooNetwork::ResNet20 => thin(3),
        ZooNetwork::ResNet32 => thin(5),
        ZooNetwork::ResNet44 => thin(7),
        ZooNetwork::ResNet56 => thin(9),
        ZooNetwork::ResNet18 => deep(resnet18, Stem::LargeImages),
        ZooNetwork::ResNet34 => deep(resnet34, Stem::LargeImages),
        ZooNetwork::ResNet50 => deep(resnet50, Stem::LargeImages),
        ZooNetwork::ResNet18Cifar => deep(resnet18, Stem::SmallImages),
        ZooNetwork::ResNet34Cifar => deep(resnet34, Stem::SmallImages),
        ZooNetwork::ResNet50Cifar => deep(resnet50, Stem::SmallImages),
        ZooNetwork::Vgg11Bn => vgg::vgg(input, classes, &vgg::VGG11),
        ZooNetwork::Vgg13Bn => vgg::vgg(input, classes, &vgg::VGG13),
        ZooNetwork::Vgg16Bn => vgg::vgg(input, classes, &vgg::VGG16),
        ZooNetwork::Vgg19Bn => vgg::vgg(input, classes, &vgg::VGG19),
        ZooNetwork::MobileNetV2 => mobilenet::mobilenet_v2(input, classes, Stem::LargeImages),
        ZooNetwork::MobileNetV2Cifar => mobilenet::mobilenet_v2(input, classes, Stem::SmallImages),
    };
    graph.map_err(|source| BuildError::Graph { network: which, source })
}

#[cfg(test)]
mod tests;
