//! What monitoring asks for: counts of this process and of the model that serves, as OpenMetrics text. Owns names and units;
//! counts nothing itself.

use std::borrow::Cow;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use proto::DeviceId;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::probe;
use crate::runner::statistics::Span;
use crate::runner::{Runner, ServedModel};
use crate::session::Pulse;
use crate::spool::shared::SharedSpool;
use crate::state::StateDir;

/// What the text is called.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where the counts are.
#[derive(Clone)]
pub struct Metrics {
    /// Whose they are.
    pub device: DeviceId,
    /// Of the model that serves.
    pub runner: Runner,
    /// Of telemetry that waits.
    pub spool: SharedSpool,
    /// Of the session.
    pub pulse: Pulse,
    /// What takes its writes, or does not.
    pub state: StateDir,
    /// Of looks at the disk.
    pub tracker: TaskTracker,
}

impl Metrics {
    /// Whether the coordinator is connected, and if not, why; and why the state directory takes no writes, if it does not.
    pub async fn session(&self) -> serde_json::Value {
        let mut session = match self.pulse.is_connected() {
            true => json!({ "connected": true }),
            false => json!({ "connected": false, "why": self.pulse.why_not() }),
        };
        let state = self.state.clone();
        // Nothing is said of a look that does not end well.
        if let Ok(Some(why)) = self.tracker.spawn_blocking(move || state.refuses()).await {
            session["takes_no_writes_because"] = why.into();
        }
        session
    }

    /// All counts now.
    pub async fn text(&self) -> String {
        let waiting = self.spool.with(|spool| spool.len()).await;
        let mut registry = Registry::with_prefix("reconvene");
        let version =
            vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("device", self.device.to_string())];
        registry.register("agent", "This agent", Info::new(version));
        registry.register(
            "session_connected",
            "Whether the coordinator is connected",
            ConstGauge::new(i64::from(self.pulse.is_connected())),
        );
        registry.register(
            "telemetry_waiting_intervals",
            "Intervals that the coordinator has not stored yet",
            ConstGauge::new(waiting as i64),
        );
        if let Some(model) = self.runner.active() {
            register_model(&mut registry, &model);
        }
        let mut of_process = Registry::default();
        register_process(of_process.sub_registry_with_prefix("process"));
        let mut out = String::new();
        text::encode_registry(&mut out, &registry)
            .and_then(|()| text::encode_registry(&mut out, &of_process))
            .and_then(|()| text::encode_eof(&mut out))
            .expect("a string takes every character");
        out
    }
}

/// Counts since the model was loaded: a counter that falls back to 0 is how Prometheus learns of another one.
fn register_model(registry: &mut Registry, model: &ServedModel) {
    let (installed, choice, counts) = (&model.installed, model.engine.choice(), model.statistics.now());
    let label = |name: &'static str, value: String| (Cow::from(name), Cow::from(value));
    let registry = registry
        .sub_registry_with_label(label("model", installed.model.name.clone()))
        .sub_registry_with_label(label("model_version", installed.generation.to_string()));
    let facts = vec![
        ("digest", installed.digest().to_string()),
        ("engine", choice.engine.to_string()),
        ("threads", choice.threads.to_string()),
    ];
    registry.register("model", "The model that serves", Info::new(facts));
    for (name, help, span) in [
        ("requests_answered", "Requests that were answered", counts.success),
        ("requests_failed", "Requests that the engine failed on", counts.fail),
    ] {
        registry.register(name, help, ConstCounter::new(span.count));
    }
    registry.register("images", "Images that were answered", ConstCounter::new(counts.images));
    registry.register_with_unit(
        "queue",
        "Time that requests waited for their turn",
        Unit::Seconds,
        ConstCounter::new(seconds(counts.queue)),
    );
    registry.register_with_unit(
        "inference",
        "Time of the engine on one image",
        Unit::Seconds,
        model.statistics.latency(),
    );
}

/// As every Prometheus client names them.
fn register_process(registry: &mut Registry) {
    registry.register_with_unit(
        "cpu",
        "Processor time of all threads",
        Unit::Seconds,
        ConstCounter::new(probe::processor_time().as_secs_f64()),
    );
    if let Some(resident) = probe::resident_memory() {
        let resident = ConstGauge::new(i64::try_from(resident.0).unwrap_or(i64::MAX));
        registry.register_with_unit("resident_memory", "Resident memory", Unit::Bytes, resident);
    }
}

fn seconds(span: Span) -> f64 {
    span.ns as f64 * 1e-9
}
