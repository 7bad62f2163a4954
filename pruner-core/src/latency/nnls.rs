//! Non-negative least squares with every target 1: relative errors. Cyclic coordinate descent on the normal equations,
//! which for a handful of unknowns is exact for all purposes and the same on every machine.

/// Sweeps over the unknowns; each costs a few dozen operations.
const SWEEPS: usize = 20_000;

/// The x >= 0 that minimises |rows x - 1|.
pub(super) fn solve<const N: usize>(rows: &[[f64; N]]) -> [f64; N] {
    // Columns differ by many orders of magnitude; scaled to one another they converge together.
    let mut scale = [0.0; N];
    for row in rows {
        for (scale, value) in scale.iter_mut().zip(row) {
            *scale += value * value;
        }
    }
    let scale = scale.map(|sum: f64| if sum > 0.0 { sum.sqrt() } else { 1.0 });
    let mut normal = [[0.0; N]; N];
    let mut target = [0.0; N];
    for row in rows {
        for i in 0..N {
            target[i] += row[i] / scale[i];
            for j in 0..N {
                normal[i][j] += row[i] / scale[i] * (row[j] / scale[j]);
            }
        }
    }
    let mut x = [0.0; N];
    for _ in 0..SWEEPS {
        let mut moved = 0.0f64;
        for i in 0..N {
            if normal[i][i] == 0.0 {
                continue;
            }
            let others: f64 = (0..N).filter(|&j| j != i).map(|j| normal[i][j] * x[j]).sum();
            let next = ((target[i] - others) / normal[i][i]).max(0.0);
            moved = moved.max((next - x[i]).abs());
            x[i] = next;
        }
        if moved < 1e-14 {
            break;
        }
    }
    let mut unscaled = [0.0; N];
    for i in 0..N {
        unscaled[i] = x[i] / scale[i];
    }
    unscaled
}

#[cfg(test)]
mod tests {
    use super::solve;

    #[test]
    fn an_exact_solution_is_found() {
        // x = (2, 0.001): rows are the features of each sample divided by its time.
        let samples = [[1.0, 1000.0], [3.0, 500.0], [2.0, 9000.0]];
        let rows = samples.map(|[a, b]| [a, b].map(|feature| feature / (2.0 * a + 0.001 * b)));
        let x = solve(&rows);
        assert!((x[0] - 2.0).abs() < 1e-6 && (x[1] - 0.001).abs() < 1e-9, "{x:?}");
    }

    #[test]
    fn what_would_be_negative_is_nothing() {
        // Time falls with the second feature: it gets no weight, and the first takes the mean.
        let x = solve(&[[1.0, 0.0], [0.5, 1.0]].map(|row: [f64; 2]| row.map(|feature| feature * 2.0)));
        assert!(x.iter().all(|&coefficient| coefficient >= 0.0), "{x:?}");
        assert_eq!(solve(&[[0.0, 1.0], [0.0, 1.0]])[0], 0.0, "a feature that nothing has");
    }
}
