//! Convolution as patches (im2col) times weights, forward and backward; a linear layer is a 1x1 convolution of a
//! 1x1 image. Works block by block and within a block tile by tile, so that the patches of a tile stay in the cache.

mod backward;
mod depthwise;
mod patches;

use rayon::prelude::*;

use super::blocks::Blocks;
use super::gemm::{Matrix, MatrixMut, Write, gemm};
use super::lanes::vectorised;
use super::scalar::Scalar;
use super::scratch::Scratch;
use crate::graph::{Conv, Padding, Shape, Window};

pub(super) use backward::Gradients;

/// Fewest columns of a matrix product worth its overhead, if the block has as many.
const TILE_COLUMNS: usize = 256;
/// Most numbers in a tile's patches, if a single row of the image allows it: half a megabyte of f32.
const TILE_PATCHES: usize = 1 << 16;

/// A convolution on features of known shape.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) conv: Conv,
    pub(super) input: Shape,
    pub(super) output: Shape,
}

/// Consecutive output positions of a block: either whole images, or some rows of one.
#[derive(Debug, Clone, Copy)]
struct Tile {
    image: usize,
    images: usize,
    row: usize,
    rows: usize,
}

/// One tile of one of a convolution's groups.
#[derive(Clone, Copy)]
struct Part {
    /// Images in the block.
    images: usize,
    group: usize,
    tile: Tile,
}

/// A linear layer as a convolution.
pub(super) fn linear(inputs: usize, outputs: usize, bias: bool) -> Geometry {
    let conv = Conv { inputs, outputs, window: Window::square(1, 1, 0), groups: 1, bias };
    Geometry { conv, input: Shape::vector(inputs), output: Shape::vector(outputs) }
}

impl Geometry {
    /// Input channels, kernel rows and columns that one output channel reads.
    fn taps(&self) -> usize {
        self.conv.inputs / self.conv.groups * self.conv.window.area()
    }

    /// Output channels of one group.
    fn filters(&self) -> usize {
        self.conv.outputs / self.conv.groups
    }

    /// Numbers in the weight tensor.
    pub(super) fn weights(&self) -> usize {
        self.conv.outputs * self.taps()
    }

    /// Whether the input's own rows are the patches.
    fn is_pointwise(&self) -> bool {
        let Window { kernel, stride, padding, .. } = self.conv.window;
        kernel == [1, 1] && stride == [1, 1] && padding == Padding::default()
    }

    /// The tiles of a block of `images`.
    fn tiles(&self, images: usize) -> Vec<Tile> {
        let Shape { height, width, .. } = self.output;
        let most = if self.is_pointwise() { usize::MAX } else { TILE_PATCHES / self.taps() };
        let area = self.output.area();
        let cut = |len: usize, step: usize| (0..len).step_by(step).map(move |at| (at, step.min(len - at)));
        if area <= most.max(TILE_COLUMNS) {
            let step = (most.max(TILE_COLUMNS) / area).clamp(1, images);
            return cut(images, step)
                .map(|(image, images)| Tile { image, images, row: 0, rows: height })
                .collect();
        }
        let step = (most.max(TILE_COLUMNS) / width).clamp(1, height);
        let bands = |image| cut(height, step).map(move |(row, rows)| Tile { image, images: 1, row, rows });
        (0..images).flat_map(bands).collect()
    }

    /// First column of a tile among the block's, and how many.
    fn columns(&self, tile: Tile) -> (usize, usize) {
        let Shape { width, .. } = self.output;
        (tile.image * self.output.area() + tile.row * width, tile.images * tile.rows * width)
    }

    /// Calls `with` on the patches of one part: taps x columns.
    fn patches<T: Scalar>(&self, part: Part, x: &[T], buffer: &mut [T], with: impl FnOnce(Matrix<'_, T>)) {
        let (first, columns) = self.columns(part.tile);
        if self.is_pointwise() {
            let stride = part.images * self.input.area();
            let values = &x[part.group * self.taps() * stride + first..];
            return with(Matrix::rows(values, self.taps(), columns, stride));
        }
        let buffer = &mut buffer[..self.taps() * columns];
        vectorised!(patches::gather(self, part, x, buffer));
        with(Matrix::rows(buffer, self.taps(), columns, columns));
    }

    /// Length of the largest tile's patches, or of what takes their place; 0 where the input serves.
    fn patch_len(&self, images: usize) -> usize {
        if self.conv.is_depthwise() {
            return self.depthwise_len(images);
        }
        if self.is_pointwise() {
            return 0;
        }
        self.tiles(images).iter().map(|&tile| self.taps() * self.columns(tile).1).max().unwrap_or(0)
    }

    /// `y = weights * x + bias`, or added to `y`, over the whole batch.
    pub(super) fn forward<T: Scalar>(
        &self,
        blocks: Blocks,
        x: &[T],
        (weights, bias): (&[T], Option<&[T]>),
        (y, write): (&mut [T], Write),
        scratch: &Scratch<T>,
    ) {
        let blocks_of = y.par_chunks_mut(blocks.len(self.output)).zip(x.par_chunks(blocks.len(self.input)));
        blocks_of.for_each(|(y, x)| {
            let images = y.len() / self.output.numel();
            scratch.with(self.patch_len(images), |buffer| self.forward_block(x, weights, (y, write), buffer));
            if let Some(bias) = bias {
                for (row, &bias) in y.chunks_exact_mut(images * self.output.area()).zip(bias) {
                    row.iter_mut().for_each(|value| *value += bias);
                }
            }
        });
    }

    fn forward_block<T: Scalar>(
        &self,
        x: &[T],
        weights: &[T],
        (y, write): (&mut [T], Write),
        buffer: &mut [T],
    ) {
        if self.conv.is_depthwise() {
            return self.depthwise_forward(x, weights, (y, write), buffer);
        }
        let images = y.len() / self.output.numel();
        let stride = images * self.output.area();
        let (filters, taps) = (self.filters(), self.taps());
        for tile in self.tiles(images) {
            let (first, columns) = self.columns(tile);
            for group in 0..self.conv.groups {
                let weights = Matrix::rows(&weights[group * filters * taps..], filters, taps, taps);
                self.patches(Part { images, group, tile }, x, buffer, |patches| {
                    let rows = &mut y[group * filters * stride + first..];
                    gemm(&mut MatrixMut::rows(rows, filters, columns, stride), weights, patches, write);
                });
            }
        }
    }
}
