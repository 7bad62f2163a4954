//! Sums over slices in a fixed number of interleaved partial sums: vectorised, and the same on every machine.

use super::scalar::Scalar;

const LANES: usize = 32;

/// An expression, compiled for AVX2 too and run so where the processor has it; results are the same to the bit.
///
/// What is not inlined here is not compiled for AVX2. Hence a macro and not a function of a closure: both ways then have
/// a closure of their own, and the compiler inlines what is called from one place only, however long it is.
macro_rules! vectorised {
    ($kernel:expr) => {{
        #[cfg(target_arch = "x86_64")]
        let result = match pulp::x86::V3::try_new() {
            Some(simd) => simd.vectorize(|| $kernel),
            None => $kernel,
        };
        #[cfg(not(target_arch = "x86_64"))]
        let result = $kernel;
        result
    }};
}

pub(crate) use vectorised;

/// The sum of `term` over the positions of equally long slices.
#[inline(always)]
pub(crate) fn sum2<T: Scalar>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> T {
    assert_eq!(a.len(), b.len());
    let mut partial = [T::ZERO; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            partial[lane] += term(a[lane], b[lane]);
        }
    }
    for (lane, (&a, &b)) in a_rest.iter().zip(b_rest).enumerate() {
        partial[lane] += term(a, b);
    }
    fold(partial)
}

/// The sum of `term` over a slice.
#[inline(always)]
pub(super) fn sum<T: Scalar>(values: &[T], term: impl Fn(T) -> T) -> T {
    let mut partial = [T::ZERO; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            partial[lane] += term(chunk[lane]);
        }
    }
    for (lane, &value) in rest.iter().enumerate() {
        partial[lane] += term(value);
    }
    fold(partial)
}

#[inline(always)]
fn fold<T: Scalar>(mut partial: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            partial[lane] += partial[lane + width];
        }
        width /= 2;
    }
    partial[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_every_length() {
        for len in 0..100u32 {
            let values: Vec<f64> = (0..len).map(f64::from).collect();
            assert_eq!(sum(&values, |x| x), f64::from(len * len.saturating_sub(1) / 2));
            assert_eq!(sum2(&values, &values, |x, y| x - y), 0.0);
        }
    }
}
