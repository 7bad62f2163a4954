//! Errors with their causes on one line, for logs and for the coordinator; and which of them a log has already.

use std::error::Error;
use std::time::{Duration, Instant};

/// What goes on unchanged is said again after so long.
const AGAIN: Duration = Duration::from_secs(3600);

/// An error with its causes on one line, for logs and for the coordinator. A cause that only repeats what is said is left out.
pub fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// So many texts are remembered: what fails in one of two ways each time is said twice.
const KEPT: usize = 4;

/// What was said of late, so that what fails in the same way all day does not fill the log.
#[derive(Debug, Default)]
pub(crate) struct Said(Vec<(String, Instant)>);

impl Said {
    /// Whether `text` is to be said at `now`: it was not, or that was long ago.
    pub(crate) fn is_news(&mut self, text: &str, now: Instant) -> bool {
        self.0.retain(|(_, at)| now.duration_since(*at) < AGAIN);
        let is_known = self.0.iter().any(|(known, _)| known == text);
        if !is_known {
            self.0.drain(..self.0.len().saturating_sub(KEPT - 1));
            self.0.push((text.to_owned(), now));
        }
        !is_known
    }

    /// It is over: the same is news again.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_repeats_what_is_said_is_left_out() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Of {
            text: &'static str,
            source: Option<Box<Of>>,
        }
        let of = |text, source: Option<Of>| Of { text, source: source.map(Box::new) };
        let error = of("tried", Some(of("refused: 7", Some(of("7", Some(of("why", None)))))));
        assert_eq!(describe(&error), "tried: refused: 7: why");
    }

    #[test]
    fn what_does_not_change_is_said_once_an_hour() {
        let (mut said, start) = (Said::default(), Instant::now());
        let mut news = |text, seconds| said.is_news(text, start + Duration::from_secs(seconds));
        let heard =
            [news("a", 0), news("a", 30), news("b", 60), news("a", 90), news("a", 3600), news("b", 3650)];
        assert_eq!(heard, [true, false, true, false, true, false]);
        for text in ["c", "d", "e", "f"] {
            assert!(said.is_news(text, start + Duration::from_secs(3660)));
        }
        assert!(said.is_news("a", start + Duration::from_secs(3670)), "only the last ones are remembered");
        said.forget();
        assert!(said.is_news("a", start + Duration::from_secs(3700)));
    }
}
