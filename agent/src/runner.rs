//! Inference: one thread runs the active model, one image at a time. Owns the engine, the swap of models and the
//! measured times; never reads files and never speaks to the coordinator.
//!
//! A request carries the model that it was validated against, so a swap drops none: what is queued ends on the model
//! it was meant for, what comes later finds the new one. Images of one request run one by one, because the budget
//! of a device, memory and latency alike, is that of a single image; in between, those of other requests do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use proto::{Digest, Generation};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use crate::slot::Installed;

pub mod check;
pub mod choose;
pub mod engine;
pub mod engines;
pub mod framing;
pub mod shapes;
pub mod statistics;
pub mod timing;
mod turns;

use engine::{Engine, EngineError};
use statistics::{Served, Statistics};
use turns::{Turns, Waiting};

/// Requests that the inference thread has not looked at.
const QUEUE: usize = 64;

/// Requests that take turns; what they hold is bounded where it comes in.
const UNDER_WAY: usize = 1024;

/// A request waits this long for a place in the queue, and then as long for its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A number of an image at most, if the model is to answer for what becomes of it. Pixels are within some tens once they are
/// normalised, and within 255 or 65,535 where somebody forgot to; the sums of a sound model over such numbers stay far below
/// 3.4e38, where 32-bit numbers end.
const ORDINARY: f32 = 1e6;

/// A model that serves, with the assignment it came by.
pub struct ServedModel {
    /// The assignment's.
    pub installed: Installed,
    /// The loaded model.
    pub engine: Engine,
    /// What it has done.
    pub statistics: Statistics,
}

impl ServedModel {
    /// A model that has done nothing yet.
    pub fn new(installed: Installed, engine: Engine) -> Self {
        let statistics = Statistics::with_limit(installed.probation.late_above());
        Self { installed, engine, statistics }
    }
}

/// Latencies of one model since the last report.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Time of the engine's call, per image, microseconds.
    pub histogram: Histogram<u64>,
    /// Images that failed.
    pub errors: u64,
}

/// By assignment: the artifact and the generation it served under.
pub type Tallies = BTreeMap<(Digest, Generation), Tally>;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The image is none that a model could answer to.
    #[error(
        "the model has no finite answer to this: number {index} of data is {number:e}; send numbers between -{ORDINARY:e} and \
         {ORDINARY:e}"
    )]
    Image {
        /// Which number of the request's.
        index: usize,
        /// What it is.
        number: f32,
    },
    /// Too many requests wait, or the device is too slow.
    #[error("the device is busy: no answer within {} s", PATIENCE.as_secs())]
    Busy,
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}

enum Job {
    Infer(Request),
    Ping(oneshot::Sender<()>),
    /// Let go of the last model.
    Leave,
    Stop,
}

type Reply = oneshot::Sender<Result<Vec<f32>, InferError>>;

/// A request, and how far it has come.
struct Request {
    model: Arc<ServedModel>,
    images: Vec<f32>,
    asked: Instant,
    served: Served,
    outputs: Vec<f32>,
    reply: Option<Reply>,
}

impl Request {
    fn new(model: Arc<ServedModel>, images: Vec<f32>, reply: Reply) -> Self {
        let (served, outputs) = (Served::default(), Vec::new());
        Self { model, images, asked: Instant::now(), served, outputs, reply: Some(reply) }
    }

    /// The image that was not run yet; `None` where all were.
    fn next_image(&self) -> Option<&[f32]> {
        self.images.chunks_exact(self.model.engine.numel()).nth(self.served.runs as usize)
    }

    /// Hands out what became of it.
    fn end(&mut self, error: Option<InferError>) {
        // As with all that is refused for what it asks, it says nothing of the model.
        if !matches!(error, Some(InferError::Image { .. })) {
            self.count(error.is_none());
        }
        let outputs = std::mem::take(&mut self.outputs);
        // Whoever asked may have given up meanwhile; then nobody reads it.
        drop(self.reply.take().map(|reply| reply.send(error.map_or(Ok(outputs), Err))));
    }

    fn count(&mut self, is_answered: bool) {
        self.served.queued = self.asked.elapsed().saturating_sub(self.served.computed);
        self.model.statistics.record(self.served, is_answered);
    }
}

impl Waiting for Request {
    fn left(&self) -> usize {
        self.images.len() / self.model.engine.numel() - self.served.runs as usize
    }
}

/// The handle to the inference thread; clones share it.
#[derive(Clone)]
pub struct Runner {
    jobs: mpsc::Sender<Job>,
    active: watch::Sender<Option<Arc<ServedModel>>>,
    /// Why installed models do not serve.
    passed_over: Arc<Mutex<Vec<String>>>,
    bench: Arc<Bench>,
}

impl Runner {
    /// Starts the inference thread.
    pub fn start(tracker: &TaskTracker) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (active, _) = watch::channel(None);
        let runner = Self { jobs, active, passed_over: Arc::default(), bench: Arc::default() };
        let bench = runner.bench.clone();
        tracker.spawn_blocking(move || bench.run(queue));
        runner
    }

    /// The model that serves.
    pub fn active(&self) -> Option<Arc<ServedModel>> {
        self.active.borrow().clone()
    }

    /// Why installed models do not serve, as it was found last.
    pub fn passed_over(&self) -> Vec<String> {
        lock(&self.passed_over).clone()
    }

    /// Notes why installed models do not serve.
    pub fn pass_over(&self, reasons: Vec<String>) {
        *lock(&self.passed_over) = reasons;
    }

    /// Tells of every change of the model that serves.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<ServedModel>>> {
        self.active.subscribe()
    }

    /// Requests from now on get `model`; those that wait end on the one they were meant for.
    pub fn swap(&self, model: ServedModel) {
        self.active.send_replace(Some(Arc::new(model)));
        // Else the inference thread would hold the last model until it is asked for this one. Where the queue is full, it is.
        drop(self.jobs.try_send(Job::Leave));
    }

    /// Outputs of `model` for `images`, a whole number of its inputs, one after another.
    pub async fn infer(&self, model: Arc<ServedModel>, images: Vec<f32>) -> Result<Vec<f32>, InferError> {
        let (reply, answer) = oneshot::channel();
        let asked = Instant::now();
        if let Err(refused) = self.put(Job::Infer(Request::new(model.clone(), images, reply))).await {
            model.statistics.record(Served { queued: asked.elapsed(), ..Served::default() }, false);
            return Err(refused);
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(InferError::Stopping),
            Err(_) => Err(InferError::Busy),
        }
    }

    /// Whether the inference thread answers within `limit`, or at least finishes images meanwhile.
    pub async fn is_alive(&self, limit: Duration) -> bool {
        let before = self.bench.images.load(Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let asked = async { self.jobs.send(Job::Ping(reply)).await.is_ok() && answer.await.is_ok() };
        match tokio::time::timeout(limit, asked).await {
            Ok(answered) => answered,
            Err(_) => self.bench.images.load(Ordering::Relaxed) != before,
        }
    }

    /// Ends the inference thread after what waits.
    pub async fn stop(&self) {
        if self.put(Job::Stop).await.is_err() {
            tracing::debug!("the inference thread has stopped already");
        }
    }

    /// Takes the tallies since the last call.
    pub fn take_tallies(&self) -> Tallies {
        std::mem::take(&mut *lock(&self.bench.tallies))
    }

    /// Takes the processor time of the agent since the last call.
    pub fn take_processor_time(&self) -> Duration {
        let now = crate::probe::processor_time();
        let mut counted = lock(&self.bench.counted);
        let busy = now.saturating_sub(*counted);
        *counted = now;
        busy
    }

    /// Keeps the engine to oneself while the guard lives: probes and requests take turns, image by image.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        lock(&self.bench.turn)
    }

    async fn put(&self, job: Job) -> Result<(), InferError> {
        self.jobs.send_timeout(job, PATIENCE).await.map_err(|error| match error {
            mpsc::error::SendTimeoutError::Timeout(_) => InferError::Busy,
            mpsc::error::SendTimeoutError::Closed(_) => InferError::Stopping,
        })
    }
}

/// What the mutexes hold stays sound when a holder panics: counts, or nothing at all.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the inference thread and the handles share.
#[derive(Default)]
struct Bench {
    tallies: Mutex<Tallies>,
    /// Processor time that was reported.
    counted: Mutex<Duration>,
    /// Held while the engine computes.
    turn: Mutex<()>,
    /// Images that were finished, well or not.
    images: AtomicU64,
}

impl Bench {
    /// Serves until it is told to stop.
    fn run(&self, mut queue: mpsc::Receiver<Job>) {
        let mut next = queue.blocking_recv();
        while let Some(job) = next {
            next = match job {
                Job::Infer(request) => {
                    let model = request.model.clone();
                    model.engine.enter(|| self.serve(request, &mut queue))
                }
                Job::Ping(reply) => {
                    pong(reply);
                    queue.blocking_recv()
                }
                Job::Leave => queue.blocking_recv(),
                Job::Stop => return,
            };
        }
    }

    /// Serves requests to one model, within its engine, until something else is wanted and what is under way has ended.
    fn serve(&self, request: Request, queue: &mut mpsc::Receiver<Job>) -> Option<Job> {
        let model = request.model.clone();
        let mut turns = Turns::new();
        turns.push(request);
        let mut wanted = None;
        loop {
            while wanted.is_none() && turns.len() < UNDER_WAY {
                let job = if turns.is_empty() { queue.blocking_recv() } else { queue.try_recv().ok() };
                match job {
                    Some(Job::Infer(request)) if Arc::ptr_eq(&request.model, &model) => turns.push(request),
                    Some(Job::Ping(reply)) => pong(reply),
                    Some(other) => wanted = Some(other),
                    None => break,
                }
            }
            if !turns.take(|request| self.goes_on(request)) {
                return wanted;
            }
        }
    }

    /// Runs the next image of a request; whether there are more.
    fn goes_on(&self, request: &mut Request) -> bool {
        if request.reply.as_ref().is_none_or(Reply::is_closed) {
            // Nobody waits for the rest.
            request.count(false);
            return false;
        }
        let Some(image) = request.next_image() else {
            request.end(None);
            return false;
        };
        let (result, elapsed) = self.run_one(&request.model, image);
        request.served.runs += 1;
        request.served.computed += elapsed;
        match result {
            Ok(outputs) => request.outputs.extend(outputs),
            Err(InferError::Image { index, number }) => {
                let before = (request.served.runs as usize - 1) * request.model.engine.numel();
                request.end(Some(InferError::Image { index: before + index, number }));
                return false;
            }
            Err(error) => {
                request.end(Some(error));
                return false;
            }
        }
        if request.left() > 0 {
            return true;
        }
        request.end(None);
        false
    }

    /// One image, in its turn.
    fn run_one(&self, model: &ServedModel, image: &[f32]) -> (Result<Vec<f32>, InferError>, Duration) {
        let exclusive = lock(&self.turn);
        let started = Instant::now();
        let result = model.engine.run(image);
        let elapsed = started.elapsed();
        drop(exclusive);
        let result = result.map_err(InferError::Engine).and_then(|outputs| finite(image, outputs));
        self.images.fetch_add(1, Ordering::Relaxed);
        let outcome = match &result {
            Ok(_) => Outcome::Answered(elapsed),
            Err(InferError::Image { .. }) => return (result, elapsed),
            Err(_) => Outcome::Failed,
        };
        model.statistics.observe(elapsed, result.is_ok());
        record(&mut lock(&self.tallies), &model.installed, outcome);
        (result, elapsed)
    }
}

/// The outputs, if they are numbers. Where they are not, that is the image's fault if it holds what no image does.
fn finite(image: &[f32], outputs: Vec<f32>) -> Result<Vec<f32>, InferError> {
    let Some((index, number)) = find(&outputs, |number| !number.is_finite()) else { return Ok(outputs) };
    // A NaN is not between them either.
    Err(match find(image, |number| !(-ORDINARY..=ORDINARY).contains(&number)) {
        Some((index, number)) => InferError::Image { index, number },
        None => EngineError::NotFinite { index, number }.into(),
    })
}

/// The first number that `is_it`, and where it is.
fn find(numbers: &[f32], is_it: impl Fn(f32) -> bool) -> Option<(usize, f32)> {
    numbers.iter().copied().enumerate().find(|&(_, number)| is_it(number))
}

/// Says that the thread is alive; whoever asked may have given up.
fn pong(reply: oneshot::Sender<()>) {
    let _ = reply.send(());
}

fn record(tallies: &mut Tallies, installed: &Installed, outcome: Outcome) {
    let tally = tallies.entry((installed.digest(), installed.generation)).or_insert_with(Tally::new);
    match outcome {
        Outcome::Answered(elapsed) => {
            let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).clamp(1, SLOWEST_US);
            tally.histogram.record(micros).expect("the histogram grows to any value up to an hour");
        }
        Outcome::Failed => tally.errors += 1,
    }
}

enum Outcome {
    Answered(Duration),
    Failed,
}

/// An hour: whatever is slower counts as this.
const SLOWEST_US: u64 = 3_600_000_000;

impl Tally {
    fn new() -> Self {
        // Grows as values come: a device that answers within a second keeps a small one.
        let histogram = Histogram::new(3).expect("three significant digits are allowed");
        Self { histogram, errors: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_blame_for_an_answer_that_is_no_number() {
        assert_eq!(finite(&[3e38], vec![1.0]).unwrap(), [1.0], "whatever the image, an answer is one");
        for outputs in [vec![0.0, f32::INFINITY], vec![0.0, f32::NAN]] {
            let of_model = finite(&[-ORDINARY, 255.0, ORDINARY], outputs.clone()).unwrap_err();
            assert!(matches!(of_model, InferError::Engine(EngineError::NotFinite { index: 1, .. })));
            for number in [-3.4e38, 1.1e6, f32::NAN, f32::NEG_INFINITY] {
                let of_image = finite(&[1.0, 2.0, number], outputs.clone()).unwrap_err();
                assert!(matches!(of_image, InferError::Image { index: 2, .. }), "{of_image}");
            }
        }
    }
}
