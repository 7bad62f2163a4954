//! Labelled images from files on disk, and their normalisation. The only module of the crate that reads files.
//! Never decides what is trained or how.

mod cifar;
mod error;
mod folder;
mod format;
mod hold_out;
mod idx;
mod labelled;
mod tensors;

use std::sync::Arc;

pub use cifar::{read_cifar10, read_cifar100};
pub use error::DatasetError;
pub use folder::{TestShare, TestShareError, read_folder};
pub use format::{Format, detect, outline, read};
pub use idx::read_idx;
pub use labelled::LabelledImages;

use crate::graph::Shape;

/// Images to train on and images to test on, of one shape and one set of classes.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Of each image.
    pub shape: Shape,
    /// Every label is smaller. What the format says; where it says nothing, one more than the largest label.
    pub classes: usize,
    /// What the classes are called, label by label; empty where the files do not say.
    pub class_names: Vec<String>,
    /// Mean of each channel over the training images, pixels in 0..=1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel over the training images; 1 where a channel is constant.
    pub std: Vec<f32>,
    /// Images to train on.
    pub train: Split,
    /// Images to measure accuracy on.
    pub test: Split,
}

/// Some images and their labels. Cheap to clone: the pixels are shared.
#[derive(Debug, Clone)]
pub struct Split {
    images: Arc<Vec<u8>>, // a slice would have to be copied into its place
    labels: Arc<[u8]>,
    pixels_each: usize,
    len: usize,
}

impl Split {
    /// Images of `pixels_each` bytes and one label each. Panics if their numbers differ.
    pub fn new(images: Vec<u8>, labels: Vec<u8>, pixels_each: usize) -> Self {
        assert_eq!(images.len(), labels.len() * pixels_each, "every image needs one label");
        let len = labels.len();
        Self { images: Arc::new(images), labels: labels.into(), pixels_each, len }
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Image `index`, channel by channel, row by row. Panics past the end.
    pub fn pixels(&self, index: usize) -> &[u8] {
        assert!(index < self.len, "image {index} of {}", self.len);
        &self.images[index * self.pixels_each..][..self.pixels_each]
    }

    /// The class of image `index`. Panics past the end.
    pub fn label(&self, index: usize) -> u8 {
        assert!(index < self.len, "label {index} of {}", self.len);
        self.labels[index]
    }

    /// How many images each of `classes` classes has. Panics if a label is larger.
    pub fn per_class(&self, classes: usize) -> Vec<usize> {
        let mut counts = vec![0; classes];
        self.labels[..self.len].iter().for_each(|&label| counts[usize::from(label)] += 1);
        counts
    }

    /// The first `count` images, or all if there are fewer.
    pub fn take(&self, count: usize) -> Self {
        Self { len: self.len.min(count), ..self.clone() }
    }
}

impl Dataset {
    /// Takes mean and deviation from `train`. Panics if an image's size is not that of `shape`, or `train` is empty.
    pub fn new(shape: Shape, train: Split, test: Split) -> Self {
        assert!(!train.is_empty(), "a training split has images");
        assert!([&train, &test].iter().all(|split| split.pixels_each == shape.numel()), "images of {shape}");
        let largest = [&train, &test].iter().flat_map(|split| &split.labels[..split.len]).max();
        let classes = usize::from(largest.copied().unwrap_or(0)) + 1;
        let (mean, std) = moments(shape, &train);
        Self { shape, classes: classes.max(2), class_names: Vec::new(), mean, std, train, test }
    }

    /// The same with `classes` classes, and their names where they are known. Panics if a label is no class, or there
    /// are more or fewer names than classes.
    fn with_classes(self, classes: usize, class_names: Vec<String>) -> Self {
        assert!(self.classes <= classes.max(2), "{} labels for {classes} classes", self.classes);
        assert!(class_names.is_empty() || class_names.len() == classes, "every class has one name");
        Self { classes, class_names, ..self }
    }

    /// Pixels to numbers of mean 0 and deviation 1 over the training images. Panics if lengths differ.
    pub fn normalise(&self, pixels: &[u8], out: &mut [f32]) {
        assert_eq!(pixels.len(), out.len());
        let area = self.shape.area();
        for (channel, (pixels, out)) in pixels.chunks(area).zip(out.chunks_mut(area)).enumerate() {
            let factor = 1.0 / (255.0 * self.std[channel]);
            let offset = self.mean[channel] / self.std[channel];
            out.iter_mut().zip(pixels).for_each(|(out, &pixel)| *out = f32::from(pixel) * factor - offset);
        }
    }

    /// The same dataset with only the first `count` training images; mean and deviation stay those of all.
    pub fn with_train(&self, count: usize) -> Self {
        Self { train: self.train.take(count), ..self.clone() }
    }
}

/// Mean and deviation of each channel, pixels in 0..=1; exact integer sums.
fn moments(shape: Shape, split: &Split) -> (Vec<f32>, Vec<f32>) {
    let mut sums = vec![(0u64, 0u64); shape.channels];
    for index in 0..split.len() {
        for (plane, sums) in split.pixels(index).chunks_exact(shape.area()).zip(&mut sums) {
            for &pixel in plane {
                sums.0 += u64::from(pixel);
                sums.1 += u64::from(pixel) * u64::from(pixel);
            }
        }
    }
    let count = (split.len() * shape.area()) as f64;
    let of = |(sum, squares): &(u64, u64)| {
        let mean = *sum as f64 / count;
        let deviation = (*squares as f64 / count - mean * mean).max(0.0).sqrt();
        ((mean / 255.0) as f32, if deviation > 0.0 { (deviation / 255.0) as f32 } else { 1.0 })
    };
    sums.iter().map(of).unzip()
}
