//! What the arguments of several verbs are written as. Owns their spelling, never their meaning.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::str::FromStr;

use clap::builder::{EnumValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Command, ValueEnum};
use coordinator::limit::{Count, Limit};
use pruner_core::dataset::TestShare;
use pruner_core::named::UnknownName;

use super::error::CliError;

/// A value parser for a choice that has names: they stand in `--help`, and in the message for a wrong one.
pub(crate) fn one_of<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = UnknownName> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| name.parse::<T>())
}

/// A kind of things, or one of them as `get -o name` prints it: `device`, or `device/cam-7`.
#[derive(Debug, Clone)]
pub(crate) struct Named<K> {
    pub(crate) kind: K,
    name: Option<String>,
}

impl<K> Named<K> {
    /// The name that stands there, or in the argument after it; at most one of them.
    pub(crate) fn name<'a>(&'a self, after: Option<&'a str>) -> Result<Option<&'a str>, CliError> {
        match (self.name.as_deref(), after) {
            (Some(name), Some(after)) => {
                Err(CliError::Usage(format!("one name at a time: '{name}' or '{after}'")))
            }
            (name, after) => Ok(name.or(after)),
        }
    }

    /// The same, where there has to be one.
    pub(crate) fn one_name<'a>(&'a self, after: Option<&'a str>) -> Result<&'a str, CliError> {
        let none = || CliError::Usage("which one? its name follows its kind, as in device cam-7".to_owned());
        self.name(after)?.ok_or_else(none)
    }
}

/// A value parser for those.
pub(crate) fn named<K: ValueEnum + Clone + Send + Sync + 'static>() -> NamedParser<K> {
    NamedParser(EnumValueParser::new())
}

#[derive(Debug, Clone)]
pub(crate) struct NamedParser<K: ValueEnum + Clone + Send + Sync + 'static>(EnumValueParser<K>);

impl<K: ValueEnum + Clone + Send + Sync + 'static> TypedValueParser for NamedParser<K> {
    type Value = Named<K>;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Named<K>, clap::Error> {
        let (kind, name) = match value.to_str().and_then(|text| text.split_once('/')) {
            Some((kind, name)) if !name.is_empty() => (OsStr::new(kind), Some(name.to_owned())),
            Some(_) | None => (value, None),
        };
        Ok(Named { kind: self.0.parse_ref(command, arg, kind)?, name })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.possible_values()
    }
}

/// A value parser for a name of a kind of things, alone or as `-o name` prints it.
pub(crate) fn name_of(
    kind: &'static str,
) -> impl Fn(&str) -> Result<String, Infallible> + Clone + Send + Sync + 'static {
    move |text| {
        let name = text.strip_prefix(kind).and_then(|rest| rest.strip_prefix('/'));
        Ok(name.unwrap_or(text).to_owned())
    }
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
