//! The columns of each kind's table.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::v1;

use super::{Column, Width};
use crate::cli::figures::{age, bytes, count, macs, ms, percent, seconds, short};
use crate::cli::table::Entry;

const fn usual<T>(title: &'static str, entry: fn(&T) -> Entry) -> Column<T> {
    Column { title, width: Width::Usual, entry }
}

const fn wide<T>(title: &'static str, entry: fn(&T) -> Entry) -> Column<T> {
    Column { title, width: Width::Wide, entry }
}

pub(super) const DEVICES: &[Column<v1::Device>] = &[
    usual("NAME", |d| Entry::text(&d.id)),
    usual("STATUS", |d| Entry::state(&d.status)),
    usual("CLASS", |d| Entry::text(short(&d.class_id))),
    usual("ARCH", |d| Entry::text(&d.arch)),
    usual("CORES", |d| Entry::figure(d.logical_cores.to_string())),
    usual("THREADS", |d| Entry::figure(d.inference_threads.to_string())),
    usual("ENGINE", |d| Entry::text(&d.engine)),
    usual("MODEL", |d| Entry::text(short(&d.active_digest))),
    usual("GENERATION", |d| Entry::figure(d.generation.to_string())),
    usual("LAST-SEEN", |d| Entry::text(ago(d.last_seen_unix_ms))),
    wide("LANES", |d| Entry::figure_or_dash(d.vector_lanes, |lanes| lanes.to_string())),
    wide("QUOTA", |d| Entry::figure_or_dash(d.cpu_quota_cores, |cores| format!("{cores:.2}"))),
    wide("MEMORY", |d| Entry::figure_or_dash(d.memory_total_bytes, bytes)),
    wide("LIMIT", |d| Entry::figure_or_dash(d.memory_limit_bytes, bytes)),
    wide("LABELS", |d| Entry::text(labels(&d.labels))),
    wide("ADDRESS", |d| Entry::text(&d.serving_address)),
    wide("AGENT", |d| Entry::text(&d.agent_version)),
    wide("CPU", |d| Entry::text(&d.cpu_model)),
];

pub(super) const MODELS: &[Column<v1::Model>] = &[
    usual("NAME", |m| Entry::text(&m.name)),
    usual("INPUT", |m| Entry::text(shape(&m.input_shape))),
    usual("CLASSES", |m| Entry::figure(m.classes.to_string())),
    usual("PARAMS", |m| Entry::figure(count(m.params))),
    usual("MACS", |m| Entry::figure(macs(m.macs))),
    usual("SIZE", |m| Entry::figure(bytes(m.bytes))),
    usual("ORIGIN", |m| Entry::text(&m.origin)),
];

pub(super) const DATASETS: &[Column<v1::Dataset>] = &[
    usual("NAME", |d| Entry::text(&d.name)),
    usual("FORMAT", |d| Entry::text(&d.format)),
    usual("IMAGES", |d| Entry::text(shape(&d.input_shape))),
    usual("CLASSES", |d| Entry::figure(d.classes.to_string())),
    usual("TRAIN", |d| Entry::figure(count(d.train_images))),
    usual("TEST", |d| Entry::figure(count(d.test_images))),
    usual("PATH", |d| Entry::text(&d.path)),
    wide("TEST-SHARE", |d| Entry::figure_or_dash(d.test_share, |share| share.to_string())),
    wide("ADDED", |d| Entry::text(ago(d.added_unix_ms))),
];

pub(super) const DEPLOYMENTS: &[Column<v1::Deployment>] = &[
    usual("NAME", |d| Entry::text(&d.name)),
    usual("NETWORK", |d| Entry::text(&d.network)),
    usual("PHASE", |d| match d.paused {
        true => Entry::text(format!("{} (paused)", d.phase)),
        false => Entry::state(&d.phase),
    }),
    usual("GENERATION", |d| Entry::figure(d.generation.to_string())),
    usual("MATCHED", |d| Entry::figure(d.matched.to_string())),
    usual("ACTIVE", |d| Entry::figure(d.active.to_string())),
    usual("NO-FIT", |d| Entry::figure(d.no_fit.to_string())),
    usual("FAILED", |d| Entry::figure(d.failed.to_string())),
    wide("MESSAGE", |d| Entry::text(&d.message)),
];

pub(super) const ARTIFACTS: &[Column<v1::Artifact>] = &[
    usual("DIGEST", |a| Entry::text(short(&a.digest))),
    usual("NETWORK", |a| Entry::text(&a.network)),
    usual("PARAMS", |a| Entry::figure_or_dash(a.footprint, |f| count(f.params))),
    usual("MACS", |a| Entry::figure_or_dash(a.footprint, |f| macs(f.macs))),
    usual("SIZE", |a| Entry::figure_or_dash(a.footprint, |f| bytes(f.bytes))),
    usual("ACCURACY", |a| Entry::figure_or_dash(a.test_accuracy, percent)),
    wide("MEMORY", |a| Entry::figure_or_dash(a.footprint, |f| bytes(f.memory_bytes))),
    wide("TRAIN-IMAGES", |a| Entry::figure(count(a.train_images.into()))),
    wide("TEST-IMAGES", |a| Entry::figure(count(a.test_images.into()))),
    wide("EPOCHS", |a| Entry::figure_or_dash(a.epochs, |epochs| epochs.to_string())),
    wide("PRUNED-IN", |a| Entry::figure(seconds(a.seconds_to_prune))),
    wide("TRAINED-IN", |a| Entry::figure_or_dash(a.seconds_to_train, seconds)),
    wide("SHA-256", |a| Entry::text(&a.digest)),
];

pub(super) const JOBS: &[Column<v1::Job>] = &[
    usual("NAME", |j| Entry::text(&j.name)),
    usual("DEPLOYMENT", |j| Entry::text(&j.deployment)),
    usual("STATE", |j| Entry::state(&j.state)),
    usual("DONE", |j| {
        Entry::figure(if j.total == 0 { "-".to_owned() } else { percent(j.done as f64 / j.total as f64) })
    }),
    usual("WORKER", |j| Entry::text(if j.worker.is_empty() { "-" } else { &j.worker })),
    usual("TRIES", |j| Entry::figure(j.tries.to_string())),
    usual("SINCE", |j| Entry::text(ago(j.changed_unix_ms))),
    usual("MESSAGE", |j| Entry::text(&j.message)),
    wide("CREATED", |j| Entry::text(ago(j.created_unix_ms))),
];

pub(super) const WORKERS: &[Column<v1::Worker>] = &[
    usual("NAME", |w| Entry::text(&w.name)),
    usual("STATE", |w| Entry::state(&w.state)),
    usual("JOB", |w| Entry::text(&w.job)),
    usual("SINCE", |w| Entry::text(ago(w.since_unix_ms))),
    usual("HEARD", |w| Entry::text(ago(w.heard_unix_ms))),
    usual("EXPIRES", |w| Entry::text(expiry(w.expires_unix_ms))),
    usual("MESSAGE", |w| Entry::text(&w.message)),
];

pub(super) const OPERATORS: &[Column<v1::Operator>] = &[
    usual("NAME", |o| Entry::text(&o.name)),
    usual("ROLE", |o| Entry::text(&o.role)),
    usual("EXPIRES", |o| Entry::text(expiry(o.expires_unix_ms))),
    usual("REVOKED", |o| Entry::text(if o.revoked { "yes" } else { "no" })),
    wide("MADE", |o| Entry::text(ago(o.made_unix_ms))),
];

pub(super) const TELEMETRY: &[Column<v1::TelemetrySummary>] = &[
    usual("DEVICE", |t| Entry::text(&t.device_id)),
    usual("MODEL", |t| Entry::text(short(&t.digest))),
    usual("GENERATION", |t| Entry::figure(t.generation.to_string())),
    usual("COUNT", |t| Entry::figure(count(t.count))),
    usual("ERRORS", |t| Entry::figure(count(t.errors))),
    usual("P50", |t| Entry::figure(measured(t, t.p50_ms))),
    usual("P95", |t| Entry::figure(measured(t, t.p95_ms))),
    usual("P99", |t| Entry::figure(measured(t, t.p99_ms))),
    wide("MEAN", |t| Entry::figure(measured(t, t.mean_ms))),
    wide("MAX", |t| Entry::figure(measured(t, t.max_ms))),
    wide("INTERVALS", |t| Entry::figure(count(t.intervals))),
    wide("RSS", |t| Entry::figure_or_dash(t.rss_bytes, bytes)),
    wide("CPU", |t| Entry::figure_or_dash(t.cpu_cores, |cores| format!("{cores:.2}"))),
    wide("TEMPERATURE", |t| Entry::figure_or_dash(t.temperature, |celsius| format!("{celsius:.1} C"))),
];

pub(super) const TOKENS: &[Column<v1::Token>] = &[
    usual("NAME", |t| Entry::text(&t.id)),
    usual("USED", |t| Entry::figure(format!("{}/{}", t.used_by.len(), t.uses))),
    usual("EXPIRES", |t| {
        Entry::text(if t.revoked { "revoked".to_owned() } else { until(t.expires_unix_ms) })
    }),
    usual("LABELS", |t| Entry::text(labels(&t.labels))),
    wide("MADE", |t| Entry::text(ago(t.created_unix_ms))),
    wide("APPROVAL", |t| Entry::text(if t.approval { "each" } else { "none" })),
    wide("DEVICES", |t| Entry::text(t.used_by.join(","))),
];

pub(super) const PENDING: &[Column<v1::PendingDevice>] = &[
    usual("NAME", |d| Entry::text(&d.id)),
    usual("KEY", |d| Entry::text(&d.key[..d.key.len().min(24)])),
    usual("WAITS FOR", |d| Entry::text(if d.waits { "approval" } else { "its first session" })),
    usual("SINCE", |d| Entry::text(ago(d.since_unix_ms))),
    usual("TOKEN", |d| Entry::text(&d.token)),
    wide("WHOLE KEY", |d| Entry::text(&d.key)),
];

pub(super) const AUTHORITIES: &[Column<v1::Authority>] = &[
    usual("NAME", |a| Entry::text(&a.name)),
    usual("PHASE", |a| Entry::text(&a.phase)),
    usual("SINCE", |a| Entry::text(ago(a.since_unix_ms))),
    usual("DEVICES", |a| Entry::figure(a.devices.to_string())),
    wide("FINGERPRINT", |a| Entry::text(&a.fingerprint)),
];

/// In how long a moment is; `expired` where it has passed.
fn until(unix_ms: u64) -> String {
    let moment = UNIX_EPOCH + Duration::from_millis(unix_ms);
    moment.duration_since(SystemTime::now()).map_or_else(|_| "expired".to_owned(), age)
}

/// The end of a certificate, where that is known.
fn expiry(unix_ms: u64) -> String {
    if unix_ms == 0 { String::new() } else { until(unix_ms) }
}

/// A latency, where anything was measured at all.
fn measured(summary: &v1::TelemetrySummary, value: f64) -> String {
    if summary.count == 0 { String::new() } else { ms(value) }
}

/// `3x32x32`.
pub(crate) fn shape(dimensions: &[u32]) -> String {
    dimensions.iter().map(u32::to_string).collect::<Vec<_>>().join("x")
}

/// `site=lab,tier=small`, by name.
pub(crate) fn labels(labels: &HashMap<String, String>) -> String {
    let sorted: BTreeMap<_, _> = labels.iter().collect();
    sorted.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

/// How long ago a moment was; empty for never.
pub(crate) fn ago(unix_ms: u64) -> String {
    if unix_ms == 0 {
        return String::new();
    }
    let moment = UNIX_EPOCH + Duration::from_millis(unix_ms);
    // A device's report may bear a moment that this host's clock has not reached: that is now.
    age(SystemTime::now().duration_since(moment).unwrap_or_default())
}
