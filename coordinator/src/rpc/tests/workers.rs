//! What is said of workers, and of the jobs that they had.

use proto::v1::operator_service_client::OperatorServiceClient;
use proto::v1::worker_service_client::WorkerServiceClient;

use super::*;
use crate::clock::unix_ms;
use crate::derive::SubjectKey;
use crate::jobs::queue::lease;
use crate::store::{JobRecord, Work};
use crate::worker::{self, WorkerSettings};

/// A job that a worker has.
fn scoring(store: &SledStore) {
    let spec = super::told::manifest().spec;
    let work = Work::Score(SubjectKey::of(&spec));
    let job =
        store.register_job(&work.name(), &mut |_| JobRecord::new(work.clone(), "d", unix_ms())).unwrap();
    lease(store, &job.name, &"worker".parse().unwrap()).unwrap().unwrap();
}

/// Has the worker that calls on this connection say that it goes on.
async fn report(channel: Channel, job: &v1::Job) {
    let lease = v1::Lease { job: job.name.clone(), number: 1 };
    let report = v1::ReportRequest { lease: Some(lease), total: 3, done: 1, ..Default::default() };
    let reply = WorkerServiceClient::new(channel).report(report).await.unwrap().into_inner();
    assert!(!reply.stop);
}

#[tokio::test]
async fn a_worker_that_says_that_it_ends_is_listed_no_more_and_gets_no_job() {
    let host = Host::start_with(scoring).await;
    let mut operator = OperatorServiceClient::new(host.channel().await);
    let job = operator.list_jobs(v1::ListRequest::default()).await.unwrap().into_inner().jobs.remove(0);
    let channel = host.channel().await;
    report(channel.clone(), &job).await;
    let leaving = v1::LeaseRequest { leaves: true, ..Default::default() };
    let reply = WorkerServiceClient::new(channel.clone()).lease(leaving).await.unwrap().into_inner();
    assert_eq!(reply, v1::LeaseResponse::default());
    drop(channel);
    let workers = operator.list_workers(v1::ListRequest::default()).await.unwrap().into_inner().workers;
    assert_eq!(workers, []);
    host.stopped().await;
}

#[tokio::test]
async fn a_worker_that_is_told_to_end_is_not_missed() {
    let (host, folder, stop) = (Host::start().await, tempfile::tempdir().unwrap(), CancellationToken::new());
    let mut operator = OperatorServiceClient::new(host.channel().await);
    let settings = WorkerSettings {
        state_dir: folder.path().to_owned(),
        threads: 1,
        trainer: None,
        shares_files: false,
    };
    let working = TaskTracker::new().spawn(worker::run(host.channel().await, settings, stop.clone()));
    let mut workers =
        async || operator.list_workers(v1::ListRequest::default()).await.unwrap().into_inner().workers;
    while workers().await.is_empty() {}
    stop.cancel();
    working.await.unwrap().unwrap();
    assert_eq!(workers().await, []);
    host.stopped().await;
}

#[tokio::test]
async fn a_worker_whose_connection_is_lost_is_gone_at_once_and_its_job_stands_still() {
    let host = Host::start_with(scoring).await;
    let mut operator = OperatorServiceClient::new(host.channel().await);
    let mut look = async || {
        let workers = operator.list_workers(v1::ListRequest::default()).await.unwrap().into_inner().workers;
        let jobs = operator.list_jobs(v1::ListRequest::default()).await.unwrap().into_inner().jobs;
        (workers, jobs[0].clone())
    };
    let (workers, job) = look().await;
    assert_eq!(workers, [], "it was not heard of yet");
    assert_eq!(job.state, "Running", "its worker may not know that the coordinator was away");

    let channel = host.channel().await;
    report(channel.clone(), &job).await;
    let (workers, running) = look().await;
    let first = workers[0].since_unix_ms;
    assert_eq!((workers[0].state.as_str(), workers[0].job.as_str()), ("Busy", job.name.as_str()));
    assert_eq!((running.state.as_str(), running.worker.as_str(), running.done), ("Running", "worker", 1));

    drop(channel);
    let (workers, stalled) = loop {
        let (workers, job) = look().await;
        if workers[0].state != "Busy" {
            break (workers, job);
        }
    };
    assert_eq!((workers[0].state.as_str(), workers[0].job.as_str()), ("Gone", job.name.as_str()));
    let said = &workers[0].message;
    assert!(said.starts_with("its connection is lost; its lease ends in "), "{said}");
    assert_eq!((stalled.state.as_str(), stalled.worker.as_str()), ("Stalled", "worker"));
    assert!(stalled.message.starts_with("worker worker is gone; unless it comes back, "), "{stalled:?}");

    while unix_ms() == first {
        tokio::task::yield_now().await;
    }
    let channel = host.channel().await;
    report(channel.clone(), &job).await;
    let (workers, job) = look().await;
    assert_eq!((workers[0].state.as_str(), job.state.as_str()), ("Busy", "Running"));
    assert_eq!(workers[0].message, "");
    assert!(workers[0].since_unix_ms > first, "since the present connection");
    host.stopped().await;
}
