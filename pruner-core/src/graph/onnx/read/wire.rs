//! The framing of protobuf: keys, numbers and lengths, each checked against the bytes that are there. Borrows from the
//! file and allocates nothing; knows no message.

use super::ReadError;

/// A stretch of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<'a> {
    pub(super) bytes: &'a [u8],
    /// Of its first byte, from the start of the file.
    at: usize,
}

/// The content of one field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field<'a> {
    Number(u64),
    /// Eight bytes, which no field that is read has.
    Eight,
    Span(Span<'a>),
    Four([u8; 4]),
}

impl<'a> Span<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn error(&self, problem: &'static str) -> ReadError {
        ReadError::Damaged { at: self.at, problem }
    }

    /// The fields of a message, until the first that is damaged.
    pub(super) fn fields(self) -> Fields<'a> {
        Fields { rest: self }
    }

    pub(super) fn text(self) -> Result<&'a str, ReadError> {
        std::str::from_utf8(self.bytes).map_err(|_| self.error("a name is not UTF-8"))
    }

    /// The numbers of a packed list.
    pub(super) fn numbers(self) -> impl Iterator<Item = Result<u64, ReadError>> {
        let mut rest = self;
        std::iter::from_fn(move || {
            if rest.bytes.is_empty() {
                return None;
            }
            let number = rest.number();
            if number.is_err() {
                rest.bytes = &[];
            }
            Some(number)
        })
    }

    fn number(&mut self) -> Result<u64, ReadError> {
        let mut value = 0;
        for (index, &byte) in self.bytes.iter().take(10).enumerate() {
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.skip(index + 1);
                return Ok(value);
            }
        }
        Err(self.error("a number does not end where it must"))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let taken = *self.bytes.first_chunk().ok_or_else(|| self.error("a field ends too early"))?;
        self.skip(N);
        Ok(taken)
    }

    fn skip(&mut self, length: usize) {
        self.bytes = &self.bytes[length..];
        self.at += length;
    }
}

/// See [`Span::fields`].
pub(super) struct Fields<'a> {
    rest: Span<'a>,
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, Field<'a>), ReadError> {
        let key = self.rest.number()?;
        let field = match key & 7 {
            0 => Field::Number(self.rest.number()?),
            1 => self.rest.take::<8>().map(|_| Field::Eight)?,
            2 => Field::Span(self.span()?),
            5 => Field::Four(self.rest.take()?),
            _ => return Err(self.rest.error("a field is of an unknown type")),
        };
        Ok((key >> 3, field))
    }

    fn span(&mut self) -> Result<Span<'a>, ReadError> {
        let length = self.rest.number()?;
        let length = usize::try_from(length).ok().filter(|length| *length <= self.rest.bytes.len());
        let length = length.ok_or_else(|| self.rest.error("a field is longer than what holds it"))?;
        let span = Span { bytes: &self.rest.bytes[..length], at: self.rest.at };
        self.rest.skip(length);
        Ok(span)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.bytes.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest.bytes = &[];
        }
        Some(field)
    }
}
