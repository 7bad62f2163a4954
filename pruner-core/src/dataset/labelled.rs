//! A few images with their classes, as numbers: what scores that need data look at. Never trained on.

use super::Dataset;
use crate::graph::Shape;

/// Some normalised images and their classes.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledImages {
    shape: Shape,
    classes: usize,
    images: Vec<f32>,
    labels: Vec<u8>,
}

impl LabelledImages {
    /// Images of `shape`, row-major, one after the other, each of one of `classes` classes. Panics if there are more or
    /// fewer numbers than the labels need, or a label is no class.
    pub fn new(shape: Shape, classes: usize, images: Vec<f32>, labels: Vec<u8>) -> Self {
        assert_eq!(images.len(), labels.len() * shape.numel(), "every image needs one label");
        assert!(labels.iter().all(|&label| usize::from(label) < classes), "every label is one of {classes}");
        Self { shape, classes, images, labels }
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Of each image.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Classes that the labels are of.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The classes, image by image.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// The numbers of all images.
    pub fn images(&self) -> &[f32] {
        &self.images
    }

    /// At most so many of them, evenly spread over all.
    pub fn spread(&self, most: usize) -> Self {
        let count = self.len().min(most);
        let chosen = (0..count).map(|index| index * self.len() / count);
        let numel = self.shape.numel();
        let images = chosen.clone().flat_map(|index| &self.images[index * numel..][..numel]);
        let images = images.copied().collect();
        Self { images, labels: chosen.map(|index| self.labels[index]).collect(), ..*self }
    }
}

impl Dataset {
    /// The first `per_class` training images of every class, or as many as there are, in their order; normalised. Scores
    /// made before training usually look at 10.
    pub fn sample(&self, per_class: usize) -> LabelledImages {
        let mut taken = vec![0; self.classes];
        let mut chosen = Vec::new();
        for index in 0..self.train.len() {
            let taken = &mut taken[usize::from(self.train.label(index))];
            if *taken < per_class {
                *taken += 1;
                chosen.push(index);
            }
        }
        let mut images = vec![0.0; chosen.len() * self.shape.numel()];
        for (image, &index) in images.chunks_exact_mut(self.shape.numel()).zip(&chosen) {
            self.normalise(self.train.pixels(index), image);
        }
        let labels = chosen.into_iter().map(|index| self.train.label(index)).collect();
        LabelledImages::new(self.shape, self.classes, images, labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Split;

    #[test]
    fn fewer_images_are_spread_over_all() {
        let images = LabelledImages::new(
            Shape::new(1, 1, 2),
            5,
            (0..10).map(|i| i as f32).collect(),
            vec![0, 1, 2, 3, 4],
        );
        let two = images.spread(2);
        assert_eq!((two.images(), two.labels()), ([0.0, 1.0, 4.0, 5.0].as_slice(), [0, 2].as_slice()));
        assert_eq!(images.spread(9), images);
        assert!(images.spread(0).is_empty());
    }

    #[test]
    fn a_sample_has_as_many_of_each_class_as_there_are() {
        let split = Split::new((0..6).collect(), vec![0, 0, 2, 0, 1, 2], 1);
        let dataset = Dataset::new(Shape::new(1, 1, 1), split.clone(), split);
        let sample = dataset.sample(2);
        assert_eq!(sample.labels(), [0, 0, 2, 1, 2]);
        assert_eq!((sample.len(), sample.classes()), (5, 3));
        for (image, pixel) in sample.images().iter().zip([0, 1, 2, 4, 5]) {
            let mut normalised = [0.0];
            dataset.normalise(&[pixel], &mut normalised);
            assert_eq!([*image], normalised);
        }
    }
}
