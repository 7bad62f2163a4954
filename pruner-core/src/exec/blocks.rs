//! How a batch lies in memory: blocks of a fixed number of images, each channels x images x positions.
//! A channel's numbers are contiguous within a block (one matrix row, one run for batch norm), and blocks are
//! disjoint slices, so they are the unit of parallel work. Block boundaries never depend on the thread count.

use super::scalar::Scalar;
use crate::graph::Shape;

/// A batch cut into blocks of `group` images; the last may be smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) group: usize,
    pub(super) batch: usize,
}

impl Blocks {
    /// How many blocks.
    pub(super) fn count(self) -> usize {
        self.batch.div_ceil(self.group)
    }

    /// Length of a full block of features.
    pub(super) fn len(self, shape: Shape) -> usize {
        self.group * shape.numel()
    }

    /// Cuts at most `most` runs of whole blocks, as equal as may be; returns blocks per run.
    pub(super) fn per_run(self, most: usize) -> usize {
        self.count().div_ceil(most.max(1)).max(1)
    }
}

/// The same features for every image, channels x positions, to blocks.
pub(super) fn repeat<T: Scalar>(blocks: Blocks, shape: Shape, one: &[T], packed: &mut [T]) {
    for block in packed.chunks_mut(blocks.len(shape)) {
        let run = block.len() / shape.channels;
        for (channel, from) in block.chunks_exact_mut(run).zip(one.chunks_exact(shape.area())) {
            channel.chunks_exact_mut(shape.area()).for_each(|plane| plane.copy_from_slice(from));
        }
    }
}

/// NCHW to blocks.
pub(super) fn pack<T: Scalar>(blocks: Blocks, shape: Shape, nchw: &[T], packed: &mut [T]) {
    let (channels, area) = (shape.channels, shape.area());
    for (from, to) in nchw.chunks(blocks.len(shape)).zip(packed.chunks_mut(blocks.len(shape))) {
        let images = from.len() / shape.numel();
        for (index, plane) in from.chunks_exact(area).enumerate() {
            let (image, channel) = (index / channels, index % channels);
            to[(channel * images + image) * area..][..area].copy_from_slice(plane);
        }
    }
}

/// Blocks to NCHW.
pub(super) fn unpack<T: Scalar>(blocks: Blocks, shape: Shape, packed: &[T], nchw: &mut [T]) {
    let (channels, area) = (shape.channels, shape.area());
    for (from, to) in packed.chunks(blocks.len(shape)).zip(nchw.chunks_mut(blocks.len(shape))) {
        let images = from.len() / shape.numel();
        for (index, plane) in to.chunks_exact_mut(area).enumerate() {
            let (image, channel) = (index / channels, index % channels);
            plane.copy_from_slice(&from[(channel * images + image) * area..][..area]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_puts_a_channel_of_a_block_in_one_run() {
        let (blocks, shape) = (Blocks { group: 2, batch: 3 }, Shape::new(2, 1, 2));
        let nchw: Vec<f32> = (0..12u8).map(f32::from).collect();
        let mut packed = vec![0.0; 12];
        pack(blocks, shape, &nchw, &mut packed);
        assert_eq!(packed, [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let mut back = vec![0.0; 12];
        unpack(blocks, shape, &packed, &mut back);
        assert_eq!(back, nchw);
    }
}
