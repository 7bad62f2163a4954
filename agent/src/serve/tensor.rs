//! The protocol's tensors: JSON in, checked numbers out, and back. Data may be flat or nested as the shape is.

use std::fmt;

use proto::ModelManifest;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::slot::Installed;

/// The name of the one input.
pub(super) const INPUT: &str = "input";

/// The name of the one output.
pub(super) const OUTPUT: &str = "logits";

/// The one type of number.
pub(super) const DATATYPE: &str = "FP32";

/// Images in one request at most.
pub(super) const BATCH_LIMIT: usize = 64;

/// Arrays within arrays at most: batch, channels, rows, columns.
const DEPTH_LIMIT: usize = 4;

/// What a client asks. Keys that this subset of the protocol does not use are allowed.
#[derive(Debug, Deserialize)]
pub(super) struct InferRequest {
    pub(super) id: Option<String>,
    inputs: Vec<InputTensor>,
}

#[derive(Debug, Deserialize)]
struct InputTensor {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    data: Flat,
}

/// Checked input: `batch` images, one after another.
#[derive(Debug, PartialEq)]
pub(super) struct Input {
    pub(super) batch: usize,
    pub(super) images: Vec<f32>,
}

impl InferRequest {
    /// The images, if they fit the model.
    pub(super) fn check(&self, manifest: &ModelManifest) -> Result<Input, String> {
        let [input] = self.inputs.as_slice() else {
            return Err(format!("give exactly one input, named '{INPUT}'; got {}", self.inputs.len()));
        };
        if input.name != INPUT {
            return Err(format!("the input is named '{INPUT}', not '{}'", input.name));
        }
        if input.datatype != DATATYPE {
            return Err(format!("the input's datatype is {DATATYPE}, not '{}'", input.datatype));
        }
        let [c, h, w] = manifest.input_shape.map(i64::from);
        let batch = match input.shape.as_slice() {
            [n, rest @ ..] if rest == [c, h, w] => *n,
            got => return Err(format!("the input's shape is [N, {c}, {h}, {w}], not {got:?}")),
        };
        let batch = usize::try_from(batch).ok().filter(|n| (1..=BATCH_LIMIT).contains(n));
        let batch = batch.ok_or_else(|| format!("N must be 1 to {BATCH_LIMIT}, not {}", input.shape[0]))?;
        let numel = manifest.self_test.input.len();
        let images = &input.data.0;
        if images.len() != batch * numel {
            return Err(format!("the shape asks for {} numbers, data holds {}", batch * numel, images.len()));
        }
        if let Some(index) = images.iter().position(|number| !number.is_finite()) {
            return Err(format!("number {index} of data is not a finite 32-bit number"));
        }
        Ok(Input { batch, images: images.clone() })
    }
}

/// What a client gets.
#[derive(Debug, Serialize)]
pub(super) struct InferResponse {
    model_name: String,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: [OutputTensor; 1],
}

#[derive(Debug, Serialize)]
struct OutputTensor {
    name: &'static str,
    datatype: &'static str,
    shape: [usize; 2],
    data: Vec<f32>,
}

impl InferResponse {
    /// The answer to `batch` images.
    pub(super) fn new(installed: &Installed, id: Option<String>, batch: usize, data: Vec<f32>) -> Self {
        let shape = [batch, installed.model.classes as usize];
        Self {
            model_name: installed.model.name.clone(),
            model_version: installed.generation.to_string(),
            id,
            outputs: [OutputTensor { name: OUTPUT, datatype: DATATYPE, shape, data }],
        }
    }
}

/// Numbers in row-major order, from arrays nested at most as deep as a batch of images.
#[derive(Debug, PartialEq)]
struct Flat(Vec<f32>);

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut numbers = Vec::new();
        Level { numbers: &mut numbers, depth: 0 }.deserialize(deserializer)?;
        Ok(Self(numbers))
    }
}

/// One level of nesting: an array, or below the first one a number.
struct Level<'a> {
    numbers: &'a mut Vec<f32>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.depth == 0 { "an array of numbers" } else { "a number or an array of numbers" })
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        if self.depth == 0 {
            return Err(E::invalid_type(serde::de::Unexpected::Float(number), &self));
        }
        self.numbers.push(number as f32);
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<(), E> {
        self.visit_f64(number as f64)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if self.depth == DEPTH_LIMIT {
            return Err(serde::de::Error::custom(format!("data is nested more than {DEPTH_LIMIT} deep")));
        }
        let numbers = self.numbers;
        while items.next_element_seed(Level { numbers: &mut *numbers, depth: self.depth + 1 })?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proto::{ArtifactRef, ByteSize, Digest, SelfTest};

    use super::*;

    fn manifest() -> ModelManifest {
        ModelManifest {
            name: "m".into(),
            artifact: ArtifactRef { digest: Digest::of(b"m"), size: ByteSize(1) },
            input_shape: [1, 2, 2],
            mean: vec![0.0],
            std: vec![1.0],
            classes: 2,
            self_test: SelfTest { input: vec![0.0; 4], output: vec![0.0; 2], tolerance: 0.0 },
        }
    }

    fn check(shape: &str, data: &str) -> Result<Input, String> {
        let json =
            format!(r#"{{"inputs":[{{"name":"input","shape":{shape},"datatype":"FP32","data":{data}}}]}}"#);
        serde_json::from_str::<InferRequest>(&json).map_err(|error| error.to_string())?.check(&manifest())
    }

    #[test]
    fn flat_and_nested_data_mean_the_same() {
        let input = Input { batch: 2, images: vec![1.0, -2.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0] };
        for data in
            ["[1,-2,3.5,4,5,6,7,8]", "[[1,-2,3.5,4],[5,6,7,8]]", "[[[[1,-2],[3.5,4]]],[[[5,6],[7,8]]]]"]
        {
            assert_eq!(check("[2,1,2,2]", data).as_ref(), Ok(&input));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_in_words() {
        for (shape, data, named) in [
            ("[1,1,2,2]", "[1,2,3]", "asks for 4 numbers, data holds 3"),
            ("[0,1,2,2]", "[]", "N must be 1 to 64, not 0"),
            ("[65,1,2,2]", "[]", "not 65"),
            ("[-1,1,2,2]", "[1,2,3,4]", "not -1"),
            ("[9223372036854775807,1,2,2]", "[1]", "N must be"),
            ("[1,4]", "[1,2,3,4]", "[N, 1, 2, 2]"),
            ("[1,1,2,2]", "[1,2,3,1e39]", "number 3 of data"),
            ("[1,1,2,2]", "[1,2,3,null]", "a number"),
            ("[1,1,2,2]", "7", "an array of numbers"),
            ("[1,1,2,2]", "[[[[[1]]]]]", "more than 4 deep"),
        ] {
            let message = check(shape, data).unwrap_err();
            assert!(message.contains(named), "{shape} {data}: {message}");
        }
    }

    #[test]
    fn names_and_types_are_checked() {
        for (json, named) in [
            (r#"{"inputs":[]}"#, "exactly one input"),
            (r#"{"inputs":[{"name":"x","shape":[1,1,2,2],"datatype":"FP32","data":[]}]}"#, "not 'x'"),
            (r#"{"inputs":[{"name":"input","shape":[1,1,2,2],"datatype":"INT8","data":[]}]}"#, "not 'INT8'"),
        ] {
            let request: InferRequest = serde_json::from_str(json).unwrap();
            assert!(request.check(&manifest()).unwrap_err().contains(named));
        }
    }
}
