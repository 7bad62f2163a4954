//! The matrix product: a bounds-checked face on the `gemm` crate's raw-pointer call, one thread per call.
//! The only unsafe code of the workspace.

use super::scalar::Scalar;

/// Whether a result replaces what the destination held or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Set,
    Add,
}

/// A read-only matrix inside a slice: element (i, j) is at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    pub(super) values: &'a [T],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Rows of `columns` numbers, `row_stride` apart.
    pub(super) fn rows(values: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { values, rows, columns, row_stride, column_stride: 1 }
    }

    /// The same numbers with rows and columns exchanged.
    pub(super) fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    fn check(&self, what: &str) {
        check(self.values.len(), (self.rows, self.row_stride), (self.columns, self.column_stride), what);
    }
}

/// A matrix to write, laid out like [`Matrix`].
pub(super) struct MatrixMut<'a, T> {
    pub(super) values: &'a mut [T],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a, T> MatrixMut<'a, T> {
    /// Rows of `columns` numbers, `row_stride` apart.
    pub(super) fn rows(values: &'a mut [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { values, rows, columns, row_stride, column_stride: 1 }
    }

    /// Panics unless every element lies inside the slice and no two share a place.
    fn check(&self) {
        let (row, column) = ((self.rows, self.row_stride), (self.columns, self.column_stride));
        check(self.values.len(), row, column, "destination");
        let (inner, outer) =
            if self.row_stride >= self.column_stride { (column, row) } else { (row, column) };
        let apart = inner.0 <= 1 || inner.1 > 0;
        let clear = outer.0 <= 1 || inner.0.checked_mul(inner.1).is_some_and(|span| span <= outer.1);
        assert!(apart && clear, "the destination's elements overlap");
    }
}

/// Panics unless the last element of a matrix of (count, stride) rows and columns lies below `len`.
fn check(len: usize, rows: (usize, usize), columns: (usize, usize), what: &str) {
    if rows.0 == 0 || columns.0 == 0 {
        return;
    }
    let last = (rows.0 - 1).checked_mul(rows.1).zip((columns.0 - 1).checked_mul(columns.1));
    let last = last.and_then(|(row, column)| row.checked_add(column));
    assert!(
        last.is_some_and(|last| last < len && isize::try_from(last).is_ok()),
        "the {what} of {} x {} elements does not fit its slice of {len}",
        rows.0,
        columns.0
    );
}

/// `destination = a b`, or `destination += a b`. Panics if shapes disagree or reach past a slice.
pub(super) fn gemm<T: Scalar>(
    destination: &mut MatrixMut<'_, T>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    write: Write,
) {
    assert_eq!(destination.rows, a.rows, "rows of the product");
    assert_eq!(destination.columns, b.columns, "columns of the product");
    assert_eq!(a.columns, b.rows, "inner length of the product");
    destination.check();
    a.check("left matrix");
    b.check("right matrix");
    // Strides of one-element dimensions may exceed isize only in matrices that never use them.
    let signed = |stride: usize| isize::try_from(stride).expect("strides were checked against slice lengths");
    #[expect(unsafe_code, reason = "the gemm crate offers only a raw-pointer call")]
    // SAFETY: T is f32 or f64 (Scalar is sealed), so the crate knows the type. Every element that the call reads or
    // writes lies inside its slice, and the destination's elements are distinct: checked just above. The destination
    // is borrowed mutably, so neither input overlaps it. Slices are aligned and initialised.
    unsafe {
        gemm::gemm(
            destination.rows,
            destination.columns,
            a.columns,
            destination.values.as_mut_ptr(),
            signed(destination.column_stride),
            signed(destination.row_stride),
            write == Write::Add,
            a.values.as_ptr(),
            signed(a.column_stride),
            signed(a.row_stride),
            b.values.as_ptr(),
            signed(b.column_stride),
            signed(b.row_stride),
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_sum_and_transpose() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0];
        let mut c = [10.0; 4];
        let (left, right) = (Matrix::rows(&a, 2, 3, 3), Matrix::rows(&b, 3, 2, 2));
        gemm(&mut MatrixMut::rows(&mut c, 2, 2, 2), left, right, Write::Add);
        assert_eq!(c, [15.0, 21.0, 24.0, 33.0]);
        let (left, right) = (Matrix::rows(&a, 3, 2, 2).transposed(), Matrix::rows(&b, 3, 2, 2));
        gemm(&mut MatrixMut::rows(&mut c, 2, 2, 2), left, right, Write::Set);
        assert_eq!(c, [7.0, 18.0, 10.0, 22.0]);
    }

    #[test]
    #[should_panic(expected = "the right matrix of 3 x 2 elements does not fit its slice of 5")]
    fn short_slice_is_refused() {
        let (a, b, mut c) = ([0.0f32; 6], [0.0f32; 5], [0.0f32; 4]);
        let (left, right) = (Matrix::rows(&a, 2, 3, 3), Matrix::rows(&b, 3, 2, 2));
        gemm(&mut MatrixMut::rows(&mut c, 2, 2, 2), left, right, Write::Set);
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn overlapping_destination_is_refused() {
        let (a, b, mut c) = ([0.0f32; 6], [0.0f32; 6], [0.0f32; 4]);
        let (left, right) = (Matrix::rows(&a, 2, 3, 3), Matrix::rows(&b, 3, 2, 2));
        gemm(&mut MatrixMut::rows(&mut c, 2, 2, 1), left, right, Write::Set);
    }
}
