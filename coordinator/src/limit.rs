//! One ceiling of a budget as an operator writes it: a figure, or a share of the dense network's.

use std::fmt;
use std::str::FromStr;

use proto::{ByteSize, Invalid};
use serde::{Deserialize, Serialize};

/// `200Ki`, `0.8ms`, `90000`: a figure. `1/16.21`, `25%`: that share of what the dense network has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String", bound = "T: Quantity")]
pub enum Limit<T: Quantity> {
    /// A figure.
    Absolute(T),
    /// A share of the dense network's figure, more than 0 and at most 1.
    OfDense(f64),
}

/// Something that a budget can bound.
pub trait Quantity: Copy + FromStr<Err = Invalid> + fmt::Display {
    /// `share` of this figure.
    fn share(self, share: f64) -> Self;
}

/// A number of parameters or of multiply-accumulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

/// A time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Millis(pub f64);

impl<T: Quantity> Limit<T> {
    /// The figure, given the dense network's.
    pub fn resolve(self, dense: T) -> T {
        match self {
            Self::Absolute(figure) => figure,
            Self::OfDense(share) => dense.share(share),
        }
    }
}

impl Quantity for Count {
    fn share(self, share: f64) -> Self {
        Self((self.0 as f64 * share).floor() as u64)
    }
}

impl Quantity for ByteSize {
    fn share(self, share: f64) -> Self {
        Self((self.0 as f64 * share).floor() as u64)
    }
}

impl Quantity for Millis {
    fn share(self, share: f64) -> Self {
        Self(self.0 * share)
    }
}

impl FromStr for Count {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (number, factor) = match text.strip_suffix(['k', 'M', 'G']) {
            Some(number) => (
                number,
                if text.ends_with('k') {
                    1e3
                } else if text.ends_with('M') {
                    1e6
                } else {
                    1e9
                },
            ),
            None => (text, 1.0),
        };
        match number.parse::<f64>() {
            Ok(value) if value > 0.0 && value * factor < 9e18 => Ok(Self((value * factor).round() as u64)),
            _ => Err(Invalid::new(
                "count",
                format!("'{text}' is not a positive number such as 16800, 90k or 1.2M"),
            )),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Millis {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (number, factor) = match text {
            _ if text.ends_with("us") => (&text[..text.len() - 2], 1e-3),
            _ if text.ends_with("ms") => (&text[..text.len() - 2], 1.0),
            _ if text.ends_with('s') => (&text[..text.len() - 1], 1e3),
            _ => ("", 1.0),
        };
        match number.trim().parse::<f64>() {
            Ok(value) if value > 0.0 && value.is_finite() => Ok(Self(value * factor)),
            _ => Err(Invalid::new(
                "time",
                format!("'{text}' is not a positive time such as 800us, 0.8ms or 1s"),
            )),
        }
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

impl<T: Quantity> FromStr for Limit<T> {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let share = if let Some(divisor) = text.strip_prefix("1/") {
            divisor.parse::<f64>().map(|divisor| 1.0 / divisor)
        } else if let Some(percent) = text.strip_suffix('%') {
            percent.parse::<f64>().map(|percent| percent / 100.0)
        } else {
            return text.parse().map(Self::Absolute);
        };
        match share {
            Ok(share) if share > 0.0 && share <= 1.0 => Ok(Self::OfDense(share)),
            _ => Err(Invalid::new(
                "share",
                format!("'{text}' is not a share of the dense network such as 1/16.21 or 25%"),
            )),
        }
    }
}

impl<T: Quantity> TryFrom<String> for Limit<T> {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl<T: Quantity> From<Limit<T>> for String {
    fn from(limit: Limit<T>) -> Self {
        limit.to_string()
    }
}

impl<T: Quantity> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute(figure) => figure.fmt(f),
            Self::OfDense(share) => f.write_str(&share_text(*share)),
        }
    }
}

/// A share as somebody would write it: by its divisor, or in percent, whichever needs few digits to mean the same.
fn share_text(share: f64) -> String {
    let rounded = |figure: f64| (figure * 1e9).round() / 1e9;
    let short = [format!("1/{}", rounded(1.0 / share)), format!("{}%", rounded(share * 100.0))];
    let is_same = |text: &String| text.parse::<Limit<Count>>() == Ok(Limit::OfDense(share));
    short.into_iter().find(is_same).unwrap_or_else(|| format!("1/{}", 1.0 / share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_as_figures_or_shares() {
        assert_eq!("90k".parse(), Ok(Limit::Absolute(Count(90_000))));
        assert_eq!("0.8ms".parse(), Ok(Limit::Absolute(Millis(0.8))));
        assert_eq!("800us".parse(), Ok(Limit::Absolute(Millis(0.8))));
        assert_eq!("64Ki".parse(), Ok(Limit::Absolute(ByteSize(65_536))));
        assert_eq!("25%".parse::<Limit<Count>>().unwrap().resolve(Count(1000)), Count(250));
        assert_eq!("1/16.21".parse::<Limit<Count>>().unwrap().resolve(Count(272_474)), Count(16_809));
        for bad in ["", "1/0", "1/x", "0%", "101%", "-5", "1/0.5", "fast"] {
            assert!(bad.parse::<Limit<Count>>().is_err(), "{bad}");
        }
        assert!("5".parse::<Limit<Millis>>().is_err(), "a time without a unit");
    }

    #[test]
    fn limits_print_as_they_read() {
        for text in ["1/16.21", "1/4", "1/10", "1/6", "1/3", "1/49", "17%", "28%", "33.3%", "90000"] {
            assert_eq!(text.parse::<Limit<Count>>().unwrap().to_string(), text);
        }
    }
}
