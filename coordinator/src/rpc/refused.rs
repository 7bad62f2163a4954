//! Every answer is overheard on its way out: one that is a refusal goes into the log, once. Changes an answer in one case: what is
//! no message is the caller's mistake, and the decoder calls it the coordinator's.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::http::{self, HeaderValue};
use tonic::{Code, Request, Status};
use tower::{Layer, Service};

use super::status;
use crate::identity::Peer;
use crate::identity::caller::Caller;
use crate::refusals::{Refusals, Who};

/// What devices call, and nobody else but a worker that downloads.
const OF_DEVICES: [&str; 3] =
    ["reconvene.v1.SessionService", "reconvene.v1.ArtifactService", "reconvene.v1.EnrollmentService"];

/// Who a caller says that it is. Whoever reads it in a request fills it in: the connection may not know.
#[derive(Debug, Clone, Default)]
pub(super) struct Claim(Arc<OnceLock<Who>>);

impl Claim {
    /// That of a request.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    /// It is that one. Said once.
    pub(super) fn is(&self, who: Who) {
        self.0.get_or_init(|| who);
    }
}

/// Overhears the answers of all services.
#[derive(Debug, Clone)]
pub(crate) struct Overheard(pub(crate) Refusals);

/// A service whose answers are overheard.
#[derive(Debug, Clone)]
pub(crate) struct Hearing<S> {
    service: S,
    refusals: Refusals,
}

impl<S> Layer<S> for Overheard {
    type Service = Hearing<S>;

    fn layer(&self, service: S) -> Hearing<S> {
        Hearing { service, refusals: self.0.clone() }
    }
}

impl<S, B> Service<http::Request<Body>> for Hearing<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let caller = request.extensions().get::<Caller>();
        let peer = caller.map_or(Peer::Unknown, |caller| caller.peer.clone());
        let (path, claim) = (request.uri().path().to_owned(), Claim::default());
        request.extensions_mut().insert(claim.clone());
        let (refusals, answer) = (self.refusals.clone(), self.service.call(request));
        Box::pin(async move {
            let mut response = answer.await?;
            let Some(status) = said(&response) else { return Ok(response) };
            let mut code = status.code();
            // Whoever sends it, a program that is out of step cannot tell what the coordinator makes of it.
            let is_strange = status::no_message(&status).is_some();
            if status::is_no_message(&status) {
                code = Code::InvalidArgument;
                response.headers_mut().insert("grpc-status", HeaderValue::from(code as i32));
            }
            if is_strange || is_refusal(&path, code) {
                let who = claim.0.get().cloned().unwrap_or_else(|| Who::of(&peer, None));
                refusals.refused(&who, called(&path), &format!("{code:?}: {}", status.message()));
            }
            Ok(response)
        })
    }
}

/// What was answered instead of a message.
fn said<B>(response: &http::Response<B>) -> Option<Status> {
    let made_here = response.extensions().get::<Status>().cloned();
    made_here.or_else(|| Status::from_header_map(response.headers())).filter(|said| said.code() != Code::Ok)
}

/// Whether the log shall have it. Of what operators call, only what is not theirs to call, and what is damaged: all else they
/// are told.
fn is_refusal(path: &str, code: Code) -> bool {
    match code {
        // A file that is damaged, here or on its way, is to be looked after whoever met it.
        Code::Unauthenticated | Code::PermissionDenied | Code::DataLoss => true,
        // Not the caller's doing, or in the log already.
        Code::Ok | Code::Cancelled | Code::Unknown | Code::Internal | Code::Unavailable => false,
        Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented => is_of_devices(path),
    }
}

fn is_of_devices(path: &str) -> bool {
    let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    OF_DEVICES.contains(&service)
}

/// `SessionService/Session` of its path.
fn called(path: &str) -> &str {
    path.trim_start_matches('/').trim_start_matches("reconvene.v1.")
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    /// What a caller is answered, by a service that answers so.
    async fn answered(refusals: &Refusals, path: &str, status: Status) -> Option<Status> {
        let service = tower::service_fn(move |_: http::Request<Body>| {
            std::future::ready(Ok::<_, std::convert::Infallible>(status.clone().into_http::<Body>()))
        });
        let request = http::Request::builder().uri(path).body(Body::default()).unwrap();
        let response = Overheard(refusals.clone()).layer(service).oneshot(request).await.unwrap();
        Status::from_header_map(response.headers())
    }

    #[tokio::test]
    async fn what_is_no_message_is_the_callers_mistake() {
        for path in [
            "/reconvene.v1.EnrollmentService/Enroll",
            "/reconvene.v1.OperatorService/Apply",
            "/reconvene.v1.WorkerService/Lease",
        ] {
            let (refusals, text) = (Refusals::default(), "failed to decode Protobuf message");
            let undecodable = Status::new(Code::Internal, text);
            let told = answered(&refusals, path, undecodable).await.unwrap();
            assert_eq!((told.code(), told.message()), (Code::InvalidArgument, text));
            assert_eq!(refusals.count(), 1, "{path}");
            let told = answered(&refusals, path, Status::out_of_range("too large")).await.unwrap();
            assert_eq!((told.code(), refusals.count()), (Code::OutOfRange, 2), "{path}");
            let told = answered(&refusals, path, status::internal("the disk".to_owned())).await.unwrap();
            assert_eq!(told.code(), Code::Internal);
            assert_eq!(refusals.count(), 2, "the coordinator's own failure is nobody's refusal");
        }
    }

    #[test]
    fn what_an_operator_is_told_is_not_logged_but_for_what_is_not_his() {
        let (own, operators) =
            ("/reconvene.v1.SessionService/Session", "/reconvene.v1.OperatorService/Apply");
        for (code, by_device, by_operator) in [
            (Code::InvalidArgument, true, false),
            (Code::NotFound, true, false),
            (Code::OutOfRange, true, false),
            (Code::PermissionDenied, true, true),
            (Code::Unauthenticated, true, true),
            (Code::DataLoss, true, true),
            (Code::Internal, false, false),
            (Code::Unavailable, false, false),
        ] {
            assert_eq!(
                (is_refusal(own, code), is_refusal(operators, code)),
                (by_device, by_operator),
                "{code:?}"
            );
        }
        assert_eq!(called(own), "SessionService/Session");
    }
}
