//! What the protocol's two forms have in common: which model is meant, whether a tensor fits it, and what is said of it.
//! Owns the refusals and their words; knows neither JSON nor gRPC.

use std::sync::Arc;
use std::time::Duration;

use proto::inference as v2;
use proto::inference::model_metadata_response::TensorMetadata;
use proto::inference::repository_index_response::ModelIndex;

use tokio_util::sync::CancellationToken;

use crate::runner::statistics::Span;
use crate::runner::{InferError, Runner, ServedModel};

/// The name of the one input.
pub(super) const INPUT: &str = "input";

/// The name of the one output.
pub(super) const OUTPUT: &str = "logits";

/// The one type of number.
pub(super) const DATATYPE: &str = "FP32";

/// What kind of model it is.
const PLATFORM: &str = "onnx_onnxv1";

/// Images in one request at most.
pub(super) const BATCH_LIMIT: usize = 64;

/// Extensions of the protocol that are served.
const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "statistics", "model_repository", "model_configuration"];

/// Parameters whose neglect would give another answer than the one asked for.
const UNSUPPORTED: [&str; 3] = ["classification", "shared_memory_region", "sequence_id"];

/// A number in JSON at most, with what is between it and the next: as Python prints one, indented.
const NUMBER_IN_JSON: usize = 32;

/// Of a request beside its numbers.
const OTHER_BYTES: usize = 64 << 10;

/// A batch of large images may have to be sent in several requests; a single one never has.
const LONG: usize = 16 << 20;

/// Why a request gets no answer, in one line.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(super) enum Refusal {
    /// There is no such model or version.
    NotFound(String),
    /// The request makes no sense for the model.
    Invalid(String),
    /// The request is written in a way that is not read here.
    Encoded(String),
    /// More bytes than any request that makes sense.
    TooLong(String),
    /// The client does not send the rest.
    Slow(String),
    /// Not now: no model yet, too busy, stopping.
    Unavailable(String),
    /// Not now: other requests take the memory that there is for them.
    Full(String),
    /// The engine failed.
    Internal(String),
}

/// A request to run a model, whatever it came as.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) model: String,
    /// Empty: whichever serves.
    pub(super) version: String,
    pub(super) inputs: Vec<Tensor>,
    /// Names of the outputs that are asked for; none: all.
    pub(super) outputs: Vec<String>,
}

/// An input.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) datatype: String,
    pub(super) shape: Vec<i64>,
    pub(super) numbers: Vec<f32>,
}

/// Outputs of the model for each image of a batch, one after another.
pub(super) struct Answer {
    pub(super) served: Arc<ServedModel>,
    pub(super) batch: usize,
    pub(super) numbers: Vec<f32>,
}

/// The one model of this device, by the protocol's names.
#[derive(Clone)]
pub(super) struct Inference {
    pub(super) runner: Runner,
    /// Ends streams, which have no end of their own.
    pub(super) stop: CancellationToken,
}

impl Inference {
    /// Whether the inference thread answers.
    pub(super) async fn is_live(&self) -> bool {
        self.runner.is_alive(Duration::from_secs(10)).await
    }

    /// The model that serves.
    pub(super) fn any(&self) -> Result<Arc<ServedModel>, Refusal> {
        let none = || match self.runner.passed_over().as_slice() {
            [] => "no model serves on this device yet; `reconvene-agent status` says why".to_owned(),
            reasons => format!(
                "no model serves on this device ({}); `reconvene-agent status` says more",
                reasons.join("; ")
            ),
        };
        self.runner.active().ok_or_else(|| Refusal::Unavailable(none()))
    }

    /// The model that serves, if it is the one that is meant; an empty version means any.
    pub(super) fn model(&self, name: &str, version: &str) -> Result<Arc<ServedModel>, Refusal> {
        let served = self.any()?;
        let (serves, generation) = (&served.installed.model.name, served.installed.generation.to_string());
        if serves != name {
            let text = format!("no model '{name}' on this device; it serves '{serves}'");
            return Err(Refusal::NotFound(text));
        }
        if !version.is_empty() && version != generation {
            let text = format!("no version '{version}' of '{name}' on this device; it serves '{generation}'");
            return Err(Refusal::NotFound(text));
        }
        Ok(served)
    }

    /// Bytes of a request at most: the largest batch of the model that serves, in JSON, or what is left of it within
    /// [`LONG`]; next to nothing where none serves.
    pub(super) fn longest(&self) -> usize {
        let image = self.runner.active().map_or(0, |served| served.engine.numel() * NUMBER_IN_JSON);
        (image * BATCH_LIMIT).min(LONG).max(image) + OTHER_BYTES
    }

    /// Runs the model.
    pub(super) async fn infer(&self, request: Request) -> Result<Answer, Refusal> {
        let served = self.model(&request.model, &request.version)?;
        let batch = request.check(&served).map_err(Refusal::Invalid)?;
        let images = request.inputs.into_iter().next().map(|input| input.numbers).unwrap_or_default();
        let numbers = self.runner.infer(served.clone(), images).await?;
        Ok(Answer { served, batch, numbers })
    }

    /// What the server is.
    pub(super) fn server(&self) -> v2::ServerMetadataResponse {
        v2::ServerMetadataResponse {
            name: "reconvene-agent".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }
    }

    /// The models there are: none or one.
    pub(super) fn index(&self) -> v2::RepositoryIndexResponse {
        let entry = |served: Arc<ServedModel>| ModelIndex {
            name: served.installed.model.name.clone(),
            version: served.installed.generation.to_string(),
            state: "READY".to_owned(),
            reason: String::new(),
        };
        v2::RepositoryIndexResponse { models: self.runner.active().map(entry).into_iter().collect() }
    }

    /// What the model has done since it was loaded; an empty name means whichever serves.
    pub(super) fn statistics(
        &self,
        name: &str,
        version: &str,
    ) -> Result<v2::ModelStatisticsResponse, Refusal> {
        let served = if name.is_empty() { self.any()? } else { self.model(name, version)? };
        Ok(v2::ModelStatisticsResponse { model_stats: vec![statistics(&served)] })
    }
}

impl Request {
    /// The images in the batch, if they fit the model.
    fn check(&self, served: &ServedModel) -> Result<usize, String> {
        let manifest = &served.installed.model;
        let [input] = self.inputs.as_slice() else {
            return Err(format!("give exactly one input, named '{INPUT}'; got {}", self.inputs.len()));
        };
        if let Some(other) = self.outputs.iter().find(|name| *name != OUTPUT) {
            return Err(format!("the output is named '{OUTPUT}', not '{other}'"));
        }
        input.check(manifest.input_shape)
    }
}

impl Tensor {
    /// The number of images, if these are images of `shape`: channels, height, width.
    fn check(&self, shape: [u32; 3]) -> Result<usize, String> {
        if self.name != INPUT {
            return Err(format!("the input is named '{INPUT}', not '{}'", self.name));
        }
        check_datatype(&self.datatype)?;
        let (batch, wanted) = batch(&self.shape, shape)?;
        let numbers = &self.numbers;
        if numbers.len() != wanted {
            return Err(format!("the shape asks for {wanted} numbers, data holds {}", numbers.len()));
        }
        match numbers.iter().position(|number| !number.is_finite()) {
            Some(index) => Err(format!("number {index} of data is not a finite 32-bit number")),
            None => Ok(batch),
        }
    }
}

/// The number of images, and of numbers in them, if `got` is a batch of images of `shape`: channels, height, width.
pub(super) fn batch(got: &[i64], shape: [u32; 3]) -> Result<(usize, usize), String> {
    let [c, h, w] = shape.map(i64::from);
    let [n, rest @ ..] = got else { return Err(format!("the input's shape is [N, {c}, {h}, {w}], not []")) };
    if rest != [c, h, w] {
        let (got, more) = (&got[..got.len().min(8)], if got.len() > 8 { " and more" } else { "" });
        return Err(format!("the input's shape is [N, {c}, {h}, {w}], not {got:?}{more}"));
    }
    let batch = usize::try_from(*n).ok().filter(|n| (1..=BATCH_LIMIT).contains(n));
    let batch = batch.ok_or_else(|| format!("N must be 1 to {BATCH_LIMIT}, not {n}"))?;
    Ok((batch, batch * shape.iter().map(|&dim| dim as usize).product::<usize>()))
}

/// Refuses every type but the one; told before data is read as that type.
pub(super) fn check_datatype(datatype: &str) -> Result<(), String> {
    match datatype {
        DATATYPE => Ok(()),
        other => Err(format!("the input's datatype is {DATATYPE}, not '{other}'")),
    }
}

/// Refuses parameters of extensions that are not served.
pub(super) fn check_parameters<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), String> {
    match names.into_iter().find(|name| UNSUPPORTED.contains(&name.as_str())) {
        Some(name) => Err(format!("parameter '{name}' is of an extension that is not served here; see /v2")),
        None => Ok(()),
    }
}

/// Numbers from the protocol's raw form: little-endian, four bytes each.
pub(super) fn from_raw(bytes: &[u8]) -> Result<Vec<f32>, String> {
    let (numbers, rest) = bytes.as_chunks::<4>();
    if rest.is_empty() {
        return Ok(numbers.iter().map(|&number| f32::from_le_bytes(number)).collect());
    }
    Err(format!("{} bytes are not a whole number of {DATATYPE} numbers", bytes.len()))
}

/// Numbers in the protocol's raw form.
pub(super) fn to_raw(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// What the protocol says of a model.
pub(super) fn metadata(served: &ServedModel) -> v2::ModelMetadataResponse {
    let manifest = &served.installed.model;
    let [c, h, w] = manifest.input_shape.map(i64::from);
    let tensor =
        |name: &str, shape| TensorMetadata { name: name.to_owned(), datatype: DATATYPE.to_owned(), shape };
    v2::ModelMetadataResponse {
        name: manifest.name.clone(),
        versions: vec![served.installed.generation.to_string()],
        platform: PLATFORM.to_owned(),
        inputs: vec![tensor(INPUT, vec![-1, c, h, w])],
        outputs: vec![tensor(OUTPUT, vec![-1, i64::from(manifest.classes)])],
    }
}

/// What Triton would be configured with to serve a model.
pub(super) fn config(served: &ServedModel) -> v2::ModelConfig {
    let manifest = &served.installed.model;
    let data_type = v2::DataType::TypeFp32.into();
    let dims = manifest.input_shape.map(i64::from).to_vec();
    v2::ModelConfig {
        name: manifest.name.clone(),
        platform: PLATFORM.to_owned(),
        max_batch_size: BATCH_LIMIT as i32,
        input: vec![v2::ModelInput { name: INPUT.to_owned(), data_type, dims }],
        output: vec![v2::ModelOutput {
            name: OUTPUT.to_owned(),
            data_type,
            dims: vec![manifest.classes.into()],
        }],
    }
}

fn statistics(served: &ServedModel) -> v2::ModelStatistics {
    let counts = served.statistics.now();
    let span = |span: Span| Some(v2::StatisticDuration { count: span.count, ns: span.ns });
    // Inputs and outputs are handed over as they are, and there is no cache.
    let nothing = || Some(v2::StatisticDuration { count: 0, ns: 0 });
    v2::ModelStatistics {
        name: served.installed.model.name.clone(),
        version: served.installed.generation.to_string(),
        last_inference: counts.last_unix_ms,
        inference_count: counts.images,
        execution_count: counts.compute.count,
        inference_stats: Some(v2::InferStatistics {
            success: span(counts.success),
            fail: span(counts.fail),
            queue: span(counts.queue),
            compute_input: nothing(),
            compute_infer: span(counts.compute),
            compute_output: nothing(),
            cache_hit: nothing(),
            cache_miss: nothing(),
        }),
        batch_stats: vec![v2::InferBatchStatistics {
            batch_size: 1,
            compute_input: nothing(),
            compute_infer: span(counts.compute),
            compute_output: nothing(),
        }],
    }
}

impl From<InferError> for Refusal {
    fn from(error: InferError) -> Self {
        let text = error.to_string();
        match error {
            InferError::Engine(_) => Self::Internal(text),
            InferError::Image { .. } => Self::Invalid(text),
            InferError::Busy | InferError::Stopping => Self::Unavailable(text),
        }
    }
}

#[cfg(test)]
mod tests;
