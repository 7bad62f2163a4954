//! What the arguments of several verbs are written as. Owns their spelling, never their meaning.

use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use coordinator::limit::{Count, Limit};
use pruner_core::dataset::TestShare;
use pruner_core::named::UnknownName;

/// A value parser for a choice that has names: they stand in `--help`, and in the message for a wrong one.
pub(crate) fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = UnknownName> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

/// `1/16.21`, `6%` or `0.06`: more than 0, at most 1.
pub(crate) fn parse_share(text: &str) -> Result<f64, String> {
    let share = match text.parse::<f64>() {
        Ok(share) => Some(share),
        Err(_) => match text.parse::<Limit<Count>>() {
            Ok(Limit::OfDense(share)) => Some(share),
            Ok(Limit::Absolute(_)) | Err(_) => None,
        },
    };
    share
        .filter(|&share| share > 0.0 && share <= 1.0)
        .ok_or_else(|| format!("'{text}' is not a share above 0 and at most 1, such as 1/16.21, 6% or 0.06"))
}

/// The same below 1: the share of each class's images that is tested on.
pub(crate) fn parse_test_share(text: &str) -> Result<TestShare, String> {
    TestShare::new(parse_share(text)?).map_err(|error| error.to_string())
}

/// `site=berlin`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    let label = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = label.ok_or_else(|| format!("'{text}' is not a label such as site=berlin"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        assert_eq!(parse_share("25%"), Ok(0.25));
        assert_eq!(parse_share("1/4"), Ok(0.25));
        assert_eq!(parse_share("0.25"), Ok(0.25));
        for bad in ["", "0", "2", "nan", "90k", "1/0.5"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_test_share("20%").map(f64::from), Ok(0.2));
        assert_eq!(
            parse_test_share("1").unwrap_err(),
            "1 is not allowed; more than 0, less than 1, as in 0.2"
        );
    }
}
