//! The protocol's tensors in REST: JSON, or JSON followed by raw bytes (the binary extension), in and out. Data in JSON
//! may be flat or nested as the shape is.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::object::Object;
use crate::serve::inference::{self, Answer, DATATYPE, OUTPUT, Request, Tensor};

/// The header that says how much of a body is JSON; without it, all is.
pub(super) const HEAD_LENGTH: &str = "inference-header-content-length";

/// Arrays within arrays at most: batch, channels, rows, columns.
const DEPTH_LIMIT: usize = 4;

/// What a client asks. Keys that this subset of the protocol does not use are allowed.
#[derive(Debug, Deserialize)]
pub(super) struct InferRequest<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(borrow)]
    inputs: Vec<Object<InputTensor<'a>>>,
    #[serde(default)]
    outputs: Vec<Object<RequestedOutput>>,
}

type Parameters = BTreeMap<String, Parameter>;

/// A parameter, as far as any is understood here: what is nested is read over, not kept.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Parameter {
    Bool(bool),
    Count(u64),
    Other,
}

#[derive(Debug, Deserialize)]
struct InputTensor<'a> {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Parameters,
    /// Read when it is known how many numbers there may be.
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(skip)]
    numbers: Vec<f32>,
}

#[derive(Debug, Deserialize)]
struct RequestedOutput {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

impl Parameter {
    fn bool(self) -> Option<bool> {
        match self {
            Self::Bool(is_it) => Some(is_it),
            Self::Count(_) | Self::Other => None,
        }
    }

    fn count(self) -> Option<u64> {
        match self {
            Self::Count(count) => Some(count),
            Self::Bool(_) | Self::Other => None,
        }
    }
}

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Parameter;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a parameter")
            }

            fn visit_bool<E>(self, is_it: bool) -> Result<Parameter, E> {
                Ok(Parameter::Bool(is_it))
            }

            fn visit_u64<E>(self, count: u64) -> Result<Parameter, E> {
                Ok(Parameter::Count(count))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Parameter, E> {
                Ok(Parameter::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Parameter, E> {
                Ok(Parameter::Other)
            }

            fn visit_str<E>(self, _: &str) -> Result<Parameter, E> {
                Ok(Parameter::Other)
            }

            fn visit_unit<E>(self) -> Result<Parameter, E> {
                Ok(Parameter::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Parameter, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Parameter::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Parameter, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Parameter::Other)
            }
        }

        deserializer.deserialize_any(Any)
    }
}

impl<'a> InferRequest<'a> {
    /// A request's body; `head` is its header's value for the length of the JSON. Numbers that follow the JSON are put
    /// to the inputs that announce them; an input in JSON is read as far as a batch of images of `shape` goes.
    pub(super) fn read(body: &'a [u8], head: Option<&str>, shape: [u32; 3]) -> Result<Self, String> {
        let length = match head {
            None => body.len(),
            Some(text) => {
                let length = text.parse().ok().filter(|&length| length <= body.len());
                let got = body.len();
                length.ok_or_else(|| format!("{HEAD_LENGTH} is '{text}', the body has {got} bytes"))?
            }
        };
        let (json, mut raw) = body.split_at(length);
        let Object(mut request): Object<Self> =
            serde_json::from_slice(json).map_err(|error| format!("the request is no such JSON: {error}"))?;
        for Object(input) in &mut request.inputs {
            let name = &input.name;
            inference::check_datatype(&input.datatype)?;
            input.numbers = match (input.parameters.get("binary_data_size"), input.data) {
                (Some(_), Some(_)) => {
                    return Err(format!("input '{name}': give data or binary_data_size, not both"));
                }
                (Some(size), None) => {
                    let size = size.count().and_then(|size| usize::try_from(size).ok());
                    let (own, rest) = size.and_then(|size| raw.split_at_checked(size)).ok_or_else(|| {
                        format!("input '{name}': binary_data_size is more than the body holds")
                    })?;
                    raw = rest;
                    inference::from_raw(own)?
                }
                (None, Some(data)) => {
                    let (_, wanted) = inference::batch(&input.shape, shape)?;
                    numbers(data, wanted).map_err(|error| format!("input '{name}': data: {error}"))?
                }
                // A parameter may say that they are elsewhere.
                (None, None) => continue,
            };
        }
        if raw.is_empty() {
            return Ok(request);
        }
        Err(format!("{} bytes after the JSON belong to no input; give each its binary_data_size", raw.len()))
    }

    /// The form that the answer is to have.
    pub(super) fn form(&self) -> Form {
        let says =
            |parameters: &Parameters, name| parameters.get(name).and_then(|parameter| parameter.bool());
        let own = self.outputs.first().and_then(|Object(output)| says(&output.parameters, "binary_data"));
        let is_raw = own.or_else(|| says(&self.parameters, "binary_data_output")).unwrap_or(false);
        Form { id: self.id.clone(), is_raw }
    }

    /// The request to the model that the path names.
    pub(super) fn named(self, model: String, version: String) -> Result<Request, String> {
        let inputs = self.inputs.iter().map(|Object(input)| &input.parameters);
        let outputs = self.outputs.iter().map(|Object(output)| &output.parameters);
        for parameters in inputs.chain(outputs).chain([&self.parameters]) {
            inference::check_parameters(parameters.keys())?;
        }
        let tensor = |Object(input): Object<InputTensor>| {
            let InputTensor { name, shape, datatype, numbers, .. } = input;
            if numbers.is_empty() {
                return Err(format!("input '{name}' has no data"));
            }
            Ok(Tensor { name, datatype, shape, numbers })
        };
        Ok(Request {
            model,
            version,
            inputs: self.inputs.into_iter().map(tensor).collect::<Result<_, String>>()?,
            outputs: self.outputs.into_iter().map(|Object(output)| output.name).collect(),
        })
    }
}

/// How a client wants its answer.
#[derive(Debug, PartialEq)]
pub(super) struct Form {
    id: Option<String>,
    is_raw: bool,
}

#[derive(Debug, Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<f32>>,
}

impl Form {
    /// The body, and the value of the header [`HEAD_LENGTH`] where raw bytes follow the JSON.
    pub(super) fn answer(self, answer: Answer) -> (Option<String>, Vec<u8>) {
        let Answer { served, batch, numbers } = answer;
        let installed = &served.installed;
        let raw = self.is_raw.then(|| inference::to_raw(&numbers));
        let response = InferResponse {
            model_name: &installed.model.name,
            model_version: installed.generation.to_string(),
            id: self.id,
            outputs: [OutputTensor {
                name: OUTPUT,
                datatype: DATATYPE,
                shape: [batch, installed.model.classes as usize],
                parameters: raw.as_ref().map(|raw| serde_json::json!({ "binary_data_size": raw.len() })),
                data: raw.is_none().then_some(numbers),
            }],
        };
        let mut body = serde_json::to_vec(&response).expect("an answer is plain data");
        let head = raw.as_ref().map(|_| body.len().to_string());
        body.extend(raw.unwrap_or_default());
        (head, body)
    }
}

/// Numbers in row-major order, from arrays nested at most as deep as a batch of images.
fn numbers(data: &RawValue, most: usize) -> Result<Vec<f32>, serde_json::Error> {
    let mut numbers = Vec::new();
    let level = Level { numbers: &mut numbers, most, depth: 0 };
    level.deserialize(&mut serde_json::Deserializer::from_str(data.get()))?;
    Ok(numbers)
}

/// One level of nesting: an array, or below the first one a number.
struct Level<'a> {
    numbers: &'a mut Vec<f32>,
    most: usize,
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
        if self.numbers.len() == self.most {
            return Err(E::custom(format!("more than the {} numbers that the shape asks for", self.most)));
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
        let Self { numbers, most, depth } = self;
        while items.next_element_seed(Level { numbers: &mut *numbers, most, depth: depth + 1 })?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#""name":"input","shape":[2,1,2,2],"datatype":"FP32""#;
    const SHAPE: [u32; 3] = [1, 2, 2];

    fn read(input: &str) -> Result<Vec<f32>, String> {
        let json = format!(r#"{{"inputs":[{{{HEAD},{input}}}]}}"#);
        let request =
            InferRequest::read(json.as_bytes(), None, SHAPE)?.named("m".to_owned(), String::new())?;
        Ok(request.inputs[0].numbers.clone())
    }

    /// A body of JSON with one input that announces `size` bytes, followed by `raw`.
    fn binary(size: &str, raw: &[u8]) -> (Vec<u8>, String) {
        let json = format!(r#"{{"inputs":[{{{HEAD},"parameters":{{"binary_data_size":{size}}}}}]}}"#);
        (([json.as_bytes(), raw].concat()), json.len().to_string())
    }

    #[test]
    fn flat_and_nested_data_mean_the_same() {
        let numbers = vec![1.0, -2.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0];
        for data in
            ["[1,-2,3.5,4,5,6,7,8]", "[[1,-2,3.5,4],[5,6,7,8]]", "[[[[1,-2],[3.5,4]]],[[[5,6],[7,8]]]]"]
        {
            assert_eq!(read(&format!(r#""data":{data}"#)).as_ref(), Ok(&numbers));
        }
    }

    #[test]
    fn data_that_is_none_is_refused_in_words() {
        for (input, named) in [
            (r#""data":[1,2,3,null]"#, "a number"),
            (r#""data":7"#, "an array of numbers"),
            (r#""data":[1,2,3,4,[5,6,7,8,9]]"#, "'input': data: more than the 8 numbers"),
            (r#""data":[1],"parameters":{"binary_data_size":4}"#, "not both"),
            (r#""data":[]"#, "has no data"),
            (r#""data":[[[[[1]]]]]"#, "more than 4 deep"),
            (r#""parameters":{}"#, "has no data"),
            (r#""data":[1],"parameters":{"shared_memory_region":"r"}"#, "'shared_memory_region'"),
        ] {
            let message = read(input).unwrap_err();
            assert!(message.contains(named), "{input}: {message}");
        }
    }

    #[test]
    fn only_objects_are_taken_for_objects() {
        let listed = format!(r#"{{"inputs":[{{{HEAD},"data":[1]}}],"outputs":[["logits"]]}}"#);
        for json in [
            r#"[null,{},[{"name":"input"}],[]]"#,
            r#"{"inputs":[["input",[1,1,2,2],"FP32",{},[1,2,3,4]]]}"#,
            &listed,
            "7",
        ] {
            let message = InferRequest::read(json.as_bytes(), None, SHAPE).unwrap_err();
            assert!(message.contains("expected an object"), "{json}: {message}");
            assert!(!message.contains("struct"), "{json}: {message}");
        }
    }

    #[test]
    fn raw_numbers_follow_the_json() {
        let (body, head) = binary("16", &inference::to_raw(&[1.0, 2.0, 3.0, 4.5]));
        let request = InferRequest::read(&body, Some(&head), SHAPE).unwrap();
        assert_eq!(request.form(), Form { id: None, is_raw: false });
        assert_eq!(
            request.named(String::new(), String::new()).unwrap().inputs[0].numbers,
            [1.0, 2.0, 3.0, 4.5]
        );
    }

    #[test]
    fn sizes_that_lie_are_refused() {
        let cases = [
            ("17", 16, None, "more than the body holds"),
            ("-1", 16, None, "more than the body holds"),
            ("18446744073709551615", 16, None, "more than the body holds"),
            ("15", 15, None, "whole number"),
            ("12", 16, None, "4 bytes after the JSON"),
            ("16", 16, Some("9999"), "'9999'"),
            ("16", 16, Some("-1"), "'-1'"),
            ("16", 16, Some(""), "''"),
        ];
        for (size, length, head, named) in cases {
            let (body, own) = binary(size, &vec![0; length]);
            let message = InferRequest::read(&body, Some(head.unwrap_or(&own)), SHAPE).unwrap_err();
            assert!(message.contains(named), "{size} {head:?}: {message}");
        }
    }

    #[test]
    fn an_output_says_what_form_it_wants() {
        let form = |more: &str| {
            let json = format!(r#"{{"id":"7",{more}"inputs":[{{{HEAD},"data":[1]}}]}}"#);
            InferRequest::read(json.as_bytes(), None, SHAPE).unwrap().form().is_raw
        };
        assert!(form(r#""parameters":{"binary_data_output":true},"#));
        assert!(form(r#""outputs":[{"name":"logits","parameters":{"binary_data":true}}],"#));
        let own = r#""outputs":[{"name":"logits","parameters":{"binary_data":false}}],"#;
        assert!(!form(&format!(r#""parameters":{{"binary_data_output":true}},{own}"#)));
        assert!(!form(""));
    }
}
