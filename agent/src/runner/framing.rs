//! Whether an ONNX file is well framed: every length within its message, every number within ten bytes. Owns that
//! check, which comes before the engine's own reader; never decides what a model means.
//!
//! rten 0.27 trusts the framing: a number of eleven bytes or a length above 2^63 keeps its reader busy for ever, and
//! a length beyond the file allocates that much at once, which ends the process. No panic guard helps against those.

/// Why a file is not well framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("byte {offset}: {problem}")]
pub struct FramingError {
    /// Where, from the start of the file.
    pub offset: usize,
    /// What is wrong.
    pub problem: &'static str,
}

/// The messages of an ONNX file that the engine reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    /// No field of it holds another message.
    Flat,
}

/// What a field of variable length holds.
enum Content {
    Message(Message),
    Numbers,
    Opaque,
    Refused(&'static str),
}

impl Message {
    /// By the field numbers of onnx.proto3.
    fn field(self, number: u64) -> Content {
        use Content::{Message as Inner, Numbers, Opaque, Refused};
        match (self, number) {
            (Self::Model, 7) => Inner(Self::Graph),
            (Self::Model, 8 | 14) | (Self::Tensor, 13) | (Self::Shape, 1) => Inner(Self::Flat),
            (Self::Graph, 1) => Inner(Self::Node),
            (Self::Graph, 5) | (Self::Attribute, 5) => Inner(Self::Tensor),
            (Self::Graph, 11..=13) => Inner(Self::ValueInfo),
            (Self::Node, 5) => Inner(Self::Attribute),
            (Self::Attribute, 6 | 11) => Refused("models with subgraphs are not served"),
            (Self::Attribute, 8) | (Self::Tensor, 1 | 5 | 7 | 11) => Numbers,
            (Self::ValueInfo, 2) => Inner(Self::Type),
            (Self::Type, 1) => Inner(Self::TensorType),
            (Self::Type, 4 | 5) => Refused("only tensors are served"),
            (Self::TensorType, 2) => Inner(Self::Shape),
            (
                Self::Model
                | Self::Graph
                | Self::Node
                | Self::Attribute
                | Self::Tensor
                | Self::ValueInfo
                | Self::Type
                | Self::TensorType
                | Self::Shape
                | Self::Flat,
                _,
            ) => Opaque,
        }
    }
}

/// Checks the framing of an ONNX file.
pub fn check(bytes: &[u8]) -> Result<(), FramingError> {
    Walk { bytes, at: 0, graphs: 0 }.message(Message::Model, bytes.len())
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    graphs: usize,
}

impl Walk<'_> {
    /// One message that ends at `end`. The messages above nest at most seven deep, and so does this.
    fn message(&mut self, message: Message, end: usize) -> Result<(), FramingError> {
        while self.at < end {
            let tag = self.varint(end)?;
            match tag & 7 {
                0 => drop(self.varint(end)?),
                1 => self.skip(8, end)?,
                2 => self.content(message.field(tag >> 3), end)?,
                5 => self.skip(4, end)?,
                _ => return Err(self.error("an unknown or outdated type of field")),
            }
        }
        Ok(())
    }

    fn content(&mut self, content: Content, end: usize) -> Result<(), FramingError> {
        let length = self.varint(end)?;
        let left = end - self.at;
        let length = usize::try_from(length).ok().filter(|&length| length <= left);
        let inner_end = self.at + length.ok_or_else(|| self.error("a field is longer than what holds it"))?;
        match content {
            Content::Message(message) => {
                // Of several, readers take the last, the first or all: a check of one would say nothing of another.
                self.graphs += usize::from(message == Message::Graph);
                if self.graphs > 1 {
                    return Err(self.error("more than one graph"));
                }
                self.message(message, inner_end)
            }
            Content::Numbers => {
                while self.at < inner_end {
                    self.varint(inner_end)?;
                }
                Ok(())
            }
            Content::Opaque => self.skip(inner_end - self.at, inner_end),
            Content::Refused(problem) => Err(self.error(problem)),
        }
    }

    fn varint(&mut self, end: usize) -> Result<u64, FramingError> {
        let mut value = 0u64;
        for index in 0..10 {
            let byte =
                *self.bytes[..end].get(self.at).ok_or_else(|| self.error("the file ends within a number"))?;
            self.at += 1;
            if index == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error("a number of more than 64 bits"))
    }

    fn skip(&mut self, length: usize, end: usize) -> Result<(), FramingError> {
        if length > end - self.at {
            return Err(self.error("the file ends within a field"));
        }
        self.at += length;
        Ok(())
    }

    fn error(&self, problem: &'static str) -> FramingError {
        FramingError { offset: self.at, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(bytes: &[u8]) -> &'static str {
        check(bytes).unwrap_err().problem
    }

    #[test]
    fn what_hangs_or_kills_the_engine_is_refused() {
        for (bytes, expected) in [
            (&[0xff; 64][..], "a number of more than 64 bits"),
            // ir_version, then a graph of which the length says 2^63.
            (
                &[0x08, 8, 0x3a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
                "a field is longer than what holds it",
            ),
            // A name of 2^40 bytes in a graph that says it holds it.
            (&[0x3a, 7, 0x12, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20], "a field is longer than what holds it"),
            (&[0x3a, 2, 0x12, 0x09, 1, 2], "a field is longer than what holds it"),
            (&[0x3b], "an unknown or outdated type of field"),
            (&[0x0d, 1, 2], "the file ends within a field"),
            (&[0x08], "the file ends within a number"),
            // A node whose attribute holds a graph.
            (&[0x3a, 6, 0x0a, 4, 0x2a, 2, 0x32, 0], "models with subgraphs are not served"),
            (&[0x3a, 0, 0x3a, 0], "more than one graph"),
            // A tensor whose packed dims break off.
            (&[0x3a, 5, 0x2a, 3, 0x0a, 1, 0x80], "the file ends within a number"),
        ] {
            assert_eq!(problem(bytes), expected, "{bytes:x?}");
        }
    }

    #[test]
    fn sound_framing_passes() {
        for bytes in
            [&b""[..], &[0x08, 8], &[0x3a, 0], &[0x3a, 4, 0x0a, 2, 0x2a, 0], &[0x3a, 4, 0x2a, 2, 0x4a, 0]]
        {
            assert_eq!(check(bytes), Ok(()), "{bytes:x?}");
        }
    }
}
