//! What is shown of words that stand in a file: they may be millions of bytes long, and go into logs, tables and the heads of
//! answers. Owns where they are cut.

use std::borrow::Cow;

/// Of a name or an operator, bytes.
const NAME: usize = 64;

/// Of a whole sentence, in which several of them may be.
const SENTENCE: usize = 512;

/// The beginning of a name.
pub(crate) fn name(text: &str) -> Cow<'_, str> {
    cut(text, NAME)
}

/// The beginning of a sentence.
pub(crate) fn sentence(text: &str) -> Cow<'_, str> {
    cut(text, SENTENCE)
}

fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match &text[..text.floor_char_boundary(most)] {
        shown if shown.len() < text.len() => Cow::Owned(format!("{shown}...")),
        _ => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(name(&"x".repeat(NAME)), "x".repeat(NAME));
        assert_eq!(name(&"x".repeat(NAME + 1)), "x".repeat(NAME) + "...");
        assert_eq!(name(&"\u{2713}".repeat(1 << 20)), "\u{2713}".repeat(NAME / 3) + "...");
        assert_eq!(sentence(&"x".repeat(1 << 20)).len(), SENTENCE + 3);
    }
}
