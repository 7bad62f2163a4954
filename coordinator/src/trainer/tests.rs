//! Programs of a shell: what comes back, what goes wrong, what is stopped.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Instant;

use pruner_core::dataset::{Format, Split};
use pruner_core::{Shape, init, zoo};

use super::*;

/// A network, its data set, and a folder for a trainer that runs `script`, in which `$1` is the task.
struct Bench {
    folder: tempfile::TempDir,
    network: Network,
    dataset: Dataset,
    source: DatasetSpec,
    training: TrainingSpec,
}

impl Bench {
    fn new() -> Self {
        let shape = Shape::new(1, 4, 4);
        let split = Split::new((0..8 * 16).collect(), (0..8).map(|label| label % 2).collect(), 16);
        let graph = zoo::build(zoo::ZooNetwork::ResNet20, shape, 2).unwrap();
        Self {
            folder: tempfile::tempdir().unwrap(),
            network: Network { weights: init::init(&graph, 1), graph },
            dataset: Dataset::new(shape, split.clone(), split),
            source: DatasetSpec { format: Format::Idx, path: "/data/patterns".into(), test_share: None },
            training: TrainingSpec::default(),
        }
    }

    fn key() -> DerivationKey {
        DerivationKey::of(&"bench").unwrap()
    }

    fn trainer(&self, script: &str) -> Trainer {
        let command = ["sh", "-c", script, "trainer"].map(str::to_owned).to_vec();
        let config = TrainerConfig { command, time_limit: Duration::from_secs(60) };
        Trainer::open(Some(config), self.folder.path().join("training"), |_| true).unwrap()
    }

    fn run(
        &self,
        trainer: &Trainer,
        on_progress: &mut dyn FnMut(Option<&Progress>) -> ControlFlow<()>,
    ) -> Result<Network, TrainerError> {
        let Self { network, dataset, source, training, .. } = self;
        trainer.train(Self::key(), Lesson { network, dataset, source, training }, on_progress)
    }

    /// What a program says that fails.
    fn failure(&self, script: &str) -> String {
        let failed = self.run(&self.trainer(script), &mut |_| ControlFlow::Continue(()));
        crate::causes::chain(&failed.map(drop).unwrap_err())
    }
}

/// Hands the initial weights back.
const COPY: &str = r#"cd "$(dirname "$1")" && cp weights.safetensors new && mv new trained.safetensors"#;

#[test]
fn weights_come_back_and_progress_is_heard() {
    let bench = Bench::new();
    let script = format!(
        r#"echo 'Loading...'; echo '{{"epoch": 1, "epochs": 2, "loss": 0.5, "note": 7}}'; {COPY}; echo '{{"epoch": 2, "epochs": 2}}'; sleep 0.3"#
    );
    let mut heard = Vec::new();
    let trained = bench.run(&bench.trainer(&script), &mut |progress| {
        heard.extend(progress.cloned());
        ControlFlow::Continue(())
    });
    let trained = trained.unwrap();
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert_eq!((heard[0].epoch, heard[0].loss, heard[1].accuracy), (1, Some(0.5), None));
    let bytes = |network: &Network| weights::encode(&network.weights).unwrap();
    assert_eq!(bytes(&trained), bytes(&bench.network));
}

#[test]
fn the_task_says_where_all_is() {
    let bench = Bench::new();
    bench.run(&bench.trainer(COPY), &mut |_| ControlFlow::Continue(())).unwrap();
    let folder = bench.folder.path().join("training").join(Bench::key().to_string());
    let task: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(folder.join("task.json")).unwrap()).unwrap();
    assert_eq!(task["version"], 1);
    for field in ["model", "weights", "images", "checkpoints", "output"] {
        let path = Path::new(task[field].as_str().unwrap());
        assert!(path.is_absolute() && path.exists(), "{field}");
    }
    assert_eq!(task["dataset"]["path"], "/data/patterns");
    assert_eq!(task["dataset"]["format"], "idx");
    assert_eq!(task["classes"], 2);
    assert_eq!(task["recipe"]["epochs"], 10);
    assert_eq!(task["recipe"]["schedule"], "cosine");
    assert!(task["mean"].is_array());
}

#[test]
fn checkpoints_outlive_a_run_and_output_does_not() {
    let bench = Bench::new();
    let script = format!(
        r#"cd "$(dirname "$1")"; if [ -e checkpoints/one ]; then [ ! -e trained.safetensors ] || exit 9; {COPY};
           else touch checkpoints/one trained.safetensors; echo cut off >&2; exit 1; fi"#
    );
    assert_eq!(bench.failure(&script), "the trainer ended with exit code 1: cut off");
    let trainer = bench.trainer(&script);
    bench.run(&trainer, &mut |_| ControlFlow::Continue(())).unwrap();
    trainer.forget(Bench::key());
    trainer.forget(Bench::key());
    let folder = bench.folder.path().join("training");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    fs::create_dir(folder.join("of-nobody")).unwrap();
    Trainer::open(None, &folder, |name| name != "of-nobody").unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn what_goes_wrong_is_said_with_the_programs_last_words() {
    let bench = Bench::new();
    let says = |script: &str, expected: &str| {
        let line = bench.failure(script);
        assert!(line.contains(expected), "{script}: {line}");
    };
    says("echo first >&2; echo 'no GPU' >&2; echo >&2; exit 3", "ended with exit code 3: no GPU");
    says("exit 4", "it said nothing on standard error");
    says("kill -9 $$", "ended with signal 9");
    says("echo 'GPU taken' >&2; exit 75", "cannot train now: GPU taken");
    says("exit 0", "trained.safetensors: No such file");
    says(
        r#"cd "$(dirname "$1")"; head -c 1000 weights.safetensors > trained.safetensors"#,
        "trained.safetensors: it is no safetensors file",
    );
    says(r#"cd "$(dirname "$1")"; mkfifo trained.safetensors"#, "trained.safetensors: it is no regular file");
    says(r#"cd "$(dirname "$1")"; truncate -s 40M trained.safetensors"#, "are far more than the ");
    let config = TrainerConfig { command: vec!["/no/trainer".into()], time_limit: Duration::from_secs(1) };
    let trainer = Trainer::open(Some(config), bench.folder.path().join("t"), |_| true).unwrap();
    let error = bench.run(&trainer, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(crate::causes::chain(&error).starts_with("cannot start the trainer '/no/trainer': No such file"));
    let none = Trainer::open(None, bench.folder.path().join("t"), |_| true).unwrap();
    let error = bench.run(&none, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, TrainerError::NotConfigured));
}

/// Whether the process that the program started, by the number in the file `child`, ends: a kill takes its moment.
fn ends(folder: &Path) -> bool {
    let id = fs::read_to_string(folder.join("checkpoints/child")).unwrap();
    let stat = format!("/proc/{}/stat", id.trim());
    let limit = Instant::now() + Duration::from_secs(10);
    // Ended and not yet waited for is ended.
    let has_ended = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    while !has_ended() {
        if Instant::now() >= limit {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Starts a child, and neither of them listens to SIGTERM or the end of its input.
const STUBBORN: &str = r#"trap '' TERM; cd "$(dirname "$1")"; sleep 600 & echo $! > checkpoints/new; mv checkpoints/new checkpoints/child; while :; do sleep 1; done"#;

#[test]
fn a_stubborn_program_is_stopped_with_all_that_it_started() {
    let bench = Bench::new();
    let folder = bench.folder.path().join("training").join(Bench::key().to_string());
    let begun = Instant::now();
    let stopped = bench.run(&bench.trainer(STUBBORN), &mut |_| {
        if folder.join("checkpoints/child").exists() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    assert!(matches!(stopped, Err(TrainerError::Cancelled)));
    assert!(begun.elapsed() >= Duration::from_secs(5), "it was asked first");
    assert!(ends(&folder));
}

#[test]
fn what_a_program_has_started_ends_with_it() {
    let bench = Bench::new();
    let folder = bench.folder.path().join("training").join(Bench::key().to_string());
    let script = r#"cd "$(dirname "$1")"; sleep 600 & echo $! > checkpoints/child; exit 5"#;
    assert!(bench.failure(script).contains("exit code 5"));
    assert!(ends(&folder));
}

#[test]
fn a_program_of_an_earlier_coordinator_is_waited_for() {
    let bench = Bench::new();
    let folder = bench.folder.path().join("training").join(Bench::key().to_string());
    fs::create_dir_all(&folder).unwrap();
    let log = File::create(folder.join("stderr.log")).unwrap();
    log.lock().unwrap();
    let error = bench.run(&bench.trainer(COPY), &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, TrainerError::Busy { .. }), "{error}");
    drop(log);
    bench.run(&bench.trainer(COPY), &mut |_| ControlFlow::Continue(())).unwrap();
}

#[test]
fn a_stop_that_reaches_the_program_first_is_no_failure() {
    let bench = Bench::new();
    let mut asked = 0;
    // The stop is known only after the program has ended.
    let stopped = bench.run(&bench.trainer("kill -TERM $$"), &mut |_| {
        asked += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(TrainerError::Cancelled)), "{asked}");
}

#[test]
fn a_program_that_takes_too_long_is_stopped() {
    let bench = Bench::new();
    let command = ["sh", "-c", "cat", "trainer"].map(str::to_owned).to_vec(); // ends with its input
    let config = TrainerConfig { command, time_limit: Duration::from_millis(300) };
    let trainer = Trainer::open(Some(config), bench.folder.path().join("t"), |_| true).unwrap();
    let error = bench.run(&trainer, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.to_string(), "the trainer was stopped after its time limit, 300ms");
}
