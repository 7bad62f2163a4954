//! Downloads that are cut, by the network and by the death of the agent: what came whole is never fetched twice.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use proto::{ArtifactRef, ByteSize, Digest, PIECE_BYTES};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tonic::transport::Endpoint;

use crate::device::Device;
use crate::fake::{Fake, File};
use crate::model::Model;

/// A file that no compression and no repetition makes easy.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    ChaCha8Rng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

fn artifact(bytes: &[u8]) -> ArtifactRef {
    ArtifactRef { digest: Digest::of(bytes), size: ByteSize(bytes.len() as u64) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_cuts_of_fifty_megabytes_cost_nothing_twice() {
    let bytes = noise(50_000_000, 1);
    let artifact = artifact(&bytes);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut cuts: Vec<usize> = (0..200).map(|_| rng.random_range(1..bytes.len())).collect();
    cuts.sort_unstable();
    let fake = Fake::start().await;
    fake.serve_file(artifact.digest, File { cuts: cuts.iter().copied().collect(), ..File::whole(&bytes) });
    let channel = Endpoint::from_shared(format!("http://{}", fake.address)).unwrap().connect_lazy();
    let dir = tempfile::tempdir().unwrap();
    let path = agent::fetch::fetch(&channel, &artifact, dir.path(), &|_| ()).await.unwrap();
    assert_eq!(Digest::of(&std::fs::read(path).unwrap()), artifact.digest);
    let offsets = fake.offsets(artifact.digest);
    assert_eq!(offsets[0], 0);
    let cuts: Vec<u64> = cuts.iter().map(|&cut| cut as u64).collect();
    assert_eq!(offsets[1..], cuts, "every download went on exactly where the last one was cut");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left but the file");
}

/// The agent as a process of its own, killed when it goes out of scope.
struct Process(Child);

impl Process {
    fn start(config: &Path) -> Self {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_reconvene-agent"));
        let child = agent.args(["run", "--config"]).arg(config).stderr(Stdio::null()).spawn();
        Self(child.unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_goes_on_from_its_last_whole_piece() {
    let bytes = noise(10_000_000, 3);
    let artifact = artifact(&bytes);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut cuts: Vec<usize> = (0..20).map(|_| rng.random_range(1..bytes.len())).collect();
    cuts.sort_unstable();
    let fake = Fake::start().await;
    let stalls = File { cuts: cuts.iter().copied().collect(), hangs: true, ..File::whole(&bytes) };
    fake.serve_file(artifact.digest, stalls);
    let mut assignment = Model::of_seed(1).assignment(1);
    assignment.model.artifact = artifact.clone();
    fake.assign(assignment).await;
    let dir = tempfile::tempdir().unwrap();
    let (state, config) = (dir.path().join("state"), dir.path().join("agent.toml"));
    let text = format!(
        "device_id = 'gw-1'\ncoordinator = 'http://{}'\nstate_dir = '{}'\n[serve]\nlisten = '127.0.0.1:0'\n",
        fake.address,
        state.display()
    );
    std::fs::write(&config, text).unwrap();
    let part = state.join("staging").join(format!("{}.part", artifact.digest));
    let mut expected = vec![0];
    for (index, cut) in cuts.into_iter().enumerate() {
        let whole = cut as u64 / PIECE_BYTES * PIECE_BYTES;
        let agent = Process::start(&config);
        let is_on_disk = || std::fs::metadata(&part).map_or(0, |found| found.len()) == whole;
        let stalls = || fake.offsets(artifact.digest).len() == index + 1 && is_on_disk();
        crate::poll::until("the download stalls", stalls).await;
        drop(agent);
        expected.push(whole);
    }
    let _agent = Process::start(&config);
    crate::poll::until("it asks once more", || fake.offsets(artifact.digest).len() == expected.len()).await;
    assert_eq!(fake.offsets(artifact.digest), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_superseded_download_gives_its_room_to_the_next_one() {
    let fake = Fake::start().await;
    let hangs = |seed, cut| {
        let bytes = noise(1_000_000, seed);
        let artifact = artifact(&bytes);
        let file = File { cuts: [cut, cut + 1].into(), hangs: true, ..File::whole(&bytes) };
        fake.serve_file(artifact.digest, file);
        let mut assignment = Model::of_seed(1).assignment(seed);
        assignment.model.artifact = artifact;
        assignment
    };
    let (first, second) = (hangs(1, 400_000), hangs(2, 600_000));
    let dir = tempfile::tempdir().unwrap();
    let staged = || {
        let names = std::fs::read_dir(dir.path().join("staging")).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    for assignment in [&first, &second] {
        let digest = assignment.model.artifact.digest;
        fake.assign(assignment.clone()).await;
        crate::poll::until("the download hangs", || fake.offsets(digest).len() == 1).await;
        let own = [format!("{digest}.part"), format!("{digest}.pieces")];
        assert_eq!(staged(), own, "nothing lies there but what is on its way");
    }
    let digest = second.model.artifact.digest;
    let part = dir.path().join("staging").join(format!("{digest}.part"));
    let is_on_disk = || std::fs::metadata(&part).is_ok_and(|found| found.len() >= 2 * PIECE_BYTES);
    crate::poll::until("pieces are on the disk", is_on_disk).await;
    device.stop().await;
    // What is still wanted is kept.
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    crate::poll::until("it goes on", || fake.offsets(digest).len() == 2).await;
    assert_eq!(fake.offsets(digest), [0, 2 * PIECE_BYTES]);
    device.stop().await;
}
