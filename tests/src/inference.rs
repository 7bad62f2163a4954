//! A client of an agent's inference API, as the Open Inference Protocol v2 (REST) has it. One image at a time.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use ureq::Agent;

/// A client of one agent's inference API.
#[derive(Debug, Clone)]
pub struct InferenceClient {
    http: Agent,
    base: String,
}

/// What an agent says of a model's input and output.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelMetadata {
    /// The input's name.
    pub input: String,
    /// Its dimensions for one image: 1, channels, height, width.
    pub shape: Vec<u64>,
    /// Per channel, subtracted from pixels in 0..1.
    pub mean: Vec<f32>,
    /// Per channel, divided by afterwards.
    pub std: Vec<f32>,
}

impl InferenceClient {
    /// A client of the agent that serves at `address`, `host:port` with or without a scheme.
    pub fn new(address: &str) -> Self {
        let base = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let config = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(30)))
            .http_status_as_error(false)
            .proxy(None)
            .no_delay(true)
            .build();
        Self { http: config.into(), base: base.trim_end_matches('/').to_owned() }
    }

    /// What the agent says of `model`.
    ///
    /// # Errors
    /// When the agent does not answer, does not serve the model, or does not say how to normalise an image.
    pub fn metadata(&self, model: &str) -> Result<ModelMetadata> {
        let url = format!("{}/v2/models/{model}", self.base);
        let response = self.http.get(&url).call();
        let answer = body(&url, response)?;
        let input = &answer["inputs"][0];
        let shape: Vec<i64> = field(&url, &input["shape"], "inputs[0].shape")?;
        ensure!(shape.len() == 4, "{url}: an image has 4 dimensions, not {shape:?}");
        let dimensions = shape[1..].iter().map(|&d| u64::try_from(d).context("a dimension is negative"));
        let metadata = ModelMetadata {
            input: field(&url, &input["name"], "inputs[0].name")?,
            shape: std::iter::once(Ok(1)).chain(dimensions).collect::<Result<_>>()?,
            mean: field(&url, &answer["parameters"]["mean"], "parameters.mean")?,
            std: field(&url, &answer["parameters"]["std"], "parameters.std")?,
        };
        let channels = metadata.shape[1] as usize;
        ensure!(metadata.mean.len() == channels && metadata.std.len() == channels, "{url}: {metadata:?}");
        Ok(metadata)
    }

    /// The answer of `model` to a request made by [`ModelMetadata::request`]: one number per class.
    ///
    /// # Errors
    /// When the agent does not answer, or answers with anything but numbers.
    pub fn infer(&self, model: &str, request: &str) -> Result<Vec<f32>> {
        let url = format!("{}/v2/models/{model}/infer", self.base);
        let response = self.http.post(&url).content_type("application/json").send(request);
        let answer = body(&url, response)?;
        field(&url, &answer["outputs"][0]["data"], "outputs[0].data")
    }
}

impl ModelMetadata {
    /// The body of a request with one image, normalised as the model wants it.
    ///
    /// # Errors
    /// When the image has another size than the model's input.
    pub fn request(&self, pixels: &[u8]) -> Result<String> {
        let plane = (self.shape[2] * self.shape[3]) as usize;
        ensure!(
            pixels.len() == plane * self.mean.len(),
            "an image of {} numbers for {:?}",
            pixels.len(),
            self.shape
        );
        let channels = pixels.chunks_exact(plane).zip(self.mean.iter().zip(&self.std));
        let data: Vec<f32> = channels
            .flat_map(|(pixels, (mean, std))| {
                pixels.iter().map(move |&p| (f32::from(p) / 255.0 - mean) / std)
            })
            .collect();
        let input = json!({ "name": self.input, "shape": self.shape, "datatype": "FP32", "data": data });
        Ok(json!({ "inputs": [input] }).to_string())
    }
}

/// The index of the largest number.
pub fn argmax(logits: &[f32]) -> usize {
    logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(index, _)| index)
}

fn body(url: &str, response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value> {
    let mut response = response.with_context(|| format!("{url} does not answer"))?;
    let text = response.body_mut().read_to_string().with_context(|| format!("{url}: no answer to read"))?;
    ensure!(response.status().is_success(), "{url}: {} {text}", response.status());
    serde_json::from_str(&text).with_context(|| format!("{url}: not JSON: {text}"))
}

fn field<T: serde::de::DeserializeOwned>(url: &str, value: &Value, name: &str) -> Result<T> {
    T::deserialize(value).with_context(|| format!("{url}: {name} is {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_normalised_channel_by_channel() {
        let metadata = ModelMetadata {
            input: "x".into(),
            shape: vec![1, 2, 1, 2],
            mean: vec![0.0, 1.0],
            std: vec![1.0, 0.5],
        };
        let request: Value = serde_json::from_str(&metadata.request(&[0, 255, 255, 0]).unwrap()).unwrap();
        assert_eq!(request["inputs"][0]["data"], json!([0.0, 1.0, 0.0, -2.0]));
        assert!(metadata.request(&[0]).is_err());
        assert_eq!(argmax(&[0.1, 3.0, -1.0]), 1);
    }
}
