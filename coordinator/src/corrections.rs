//! What telemetry says of the predictions: for each class, measured over predicted, over all that its devices served.
//! Made anew from the stored telemetry whenever something is planned, so there is no second copy to keep right.

use std::collections::BTreeMap;

use proto::Digest;
use pruner_core::Graph;
use pruner_core::plan::PrunePlan;

use crate::calibration::Calibration;
use crate::class::ClassId;
use crate::derive::{Subject, planned_graph};
use crate::fitting::Candidate;
use crate::histogram::{LatencyTally, Summary};
use crate::probes::ProbeSet;
use crate::store::{DerivationState, Store, StoreError, TelemetryRecord};

/// Measured over predicted latency, class by class; 1 where nothing was measured.
#[derive(Debug, Clone, Default)]
pub struct Corrections(BTreeMap<ClassId, Calibration>);

impl Corrections {
    /// From everything that devices have served of what was derived from `subject`.
    pub fn read(store: &dyn Store, subject: &Subject, probes: &ProbeSet) -> Result<Self, StoreError> {
        Self::of(store, (&subject.name, &subject.graph), probes)
    }

    /// The same of a network that need not be scored.
    pub fn of(store: &dyn Store, dense: (&str, &Graph), probes: &ProbeSet) -> Result<Self, StoreError> {
        let graphs = served_graphs(store, dense)?;
        let mut corrections: BTreeMap<ClassId, Calibration> = BTreeMap::new();
        for device in store.devices()? {
            let Ok(measured) = Candidate::of(&device, probes) else { continue };
            let Ok(model) = probes.latency_model(&measured.profile) else { continue };
            let telemetry = store.telemetry(&device.id)?;
            for (digest, graph) in &graphs {
                if let Some(summary) = summary(&telemetry, *digest) {
                    let calibration = corrections.entry(measured.class.id()).or_default();
                    *calibration = calibration.update(model.predict(graph).p95_ms, &summary);
                }
            }
        }
        Ok(Self(corrections))
    }

    /// What the predictions of that class are multiplied with, at least 1: one network that ran faster than predicted says
    /// little of the next, and a ceiling that is broken costs more than one that is not filled.
    pub fn factor(&self, class: &ClassId) -> f64 {
        self.measured(class).max(1.0)
    }

    /// The same as it was measured, also below 1: for who lets devices grow into what they leave free.
    pub fn measured(&self, class: &ClassId) -> f64 {
        self.0.get(class).copied().unwrap_or_default().factor
    }
}

/// The network behind each artifact that was derived from the dense one of that name, by digest.
fn served_graphs(
    store: &dyn Store,
    (name, dense): (&str, &Graph),
) -> Result<BTreeMap<Digest, Graph>, StoreError> {
    let derived = store.derivations()?.into_iter().filter(|record| record.network == name);
    let mut graphs = BTreeMap::new();
    for record in derived {
        let DerivationState::Ready { artifact } = record.state else { continue };
        let Some(known) = store.artifact(artifact)? else { continue };
        let shape = dense.input_shape();
        let same_input =
            known.serving.input_shape == [shape.channels, shape.height, shape.width].map(|n| n as u32);
        let Ok(plan) = serde_json::from_value::<PrunePlan>(record.plan) else { continue };
        // The same network for images of another size takes another time: it says nothing here.
        if let (true, Ok(graph)) = (same_input, planned_graph(dense, &plan)) {
            graphs.insert(artifact, graph);
        }
    }
    Ok(graphs)
}

fn summary(telemetry: &[TelemetryRecord], digest: Digest) -> Option<Summary> {
    let mut tally = LatencyTally::default();
    for record in telemetry.iter().filter(|record| record.interval.digest == digest) {
        // An interval that cannot be read is shown as errors in the telemetry's list; here it says nothing.
        let _ = tally.add(&record.interval.histogram);
    }
    tally.summary()
}
