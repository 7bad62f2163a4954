//! What would be applied is judged as what is.

use std::fs;
use std::path::Path;

use proto::v1::operator_service_client::OperatorServiceClient;

use super::*;

fn manifest(dataset: &Path, spec: &str) -> String {
    format!(
        "apiVersion: reconvene/v1\nkind: Deployment\nmetadata: {{ name: d }}\nspec:\n  network: resnet20\n  \
         dataset: {{ format: cifar100, path: '{}' }}\n{spec}",
        dataset.display()
    )
}

struct Operator(OperatorServiceClient<Channel>);

impl Operator {
    async fn apply(&mut self, manifest: &str, over: Option<u64>) -> Result<(String, u64), Status> {
        let request = v1::ApplyRequest { manifest: manifest.to_owned(), generation: over };
        let v1::ApplyResponse { result, generation, .. } = self.0.apply(request).await?.into_inner();
        Ok((result, generation))
    }

    async fn check(&mut self, manifest: &str, over: Option<u64>) -> Result<(String, u64), Status> {
        let request = v1::ApplyRequest { manifest: manifest.to_owned(), generation: over };
        let v1::ApplyResponse { result, generation, .. } = self.0.check(request).await?.into_inner();
        Ok((result, generation))
    }

    /// How both refuse it, which is one way.
    async fn refused(&mut self, manifest: &str, over: Option<u64>) -> (Code, String) {
        let checked = self.check(manifest, over).await.unwrap_err();
        let applied = self.apply(manifest, over).await.unwrap_err();
        assert_eq!((checked.code(), checked.message()), (applied.code(), applied.message()));
        if over.is_none() {
            let request = v1::PlanRequest { manifest: manifest.to_owned(), strict: true };
            assert_eq!(self.0.plan(request).await.unwrap_err().message(), applied.message());
        }
        (applied.code(), applied.message().to_owned())
    }
}

#[tokio::test]
async fn what_is_checked_is_said_of_it_when_it_is_applied() {
    let (host, images) = (Host::start().await, tempfile::tempdir().unwrap());
    let mut operator = Operator(OperatorServiceClient::new(host.channel().await));
    let record = [&[7, 7][..], &[1; 3072]].concat();
    for file in ["train.bin", "test.bin"] {
        fs::write(images.path().join(file), &record).unwrap();
    }
    let (one, other) = (manifest(images.path(), ""), manifest(images.path(), "  training: { epochs: 2 }\n"));
    assert_eq!(operator.check(&one, None).await.unwrap(), ("created".to_owned(), 0));
    let (code, text) = operator.refused(&one, Some(4)).await;
    assert_eq!(code, Code::Aborted);
    assert!(text.starts_with("there is no deployment 'd'") && text.contains("generation 4"), "{text}");
    assert_eq!(operator.apply(&one, None).await.unwrap(), ("created".to_owned(), 1));

    let impossible = manifest(images.path(), "  budgets:\n    - params: 10\n");
    let (code, text) = operator.refused(&impossible, None).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(text.starts_with("no device can meet its budget: rule 1"), "{text}");

    let (code, text) = operator.refused(&other, Some(4)).await;
    assert_eq!(code, Code::Aborted);
    assert!(
        text.starts_with("deployment 'd' is at generation 1, and what is to be applied was made from"),
        "{text}"
    );

    // Nothing is said anew of what is applied already.
    fs::write(images.path().join("train.bin"), &record[..9]).unwrap();
    // It is applied twice, and names what it was made of.
    for over in [None, Some(1), Some(4)] {
        assert_eq!(operator.check(&one, over).await.unwrap(), ("unchanged".to_owned(), 1));
        assert_eq!(operator.apply(&one, over).await.unwrap(), ("unchanged".to_owned(), 1));
    }
    let (code, text) = operator.refused(&other, None).await;
    let file = images.path().join("train.bin").display().to_string();
    assert_eq!(
        (code, text.starts_with(&format!("spec.dataset: {file}: expected"))),
        (Code::InvalidArgument, true),
        "{text}"
    );
    fs::remove_file(images.path().join("train.bin")).unwrap();
    let (code, text) = operator.refused(&other, None).await;
    assert_eq!((code, text.contains("train.bin not found")), (Code::InvalidArgument, true), "{text}");

    fs::write(images.path().join("train.bin"), &record).unwrap();
    assert_eq!(operator.check(&other, Some(1)).await.unwrap(), ("configured".to_owned(), 1));
    assert_eq!(operator.apply(&other, Some(1)).await.unwrap(), ("configured".to_owned(), 2));
    host.stopped().await;
}

#[tokio::test]
async fn what_an_operator_has_paused_or_ended_stays_so_whatever_is_applied() {
    let (host, images) = (Host::start().await, tempfile::tempdir().unwrap());
    let mut operator = Operator(OperatorServiceClient::new(host.channel().await));
    for file in ["train.bin", "test.bin"] {
        fs::write(images.path().join(file), [&[7, 7][..], &[1; 3072]].concat()).unwrap();
    }
    let (one, other) = (manifest(images.path(), ""), manifest(images.path(), "  training: { epochs: 2 }\n"));
    operator.apply(&one, None).await.unwrap();
    let control = async |verb: &str| {
        let request = v1::ControlRolloutRequest { name: "d".to_owned(), verb: verb.to_owned() };
        operator.0.clone().control_rollout(request).await.unwrap().into_inner().generation
    };
    let apply = async |manifest: &str| {
        let request = || v1::ApplyRequest { manifest: manifest.to_owned(), generation: None };
        let checked = operator.0.clone().check(request()).await.unwrap().into_inner();
        let applied = operator.0.clone().apply(request()).await.unwrap().into_inner();
        assert_eq!((&checked.result, &checked.note), (&applied.result, &applied.note));
        (applied.result, applied.generation, applied.note)
    };
    let outcome = |result: &str, generation, note: &str| (result.to_owned(), generation, note.to_owned());
    control("pause").await;
    let paused = "it is paused; `reconvene rollout resume d` goes on";
    assert_eq!(apply(&other).await, outcome("configured", 2, paused));
    assert_eq!(apply(&other).await, outcome("unchanged", 2, paused));
    assert_eq!(control("resume").await, 2);
    assert_eq!(apply(&other).await, outcome("unchanged", 2, ""));

    control("pause").await;
    control("abort").await;
    let (result, generation, note) = apply(&other).await;
    assert_eq!((result.as_str(), generation), ("unchanged", 2));
    assert!(note.starts_with("it has failed: ") && note.contains("`reconvene rollout retry d`"), "{note}");
    assert_eq!(control("retry").await, 3);
    assert_eq!(apply(&other).await, outcome("unchanged", 3, ""), "whoever tries again goes on");
    control("abort").await;
    assert_eq!(apply(&one).await, outcome("configured", 4, ""), "another manifest may mend it");
    host.stopped().await;
}

#[tokio::test]
async fn a_plan_of_what_is_not_known_asks_nobody_to_score_it() {
    let (host, images) = (Host::start().await, tempfile::tempdir().unwrap());
    let mut operator = Operator(OperatorServiceClient::new(host.channel().await));
    for file in ["train.bin", "test.bin"] {
        fs::write(images.path().join(file), [&[7, 7][..], &[1; 3072]].concat()).unwrap();
    }
    let unknown = manifest(images.path(), "").replace("resnet20", "nobodys");
    let (code, text) = operator.refused(&unknown, None).await;
    let request = v1::PlanRequest { manifest: unknown, strict: false };
    let refusal = operator.0.plan(request).await.unwrap_err();
    assert_eq!((refusal.code(), refusal.message()), (code, text.as_str()));
    let jobs = operator.0.list_jobs(v1::ListRequest::default()).await.unwrap().into_inner().jobs;
    assert_eq!(jobs, []);
    host.stopped().await;
}
