//! How a layer's work is cut into parallel tasks: the same whatever the number of threads, so that results are too.

use std::ops::Range;

/// Most tasks that one convolution is cut into.
const TASKS: usize = 8;
/// Fewest filters worth a task: a multiple of the rows that the dense loop takes at once.
const FEWEST: usize = 8;

/// Consecutive members (filters or channels) of one group.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) group: usize,
    /// Among all groups' members.
    pub(super) members: Range<usize>,
}

/// All of `groups` times `members`, in order.
pub(super) fn parts(groups: usize, members: usize) -> Vec<Part> {
    let step = members.div_ceil(TASKS.div_ceil(groups)).next_multiple_of(FEWEST);
    let of_group = |group: usize| {
        let (start, end) = (group * members, (group + 1) * members);
        (start..end).step_by(step).map(move |from| Part { group, members: from..end.min(from + step) })
    };
    (0..groups).flat_map(of_group).collect()
}

/// The rows of each part, `row` numbers long.
pub(super) fn split<'a>(parts: &[Part], values: &'a mut [f32], row: usize) -> Vec<&'a mut [f32]> {
    split_rows(parts.iter().map(|part| part.members.len() * row), values)
}

/// Consecutive pieces of those lengths.
pub(super) fn split_rows(lens: impl Iterator<Item = usize>, mut values: &mut [f32]) -> Vec<&mut [f32]> {
    let mut pieces = Vec::new();
    for len in lens {
        let (piece, rest) = values.split_at_mut(len);
        pieces.push(piece);
        values = rest;
    }
    pieces
}

/// Fewest planes of that length worth a task that only copies them.
pub(super) fn fewest(plane: usize) -> usize {
    (1 << 15) / plane.max(1) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_every_member_once() {
        for (groups, members) in [(1, 1), (1, 16), (1, 64), (1, 500), (2, 3), (3, 64), (960, 1)] {
            let parts = parts(groups, members);
            let all: Vec<usize> = parts.iter().flat_map(|part| part.members.clone()).collect();
            assert!(all.into_iter().eq(0..groups * members), "{groups} x {members}");
            assert!(parts.iter().all(|part| part.members.clone().all(|at| at / members == part.group)));
        }
    }
}
