//! Batches of normalised images in a random order, mirrored and shifted at random. All chance comes from the
//! recipe's seed and the epoch, in one fixed order, so threads do not matter.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::Recipe;
use crate::dataset::Dataset;
use crate::graph::Shape;
use crate::named::named;

/// Whether training mirrors images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flip {
    /// Never.
    None,
    /// Left and right change places in one image of two.
    #[default]
    Horizontal,
}

named!(Flip, "flip", {
    None => "none",
    Horizontal => "horizontal",
});

/// One epoch's batches; images that fill none are left out.
pub(super) struct Batches<'a> {
    dataset: &'a Dataset,
    recipe: &'a Recipe,
    rng: ChaCha8Rng,
    order: Vec<usize>,
    at: usize,
    images: Vec<f32>,
    labels: Vec<u8>,
}

/// Where one image's pixels go.
#[derive(Debug, Clone, Copy)]
struct Placement {
    index: usize,
    mirrored: bool,
    /// Output (row, column) shows input (row + down, column + right).
    down: isize,
    right: isize,
}

impl<'a> Batches<'a> {
    pub(super) fn new(dataset: &'a Dataset, recipe: &'a Recipe, epoch: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
        rng.set_stream(epoch as u64);
        let mut order: Vec<usize> = (0..dataset.train.len()).collect();
        order.shuffle(&mut rng);
        let images = vec![0.0; recipe.batch * dataset.shape.numel()];
        Self { dataset, recipe, rng, order, at: 0, images, labels: Vec::with_capacity(recipe.batch) }
    }

    /// Fills the next batch; false when there is none.
    pub(super) fn next(&mut self) -> bool {
        let Some(order) = self.order.get(self.at..self.at + self.recipe.batch) else { return false };
        self.at += self.recipe.batch;
        let shift = i32::from(self.recipe.shift);
        let rng = &mut self.rng;
        let mut place = |&index: &usize| Placement {
            index,
            mirrored: match self.recipe.flip {
                Flip::None => false,
                Flip::Horizontal => rng.random(),
            },
            down: rng.random_range(-shift..=shift) as isize,
            right: rng.random_range(-shift..=shift) as isize,
        };
        let placements: Vec<Placement> = order.iter().map(&mut place).collect();
        self.labels.clear();
        self.labels.extend(order.iter().map(|&index| self.dataset.train.label(index)));
        let images = self.images.par_chunks_exact_mut(self.dataset.shape.numel());
        images.zip(&placements).for_each(|(image, placement)| fill(self.dataset, *placement, image));
        true
    }

    /// Of the current batch, normalised, N x C x H x W.
    pub(super) fn images(&self) -> &[f32] {
        &self.images
    }

    /// Of the current batch.
    pub(super) fn labels(&self) -> &[u8] {
        &self.labels
    }
}

fn fill(dataset: &Dataset, placement: Placement, image: &mut [f32]) {
    let pixels = dataset.train.pixels(placement.index);
    if placement.down == 0 && placement.right == 0 && !placement.mirrored {
        return dataset.normalise(pixels, image);
    }
    let mut moved = vec![0; pixels.len()];
    relocate(dataset.shape, placement, pixels, &mut moved);
    dataset.normalise(&moved, image);
}

/// Copies the pixels that stay inside; the rest stays as it is.
fn relocate(shape: Shape, placement: Placement, pixels: &[u8], moved: &mut [u8]) {
    let (height, width) = (shape.height, shape.width);
    for (row, line) in moved.chunks_exact_mut(width).enumerate() {
        let (channel, row) = (row / height, row % height);
        let Some(from) = row.checked_add_signed(placement.down).filter(|&from| from < height) else {
            continue;
        };
        let source = &pixels[(channel * height + from) * width..][..width];
        for (column, pixel) in line.iter_mut().enumerate() {
            let column = if placement.mirrored { width - 1 - column } else { column };
            if let Some(&value) = column.checked_add_signed(placement.right).and_then(|from| source.get(from))
            {
                *pixel = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relocated(placement: Placement) -> Vec<u8> {
        let mut moved = vec![0; 6];
        relocate(Shape::new(1, 2, 3), placement, &[1, 2, 3, 4, 5, 6], &mut moved);
        moved
    }

    #[test]
    fn mirrors_and_shifts() {
        let still = Placement { index: 0, mirrored: false, down: 0, right: 0 };
        assert_eq!(relocated(still), [1, 2, 3, 4, 5, 6]);
        assert_eq!(relocated(Placement { mirrored: true, ..still }), [3, 2, 1, 6, 5, 4]);
        assert_eq!(relocated(Placement { down: 1, right: -1, ..still }), [0, 4, 5, 0, 0, 0]);
        assert_eq!(relocated(Placement { mirrored: true, right: 1, ..still }), [0, 3, 2, 0, 6, 5]);
        assert_eq!(relocated(Placement { down: -2, ..still }), [0; 6]);
    }
}
