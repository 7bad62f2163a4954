//! Training images set aside, to see when training stops helping.

use super::Split;

impl Split {
    /// Those that stay, and a `share` of the images from 0 to 1, taken evenly over their order.
    #[must_use]
    pub fn hold_out(&self, share: f64) -> (Self, Self) {
        let taken = |index: usize| (index as f64 * share).floor() as usize;
        let (out, stay): (Vec<usize>, Vec<usize>) =
            (0..self.len()).partition(|&index| taken(index + 1) > taken(index));
        (self.pick(&stay), self.pick(&out))
    }

    fn pick(&self, indices: &[usize]) -> Self {
        let pixels = indices.iter().flat_map(|&index| self.pixels(index)).copied().collect();
        let labels = indices.iter().map(|&index| self.label(index)).collect();
        Self::new(pixels, labels, self.pixels_each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_every_fourth() {
        let split = Split::new((0..10).collect(), (0..10).collect(), 1);
        let (stay, out) = split.hold_out(0.25);
        assert_eq!((0..out.len()).map(|i| out.label(i)).collect::<Vec<_>>(), [3, 7]);
        assert_eq!((stay.len(), stay.pixels(3), stay.label(3)), (8, &[4][..], 4));
        assert!(split.hold_out(0.0).1.is_empty());
    }
}
