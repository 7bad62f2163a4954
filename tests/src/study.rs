//! The study: what pruning at initialisation costs in accuracy, and what it saves. Trains arm after arm with equal budgets,
//! keeps every result in a file of JSON lines as it comes, and writes the page from that file alone. An arm whose result
//! is there is not trained again, so that the study may be cut off and gone on with.

mod arm;
mod page;
mod plot;
mod results;
mod timing;
mod train;

use std::path::PathBuf;

use anyhow::{Context, Result};
use pruner_core::dataset::{self, Dataset, Split};
use pruner_core::graph::Shape;

pub use arm::{Arm, Effort, Method, Series};
use results::Results;

use crate::dataset::fashion_mnist;

/// What to do, from the command line.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which arms.
    pub arms: Vec<Arm>,
    /// JSON lines of results.
    pub results: PathBuf,
    /// The page; pictures lie beside it.
    pub page: PathBuf,
    /// Where data sets are fetched to.
    pub cache: PathBuf,
    /// The command as it was typed, for the page.
    pub command: String,
}

/// Trains what has no result, times what has no time, writes the page.
///
/// # Errors
/// When the data set cannot be had, a training fails, or a file cannot be written; results so far are kept.
pub fn run(plan: &Plan) -> Result<()> {
    let mut results = Results::open(&plan.results)?;
    let wanted: Vec<&Arm> = plan.arms.iter().filter(|arm| !results.has(arm)).collect();
    if !wanted.is_empty() {
        let dataset = padded(&dataset::read_idx(&fashion_mnist(&plan.cache)?)?);
        let mut teachers = train::Teachers::default();
        for (index, arm) in wanted.iter().enumerate() {
            let title = format!("{}/{} {}", index + 1, wanted.len(), arm.title());
            let outcome = train::train(arm, &dataset, &mut teachers, &title)
                .with_context(|| format!("arm {}", arm.title()))?;
            results.add(outcome, &plan.command)?;
        }
    }
    timing::time_all(&mut results, &plan.cache)?;
    page::write(&results, &plan.page)
}

/// Fashion-MNIST's 28x28 with two black pixels around: 32x32, which VGG's five poolings need.
fn padded(dataset: &Dataset) -> Dataset {
    const BORDER: usize = 2;
    let Shape { channels, height, width } = dataset.shape;
    let shape = Shape::new(channels, height + 2 * BORDER, width + 2 * BORDER);
    let pad = |split: &Split| {
        let mut images = vec![0; split.len() * shape.numel()];
        for (index, image) in images.chunks_exact_mut(shape.numel()).enumerate() {
            for (row, pixels) in split.pixels(index).chunks_exact(width).enumerate() {
                let (channel, row) = (row / height, row % height + BORDER);
                let start = (channel * shape.height + row) * shape.width + BORDER;
                image[start..start + width].copy_from_slice(pixels);
            }
        }
        Split::new(images, (0..split.len()).map(|index| split.label(index)).collect(), shape.numel())
    };
    Dataset::new(shape, pad(&dataset.train), pad(&dataset.test))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_framed_in_black() {
        let split = Split::new((1..=8).collect(), vec![0, 1], 4);
        let dataset = padded(&Dataset::new(Shape::new(1, 2, 2), split.clone(), split));
        assert_eq!(dataset.shape, Shape::new(1, 6, 6));
        let second = dataset.train.pixels(1);
        assert_eq!([second[14], second[15], second[20], second[21]], [5, 6, 7, 8]);
        assert_eq!(second.iter().filter(|&&pixel| pixel == 0).count(), 32);
        assert_eq!(dataset.test.label(1), 1);
    }
}
