//! The protocol over gRPC. Owns the translation of messages and status codes; never runs anything itself.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use proto::inference as v2;
use proto::inference::grpc_inference_service_server::GrpcInferenceService;
use proto::inference::model_infer_response::InferOutputTensor;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::codegen::http;
use tonic::{Request, Response, Status, Streaming};

use super::inference::{self, Answer, DATATYPE, Inference, OUTPUT, Refusal, Tensor};

/// [`tonic::Code::Unimplemented`], as a header has it.
const UNIMPLEMENTED: &str = "12";

type Answered<T> = Result<Response<T>, Status>;

impl From<Refusal> for Status {
    #[expect(
        clippy::disallowed_methods,
        reason = "it is banned for the coordinator, which tells its own failures from the decoder's"
    )]
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound(text) => Self::not_found(text),
            Refusal::Invalid(text) => Self::invalid_argument(text),
            Refusal::Encoded(text) => Self::unimplemented(text),
            Refusal::TooLong(text) => Self::out_of_range(text),
            Refusal::Slow(text) => Self::deadline_exceeded(text),
            Refusal::Full(text) => Self::resource_exhausted(text),
            Refusal::Unavailable(text) => Self::unavailable(text),
            Refusal::Internal(text) => Self::internal(text),
        }
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    type ModelStreamInferStream =
        Pin<Box<dyn Stream<Item = Result<v2::ModelStreamInferResponse, Status>> + Send>>;

    async fn server_live(&self, _: Request<v2::ServerLiveRequest>) -> Answered<v2::ServerLiveResponse> {
        Ok(Response::new(v2::ServerLiveResponse { live: self.is_live().await }))
    }

    async fn server_ready(&self, _: Request<v2::ServerReadyRequest>) -> Answered<v2::ServerReadyResponse> {
        Ok(Response::new(v2::ServerReadyResponse { ready: self.any().is_ok() }))
    }

    async fn model_ready(&self, request: Request<v2::ModelReadyRequest>) -> Answered<v2::ModelReadyResponse> {
        let v2::ModelReadyRequest { name, version } = request.into_inner();
        Ok(Response::new(v2::ModelReadyResponse { ready: self.model(&name, &version).is_ok() }))
    }

    async fn server_metadata(
        &self,
        _: Request<v2::ServerMetadataRequest>,
    ) -> Answered<v2::ServerMetadataResponse> {
        Ok(Response::new(self.server()))
    }

    async fn model_metadata(
        &self,
        request: Request<v2::ModelMetadataRequest>,
    ) -> Answered<v2::ModelMetadataResponse> {
        let v2::ModelMetadataRequest { name, version } = request.into_inner();
        let served = self.model(&name, &version)?;
        Ok(Response::new(inference::metadata(&served)))
    }

    async fn model_config(
        &self,
        request: Request<v2::ModelConfigRequest>,
    ) -> Answered<v2::ModelConfigResponse> {
        let v2::ModelConfigRequest { name, version } = request.into_inner();
        let config = inference::config(&*self.model(&name, &version)?);
        Ok(Response::new(v2::ModelConfigResponse { config: Some(config) }))
    }

    async fn model_infer(&self, request: Request<v2::ModelInferRequest>) -> Answered<v2::ModelInferResponse> {
        Ok(Response::new(self.answer(request.into_inner()).await?))
    }

    async fn model_stream_infer(
        &self,
        requests: Request<Streaming<v2::ModelInferRequest>>,
    ) -> Answered<Self::ModelStreamInferStream> {
        let inference = self.clone();
        // One at a time, so that answers come in the order of the requests.
        let requests =
            Until { stream: requests.into_inner(), stop: Box::pin(self.stop.clone().cancelled_owned()) };
        let answers = requests.then(move |request| {
            let inference = inference.clone();
            async move { Ok(inference.answer_in_stream(request?).await) }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn model_statistics(
        &self,
        request: Request<v2::ModelStatisticsRequest>,
    ) -> Answered<v2::ModelStatisticsResponse> {
        let v2::ModelStatisticsRequest { name, version } = request.into_inner();
        Ok(Response::new(self.statistics(&name, &version)?))
    }

    async fn repository_index(
        &self,
        _: Request<v2::RepositoryIndexRequest>,
    ) -> Answered<v2::RepositoryIndexResponse> {
        Ok(Response::new(self.index()))
    }
}

/// The answer to a call of a service that is not here, which tonic's own router would give.
pub(super) fn unknown_service(path: &str) -> http::Response<Body> {
    let shown = &path[..path.floor_char_boundary(80)];
    Status::unimplemented(format!("{shown} is not served here; inference.GRPCInferenceService is"))
        .into_http()
}

/// What the generated code says of calls that it does not know is a number alone.
pub(super) fn in_words<T>(mut response: http::Response<T>) -> http::Response<T> {
    let headers = response.headers_mut();
    let is_unknown = headers.get("grpc-status").is_some_and(|status| *status == UNIMPLEMENTED);
    if is_unknown && !headers.contains_key("grpc-message") {
        let text = "this call is not served here; the server's metadata name the extensions that are";
        headers.insert("grpc-message", http::HeaderValue::from_static(text));
    }
    response
}

/// A stream that ends when the agent stops.
struct Until<S> {
    stream: S,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S: Stream + Unpin> Stream for Until<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        match self.stop.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => Pin::new(&mut self.stream).poll_next(context),
        }
    }
}

impl Inference {
    async fn answer(&self, request: v2::ModelInferRequest) -> Result<v2::ModelInferResponse, Refusal> {
        self.model(&request.model_name, &request.model_version)?;
        let (id, is_raw) = (request.id.clone(), !request.raw_input_contents.is_empty());
        let Answer { served, batch, numbers } = self.infer(read(request).map_err(Refusal::Invalid)?).await?;
        // As the request was put: whoever sends typed numbers may not read raw ones.
        let (raw, contents) = if is_raw {
            (vec![inference::to_raw(&numbers).into()], None)
        } else {
            (Vec::new(), Some(v2::InferTensorContents { fp32_contents: numbers, ..Default::default() }))
        };
        let output = InferOutputTensor {
            name: OUTPUT.to_owned(),
            datatype: DATATYPE.to_owned(),
            shape: vec![batch as i64, i64::from(served.installed.model.classes)],
            contents,
            ..Default::default()
        };
        Ok(v2::ModelInferResponse {
            model_name: served.installed.model.name.clone(),
            model_version: served.installed.generation.to_string(),
            id,
            outputs: vec![output],
            raw_output_contents: raw,
            ..Default::default()
        })
    }

    /// In a stream a refusal is one answer among others.
    async fn answer_in_stream(&self, request: v2::ModelInferRequest) -> v2::ModelStreamInferResponse {
        let id = request.id.clone();
        match self.answer(request).await {
            Ok(response) => {
                v2::ModelStreamInferResponse { infer_response: Some(response), ..Default::default() }
            }
            Err(refusal) => v2::ModelStreamInferResponse {
                error_message: Status::from(refusal).message().to_owned(),
                infer_response: Some(v2::ModelInferResponse { id, ..Default::default() }),
            },
        }
    }
}

/// A request in the protocol's own words.
fn read(request: v2::ModelInferRequest) -> Result<inference::Request, String> {
    let v2::ModelInferRequest { model_name, model_version, inputs, outputs, raw_input_contents: raw, .. } =
        request;
    inference::check_parameters(request.parameters.keys())?;
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(format!("{} raw_input_contents for {} inputs", raw.len(), inputs.len()));
    }
    let mut tensors = Vec::with_capacity(inputs.len());
    for (index, input) in inputs.into_iter().enumerate() {
        inference::check_datatype(&input.datatype)?;
        inference::check_parameters(input.parameters.keys())?;
        let numbers = match (raw.get(index), input.contents) {
            (Some(_), Some(_)) => return Err("give contents or raw_input_contents, not both".to_owned()),
            (Some(bytes), None) => inference::from_raw(bytes)?,
            (None, contents) => contents.unwrap_or_default().fp32_contents,
        };
        tensors.push(Tensor { name: input.name, datatype: input.datatype, shape: input.shape, numbers });
    }
    let mut names = Vec::with_capacity(outputs.len());
    for output in outputs {
        inference::check_parameters(output.parameters.keys())?;
        names.push(output.name);
    }
    Ok(inference::Request { model: model_name, version: model_version, inputs: tensors, outputs: names })
}
