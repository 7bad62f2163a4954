//! Models and probes that end the process that loads them: it is one of their own, and the agent lives and serves.

use std::fs;

use proto::session::AgentMessage;
use proto::{ArtifactRef, ByteSize, Digest};

use super::{Before, Cell, Fate, Process};
use crate::fake::File;
use crate::model::Model;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_ends_the_process_that_loads_it_does_not_end_the_agent() {
    let Before { old, new, dir } = Before::new().await;
    // Found by the fuzz target: it pads an image by far more than there is memory.
    let bytes = include_bytes!("../data/pads_by_373_gigabytes.onnx").to_vec();
    let mut deadly = Model { bytes, ..new };
    deadly.manifest.artifact =
        ArtifactRef { digest: Digest::of(&deadly.bytes), size: ByteSize(deadly.bytes.len() as u64) };
    deadly.manifest.input_shape = [3, 8, 8];
    (deadly.manifest.mean, deadly.manifest.std) = (vec![0.0; 3], vec![1.0; 3]);
    deadly.manifest.self_test.input = vec![0.5; 3 * 8 * 8];
    let mut cell = Cell::new(dir.path(), &old, &deadly).await;
    let mut agent = Process::start(cell.folder.path(), Fate::Spared);
    let reason = cell.ending("deadly").await.unwrap_err();
    assert!(reason.contains("it needs more memory than any sound model of its size"), "{reason}");
    assert!(reason.contains("memory allocation of 373662155520 bytes failed"), "{reason}");
    assert!(!agent.has_died());
    let metadata = agent.get("/v2/models/fashion").await.unwrap().1;
    assert_eq!(metadata["parameters"]["digest"], old.digest().to_string(), "what served serves on");
    let files = fs::read_dir(agent.state.join("staging")).unwrap().count();
    assert_eq!(files, 0, "it is not kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_that_ends_the_process_that_loads_it_does_not_end_the_agent() {
    let Before { old, new, dir } = Before::new().await;
    let mut cell = Cell::new(dir.path(), &old, &new).await;
    // Nobody signs a probe.
    let (deadly, sound) = (include_bytes!("../data/pads_by_373_gigabytes.onnx"), Model::of_seed(3));
    let digest = Digest::of(deadly);
    cell.fake.serve_file(digest, File::whole(deadly));
    cell.fake.ask_for(ArtifactRef { digest, size: ByteSize(deadly.len() as u64) });
    cell.fake.serve_file(sound.digest(), File::whole(&sound.bytes));
    cell.fake.ask_for(sound.manifest.artifact.clone());
    let mut agent = Process::start(cell.folder.path(), Fate::Spared);
    let profile = cell.fake.hear("a profile", |message| match message {
        AgentMessage::Profile(profile) => Some(profile.clone()),
        _ => None,
    });
    let profile = profile.await;
    assert_eq!(profile.probes.iter().map(|probe| probe.digest).collect::<Vec<_>>(), [sound.digest()]);
    assert!(!agent.has_died());
    let log = fs::read_to_string(cell.folder.path().join("log")).unwrap();
    assert_eq!(log.matches("a probe has no time").count(), 1, "{log}");
    assert!(log.contains("it needs more memory than any sound model of its size"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_is_too_deep_for_the_stack_does_not_end_the_agent() {
    let Before { old, dir, .. } = Before::new().await;
    for (depth, expected) in [
        (500, None),
        (20_000, Some("than any sound model's: the stack of 1.0Mi does not hold them")),
        // The memory of 8 times its file may be gone before that.
        (200_000, Some("than any sound model")),
    ] {
        let deep = Model::chain(depth);
        let mut cell = Cell::new(dir.path(), &old, &deep).await;
        let mut agent = Process::start(cell.folder.path(), Fate::Spared);
        let ended = cell.ending("deep").await;
        let (serves, given_up) = match (&ended, expected) {
            (Ok(()), None) => (deep.digest(), false),
            (Err(reason), Some(expected)) if reason.contains(expected) => (old.digest(), true),
            _ => panic!("{depth}: {ended:?}"),
        };
        assert!(!agent.has_died(), "{depth}");
        let metadata = agent.get("/v2/models/fashion").await.unwrap().1;
        assert_eq!(metadata["parameters"]["digest"], serves.to_string(), "{depth}");
        assert_eq!(agent.state.join("given-up.json").exists(), given_up, "{depth}: it is not tried again");
        agent.stop().await;
    }
}
