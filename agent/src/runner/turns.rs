//! Whose image is next, where several requests wait. The one that came first and the one with the fewest images left take turns: a
//! single image need not wait for a batch, and a batch goes on whatever else is asked. Pure.

/// A request, as far as its turn is concerned.
pub(super) trait Waiting {
    /// Images that have not been run.
    fn left(&self) -> usize;
}

/// Requests under way, in the order of their arrival.
pub(super) struct Turns<T> {
    waiting: Vec<T>,
    /// Whether the one that came first had the last turn.
    first_had: bool,
}

impl<T: Waiting> Turns<T> {
    pub(super) fn new() -> Self {
        Self { waiting: Vec::new(), first_had: false }
    }

    pub(super) fn push(&mut self, request: T) {
        self.waiting.push(request);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Gives the request whose turn it is to `run`, which says whether it goes on; whether there was one.
    pub(super) fn take(&mut self, run: impl FnOnce(&mut T) -> bool) -> bool {
        let shortest = self.waiting.iter().enumerate().min_by_key(|(_, request)| request.left());
        let Some(shortest) = shortest.map(|(index, _)| index) else { return false };
        let index = if self.first_had { shortest } else { 0 };
        self.first_had = index == 0;
        if !run(&mut self.waiting[index]) {
            self.waiting.remove(index);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Request(&'static str, usize);

    impl Waiting for Request {
        fn left(&self) -> usize {
            self.1
        }
    }

    fn step(turns: &mut Turns<Request>) -> Option<&'static str> {
        let mut had = None;
        turns.take(|request| {
            had = Some(request.0);
            request.1 -= 1;
            request.1 > 0
        });
        had
    }

    #[test]
    fn a_single_image_waits_for_one_of_a_batch_and_equals_end_in_order() {
        let mut turns = Turns::new();
        for request in [Request("batch", 4), Request("other", 4), Request("one", 1)] {
            turns.push(request);
        }
        let order: Vec<_> = std::iter::from_fn(|| step(&mut turns)).collect();
        assert_eq!(order, ["batch", "one", "batch", "batch", "batch", "other", "other", "other", "other"]);
    }

    #[test]
    fn whoever_came_first_goes_on_however_many_single_images_come() {
        let mut turns = Turns::new();
        turns.push(Request("batch", 5));
        let step_among_new = |_| {
            turns.push(Request("one", 1));
            step(&mut turns).unwrap()
        };
        let order: Vec<_> = (0..9).map(step_among_new).collect();
        // Its last image is no longer than any.
        assert_eq!(order, ["batch", "one", "batch", "one", "batch", "one", "batch", "batch", "one"]);
    }
}
