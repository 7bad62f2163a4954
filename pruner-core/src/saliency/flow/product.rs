//! The dense inner loop: sums of numbers times runs of numbers, both found by offsets, a few rows and vectors at once
//! in registers. Every dense part of a convolution's flow is this one loop. Never allocates, never starts a thread.

use pulp::{Simd, WithSimd};

/// What one term of a sum multiplies, before the row's and the column's own offsets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Term {
    pub(super) factor: u32,
    pub(super) run: u32,
}

/// `out[r][l] = sum over terms of factors[term.factor + r * factor_row] * runs[term.run + l]` for every l of a row.
pub(super) struct Product<'a> {
    pub(super) terms: &'a [Term],
    pub(super) factors: &'a [f32],
    pub(super) factor_row: usize,
    pub(super) runs: &'a [f32],
    pub(super) out: Rows<'a>,
}

/// Rows that begin `row` numbers apart, of which the first `width` are made: a multiple of 16, so that every machine's
/// vectors fit.
pub(super) struct Rows<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) row: usize,
    pub(super) width: usize,
}

impl Product<'_> {
    /// Computes `out`, with the best vector instructions that this processor has.
    pub(super) fn compute(self) {
        pulp::Arch::new().dispatch(self);
    }

    /// Columns `at` to `at + V` vectors of all rows, F rows at once.
    #[inline(always)]
    fn columns<S: Simd, const F: usize, const V: usize>(&mut self, simd: S, at: usize) {
        let rows = self.out.values.len() / self.out.row;
        let whole = rows / F * F;
        for row in (0..whole).step_by(F) {
            let sums = self.tile::<S, F, V>(simd, row, at);
            self.store::<S, F, V>(row, at, sums);
        }
        for row in whole..rows {
            let sums = self.tile::<S, 1, V>(simd, row, at);
            self.store::<S, 1, V>(row, at, sums);
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const F: usize, const V: usize>(
        &self,
        simd: S,
        row: usize,
        at: usize,
    ) -> [[S::f32s; V]; F] {
        let mut sums = [[simd.splat_f32s(0.0); V]; F];
        let factors: [&[f32]; F] = std::array::from_fn(|f| &self.factors[(row + f) * self.factor_row..]);
        let runs = &self.runs[at..];
        for term in self.terms {
            let run = &runs[term.run as usize..][..V * S::F32_LANES];
            let (run, _) = S::as_simd_f32s(run);
            let run: [S::f32s; V] = std::array::from_fn(|v| run[v]);
            for f in 0..F {
                let factor = simd.splat_f32s(factors[f][term.factor as usize]);
                for v in 0..V {
                    sums[f][v] = simd.mul_add_e_f32s(factor, run[v], sums[f][v]);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn store<S: Simd, const F: usize, const V: usize>(
        &mut self,
        row: usize,
        at: usize,
        sums: [[S::f32s; V]; F],
    ) {
        for (f, sums) in sums.into_iter().enumerate() {
            let out = &mut self.out.values[(row + f) * self.out.row + at..][..V * S::F32_LANES];
            let (out, _) = S::as_mut_simd_f32s(out);
            out.copy_from_slice(&sums);
        }
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // As many sums as fit the registers: AVX2 has 16, AVX-512 and NEON have 32.
        let most = if S::F32_LANES == 8 { 3 } else { 6 };
        let vectors = self.out.width / S::F32_LANES;
        let cuts = vectors.div_ceil(most);
        for cut in 0..cuts {
            let (from, to) = (vectors * cut / cuts, vectors * (cut + 1) / cuts);
            let at = from * S::F32_LANES;
            match to - from {
                1 => self.columns::<S, 8, 1>(simd, at),
                2 if most == 3 => self.columns::<S, 4, 2>(simd, at),
                2 => self.columns::<S, 8, 2>(simd, at),
                3 => self.columns::<S, 4, 3>(simd, at),
                4 => self.columns::<S, 4, 4>(simd, at),
                5 => self.columns::<S, 4, 5>(simd, at),
                _ => self.columns::<S, 4, 6>(simd, at),
            }
        }
    }
}
