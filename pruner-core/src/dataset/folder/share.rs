//! Which images of a class are tested on where the files do not say: a share, taken evenly and always the same.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The share of each class's images that is tested on: above 0, below 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct TestShare(f64);

/// A number that is no share.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{0} is not allowed; more than 0, less than 1, as in 0.2")]
pub struct TestShareError(pub f64);

impl TestShare {
    /// An error unless `share` is above 0 and below 1.
    pub fn new(share: f64) -> Result<Self, TestShareError> {
        if share > 0.0 && share < 1.0 { Ok(Self(share)) } else { Err(TestShareError(share)) }
    }

    /// What is trained on, and what is tested on: the nearest number of images to the share, but at least one on either
    /// side, spread evenly over their order. Panics if there are fewer than two.
    pub(super) fn divide(self, images: Vec<PathBuf>) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let count = images.len();
        let tested = ((count as f64 * self.0).round() as usize).clamp(1, count - 1);
        let is_tested = |index: usize| (index + 1) * tested / count > index * tested / count;
        let (test, train): (Vec<_>, Vec<_>) =
            images.into_iter().enumerate().partition(|&(index, _)| is_tested(index));
        let paths = |images: Vec<(usize, PathBuf)>| images.into_iter().map(|(_, path)| path).collect();
        (paths(train), paths(test))
    }
}

impl TryFrom<f64> for TestShare {
    type Error = TestShareError;

    fn try_from(share: f64) -> Result<Self, TestShareError> {
        Self::new(share)
    }
}

impl From<TestShare> for f64 {
    fn from(share: TestShare) -> Self {
        share.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_inside_the_unit() {
        for share in [0.0, 1.0, -0.2, 1.5, f64::NAN, f64::INFINITY] {
            assert!(TestShare::new(share).is_err(), "{share}");
        }
        assert_eq!(
            TestShare::new(1.0).unwrap_err().to_string(),
            "1 is not allowed; more than 0, less than 1, as in 0.2"
        );
    }

    #[test]
    fn every_fifth_is_a_fifth() {
        let tested = |share: f64, count: usize| -> Vec<usize> {
            let images = (0..count).map(|index| PathBuf::from(index.to_string())).collect();
            let (train, test) = TestShare::new(share).unwrap().divide(images);
            assert_eq!(train.len() + test.len(), count);
            test.iter().map(|path| path.to_str().unwrap().parse().unwrap()).collect()
        };
        assert_eq!(tested(0.2, 10), [4, 9]);
        assert_eq!(tested(0.29, 100).len(), 29);
        assert_eq!(tested(0.5, 4), [1, 3]);
        assert_eq!(tested(0.01, 3), [2]);
        assert_eq!(tested(0.99, 3), [1, 2]);
    }
}
