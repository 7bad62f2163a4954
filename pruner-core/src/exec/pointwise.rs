//! Operators on single numbers: ReLU, sums of two inputs, and their gradients.

use rayon::prelude::*;

use super::gemm::Write;
use super::lanes::vectorised;
use super::scalar::Scalar;

/// Numbers per parallel task.
const CHUNK: usize = 1 << 14;

/// What is done to an operator's result before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    Identity,
    Relu,
}

/// max(x, 0); a NaN stays one.
pub(super) fn relu<T: Scalar>(x: &[T], y: &mut [T]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        vectorised(|| y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x < T::ZERO { T::ZERO } else { x }));
    });
}

/// a + b, and the activation.
pub(super) fn add<T: Scalar>(a: &[T], b: &[T], activation: Activation, y: &mut [T]) {
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK))).for_each(|(y, (a, b))| {
        vectorised(|| match activation {
            Activation::Identity => y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = a + b),
            Activation::Relu => y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| {
                let sum = a + b;
                *y = if sum < T::ZERO { T::ZERO } else { sum };
            }),
        });
    });
}

/// The gradient before an activation, set or added to each input's.
pub(super) fn backward<T: Scalar>(y: &[T], dy: &[T], activation: Activation, (dx, write): (&mut [T], Write)) {
    dx.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK))).for_each(|(dx, (y, dy))| {
        vectorised(|| match (activation, write) {
            (Activation::Identity, Write::Set) => dx.copy_from_slice(dy),
            (Activation::Identity, Write::Add) => dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy),
            (Activation::Relu, Write::Set) => dx
                .iter_mut()
                .zip(y)
                .zip(dy)
                .for_each(|((dx, &y), &dy)| *dx = if y > T::ZERO { dy } else { T::ZERO }),
            (Activation::Relu, Write::Add) => dx
                .iter_mut()
                .zip(y)
                .zip(dy)
                .for_each(|((dx, &y), &dy)| *dx += if y > T::ZERO { dy } else { T::ZERO }),
        });
    });
}
