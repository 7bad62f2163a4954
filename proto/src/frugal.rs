//! A codec that looks at a message before it is decoded: an empty tensor is two bytes on the wire and hundreds in memory, so
//! that the length of a message bounds nothing. Owns that check, and what is said of bytes that are no message, for the Open Inference Protocol, which strangers speak.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec as GrpcCodec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

/// Fields with a length of their own in one message, those of tensors included: a request of 64 images in one tensor has a
/// dozen.
const FIELDS: usize = 256;

/// Bytes of whatever is neither 32-bit numbers nor raw ones: shapes, and the types that no model here takes.
const OTHER_BYTES: usize = 4096;

/// As tonic's own, with the check.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> GrpcCodec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as GrpcCodec>::Encoder;
    type Decoder = Checked<<ProstCodec<T, U> as GrpcCodec>::Decoder>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Checked(ProstCodec::<T, U>::raw_decoder(BufferSettings::default()))
    }
}

/// A decoder behind the check.
#[derive(Debug)]
pub struct Checked<D>(D);

impl<D: Decoder<Error = Status>> Decoder for Checked<D> {
    type Item = D::Item;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<D::Item>, Status> {
        use prost::bytes::Buf as _;
        // The whole message lies in one piece.
        check(source.chunk()).map_err(Status::invalid_argument)?;
        // tonic calls that its own failure; it is the sender's, and no reason to try again.
        self.0.decode(source).map_err(|status| Status::invalid_argument(status.message()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// Refuses a message that would take far more memory than it has bytes. What is no message is left to the decoder.
fn check(bytes: &[u8]) -> Result<(), String> {
    walk(bytes, Level::Message, &mut 0)
}

/// What the bytes are a message of.
#[derive(Clone, Copy)]
enum Level {
    Message,
    Tensor,
    Contents,
}

/// The number of a tensor in a request or response, and of the contents in a tensor.
const NESTED: u64 = 5;
/// Of 32-bit numbers in the contents.
const FP32: u64 = 6;

fn walk(mut bytes: &[u8], level: Level, fields: &mut usize) -> Result<(), String> {
    while !bytes.is_empty() {
        let Some((number, value)) = next(&mut bytes) else { return Ok(()) };
        let Some(value) = value else { continue };
        *fields += 1;
        if *fields > FIELDS {
            return Err(format!("more than {FIELDS} tensors, names and parameters in one message"));
        }
        match (level, number) {
            (Level::Message, NESTED) => walk(value, Level::Tensor, fields)?,
            (Level::Tensor, NESTED) => walk(value, Level::Contents, fields)?,
            (Level::Message, _) | (Level::Contents, FP32) => {}
            (Level::Tensor | Level::Contents, _) if value.len() > OTHER_BYTES => {
                return Err(format!(
                    "field {number} of a tensor has {} bytes, at most {OTHER_BYTES}",
                    value.len()
                ));
            }
            (Level::Tensor | Level::Contents, _) => {}
        }
    }
    Ok(())
}

/// The next field's number, and its bytes where it has a length; `None` where these bytes are no message.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let tag = varint(bytes)?;
    let value = match tag & 7 {
        0 => {
            varint(bytes)?;
            None
        }
        1 => {
            take(bytes, 8)?;
            None
        }
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Some(take(bytes, length)?)
        }
        5 => {
            take(bytes, 4)?;
            None
        }
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::model_infer_request::InferInputTensor;
    use crate::inference::{InferTensorContents, ModelInferRequest};

    fn request(tensor: InferInputTensor) -> ModelInferRequest {
        ModelInferRequest { model_name: "m".to_owned(), inputs: vec![tensor], ..Default::default() }
    }

    fn contents(contents: InferTensorContents) -> ModelInferRequest {
        request(InferInputTensor { contents: Some(contents), ..Default::default() })
    }

    #[test]
    fn what_a_model_takes_passes() {
        let numbers = InferTensorContents { fp32_contents: vec![1.5; 200_000], ..Default::default() };
        check(&contents(numbers).encode_to_vec()).unwrap();
        let raw = ModelInferRequest {
            raw_input_contents: vec![vec![7; 1 << 20].into()],
            ..request(InferInputTensor { shape: vec![1, 3, 224, 224], ..Default::default() })
        };
        check(&raw.encode_to_vec()).unwrap();
        check(&[]).unwrap();
    }

    #[test]
    fn what_would_grow_in_memory_does_not() {
        let tensors = ModelInferRequest { inputs: vec![Default::default(); 257], ..Default::default() };
        let raw =
            ModelInferRequest { raw_input_contents: vec![Default::default(); 257], ..Default::default() };
        let texts =
            InferTensorContents { bytes_contents: vec![Default::default(); 257], ..Default::default() };
        let longs = InferTensorContents { int64_contents: vec![0; 5000], ..Default::default() };
        let shape = request(InferInputTensor { shape: vec![1; 5000], ..Default::default() });
        for (case, named) in [
            (tensors.encode_to_vec(), "more than 256"),
            (raw.encode_to_vec(), "more than 256"),
            (contents(texts).encode_to_vec(), "more than 256"),
            (contents(longs).encode_to_vec(), "field 3 of a tensor has 5000 bytes"),
            (shape.encode_to_vec(), "field 3 of a tensor has 5000 bytes"),
        ] {
            let message = check(&case).unwrap_err();
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn what_is_no_message_is_the_decoders_to_refuse() {
        for bytes in
            [&[0xff; 20][..], &[0x2a], &[0x2a, 0x05, 0x00], &[0x2b], &[0x2a, 0xff, 0xff, 0xff, 0xff, 0x7f]]
        {
            check(bytes).unwrap();
        }
    }
}
