//! The search for the largest network that fits. Knows no network: candidates are numbers.

/// The last of `count` candidates, the smallest first, that `broken` finds nothing wrong with; or what is wrong with the
/// smallest.
///
/// Candidates that grow in every figure fit up to one and no further, and that one is found. Where a figure does not
/// grow, as a time that falls when a layer fills its vectors, the one found fits all the same, and its neighbour does not.
pub(super) fn last_fit<E>(count: usize, mut broken: impl FnMut(usize) -> Option<E>) -> Result<usize, E> {
    if let Some(broken) = broken(0) {
        return Err(broken);
    }
    let (mut fits, mut too_large) = (0, count);
    while too_large - fits > 1 {
        let middle = fits.midpoint(too_large);
        if broken(middle).is_none() { fits = middle } else { too_large = middle }
    }
    Ok(fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::last_fit;

    proptest! {
        #[test]
        fn what_grows_is_found_exactly(count in 1..200usize, limit in 0..220usize) {
            let found = last_fit(count, |candidate| (candidate >= limit).then_some(candidate));
            prop_assert_eq!(found, if limit == 0 { Err(0) } else { Ok(limit.min(count) - 1) });
        }

        #[test]
        fn what_does_not_grow_fits_and_its_neighbour_does_not(fits in prop::collection::vec(any::<bool>(), 1..200)) {
            match last_fit(fits.len(), |candidate| (!fits[candidate]).then_some(candidate)) {
                Ok(found) => prop_assert!(fits[found] && fits.get(found + 1) != Some(&true)),
                Err(smallest) => prop_assert!(smallest == 0 && !fits[0]),
            }
        }
    }
}
