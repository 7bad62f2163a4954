//! Functions of one number, sums of two equally large inputs, and their gradients.

use rayon::prelude::*;

use super::gemm::Write;
use super::lanes::vectorised;
use super::scalar::Scalar;
use crate::graph::Activation;

/// Numbers per parallel task.
const CHUNK: usize = 1 << 14;

/// What is done to an operator's result before it is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fused {
    Identity,
    /// Held between two numbers; a ReLU's upper one is infinite.
    Clip {
        min: f32,
        max: f32,
    },
}

impl Fused {
    /// The activation in this form, if it has one.
    pub(super) fn of(activation: Activation) -> Option<Self> {
        match activation {
            Activation::Relu => Some(Self::Clip { min: 0.0, max: f32::INFINITY }),
            Activation::Clip { min, max } => Some(Self::Clip { min, max }),
            Activation::LeakyRelu { .. }
            | Activation::Sigmoid
            | Activation::HardSigmoid { .. }
            | Activation::HardSwish
            | Activation::Silu
            | Activation::Tanh => None,
        }
    }
}

/// The bounds between which a number is held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds<T> {
    min: T,
    max: T,
}

impl<T: Scalar> Bounds<T> {
    pub(super) fn new(min: f32, max: f32) -> Self {
        Self { min: T::from_f32(min), max: T::from_f32(max) }
    }

    /// A NaN stays one, so that divergence is seen; of bounds that cross, the upper one wins.
    #[inline(always)]
    pub(super) fn hold(self, value: T) -> T {
        let value = if value < self.min { self.min } else { value };
        if value > self.max { self.max } else { value }
    }

    /// Whether a held number was let through as it was.
    #[inline(always)]
    pub(super) fn passes(self, held: T) -> bool {
        (held > self.min) & (held < self.max)
    }
}

/// The function of every number.
pub(super) fn activate<T: Scalar>(activation: Activation, x: &[T], y: &mut [T]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        vectorised!(activate_chunk(activation, x, y));
    });
}

#[inline(always)]
fn activate_chunk<T: Scalar>(activation: Activation, x: &[T], y: &mut [T]) {
    let unit = Bounds::new(0.0, 1.0);
    match activation {
        Activation::Relu => map(x, y, |x| if x < T::ZERO { T::ZERO } else { x }),
        Activation::LeakyRelu { slope } => {
            let slope = T::from_f32(slope);
            map(x, y, |x| if x > T::ZERO { x } else { slope * x });
        }
        Activation::Clip { min, max } => {
            let bounds = Bounds::new(min, max);
            map(x, y, |x| bounds.hold(x));
        }
        Activation::Sigmoid => map(x, y, sigmoid),
        Activation::HardSigmoid { alpha, beta } => {
            let (alpha, beta) = (T::from_f32(alpha), T::from_f32(beta));
            map(x, y, |x| unit.hold(alpha * x + beta));
        }
        Activation::HardSwish => {
            let (sixth, half) = (T::from_f64(1.0 / 6.0), T::from_f64(0.5));
            map(x, y, |x| x * unit.hold(sixth * x + half));
        }
        Activation::Silu => map(x, y, |x| x * sigmoid(x)),
        Activation::Tanh => map(x, y, Scalar::tanh),
    }
}

#[inline(always)]
fn map<T: Scalar>(x: &[T], y: &mut [T], f: impl Fn(T) -> T) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x));
}

#[inline(always)]
fn sigmoid<T: Scalar>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

/// Gradient of [`activate`], from its input, its output and that one's gradient.
pub(super) fn activate_backward<T: Scalar>(
    activation: Activation,
    (x, y, dy): (&[T], &[T], &[T]),
    (dx, write): (&mut [T], Write),
) {
    let given = x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
    dx.par_chunks_mut(CHUNK).zip(given).for_each(|(dx, ((x, y), dy))| {
        vectorised!(match write {
            Write::Set => backward_chunk(activation, (x, y, dy), dx, |_, new| new),
            Write::Add => backward_chunk(activation, (x, y, dy), dx, |old, new| old + new),
        });
    });
}

#[inline(always)]
fn backward_chunk<T: Scalar>(
    activation: Activation,
    given: (&[T], &[T], &[T]),
    dx: &mut [T],
    put: impl Fn(T, T) -> T,
) {
    let unit = Bounds::new(0.0, 1.0);
    match activation {
        Activation::Relu => chain(given, dx, put, |_, y, dy| if y > T::ZERO { dy } else { T::ZERO }),
        Activation::LeakyRelu { slope } => {
            let slope = T::from_f32(slope);
            chain(given, dx, put, |x, _, dy| if x > T::ZERO { dy } else { slope * dy });
        }
        Activation::Clip { min, max } => {
            let bounds = Bounds::new(min, max);
            chain(given, dx, put, |_, y, dy| if bounds.passes(y) { dy } else { T::ZERO });
        }
        Activation::Sigmoid => chain(given, dx, put, |_, y, dy| dy * y * (T::ONE - y)),
        Activation::HardSigmoid { alpha, .. } => {
            let alpha = T::from_f32(alpha);
            chain(given, dx, put, |_, y, dy| if unit.passes(y) { alpha * dy } else { T::ZERO });
        }
        Activation::HardSwish => {
            let (third, half) = (T::from_f64(1.0 / 3.0), T::from_f64(0.5));
            let (below, above) = (T::from_f64(-3.0), T::from_f64(3.0));
            chain(given, dx, put, |x, _, dy| {
                let bent = if x < below { T::ZERO } else { dy * (third * x + half) };
                if x > above { dy } else { bent }
            });
        }
        Activation::Silu => chain(given, dx, put, |x, y, dy| {
            let gate = sigmoid(x);
            dy * (gate + y * (T::ONE - gate))
        }),
        Activation::Tanh => chain(given, dx, put, |_, y, dy| dy * (T::ONE - y * y)),
    }
}

#[inline(always)]
fn chain<T: Scalar>(
    (x, y, dy): (&[T], &[T], &[T]),
    dx: &mut [T],
    put: impl Fn(T, T) -> T,
    gradient: impl Fn(T, T, T) -> T,
) {
    for (((dx, &x), &y), &dy) in dx.iter_mut().zip(x).zip(y).zip(dy) {
        *dx = put(*dx, gradient(x, y, dy));
    }
}

/// a + b, and the activation.
pub(super) fn add<T: Scalar>(a: &[T], b: &[T], fused: Fused, y: &mut [T]) {
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK))).for_each(|(y, (a, b))| {
        vectorised!(match fused {
            Fused::Identity => y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = a + b),
            Fused::Clip { min, max } => {
                let bounds = Bounds::new(min, max);
                y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = bounds.hold(a + b));
            }
        });
    });
}

/// Gradient of [`add`], set or added to each input's.
pub(super) fn add_backward<T: Scalar>(y: &[T], dy: &[T], fused: Fused, (dx, write): (&mut [T], Write)) {
    dx.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK))).for_each(|(dx, (y, dy))| {
        vectorised!(match (fused, write) {
            (Fused::Identity, Write::Set) => dx.copy_from_slice(dy),
            (Fused::Identity, Write::Add) => dx.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx += dy),
            (Fused::Clip { min, max }, Write::Set) => {
                let bounds = Bounds::new(min, max);
                let gradient = |_, y, dy| if bounds.passes(y) { dy } else { T::ZERO };
                chain((y, y, dy), dx, |_, new| new, gradient);
            }
            (Fused::Clip { min, max }, Write::Add) => {
                let bounds = Bounds::new(min, max);
                let gradient = |_, y, dy| if bounds.passes(y) { dy } else { T::ZERO };
                chain((y, y, dy), dx, |old, new| old + new, gradient);
            }
        });
    });
}
