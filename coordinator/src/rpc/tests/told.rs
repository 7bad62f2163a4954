//! What is known of whoever told a device what it serves.

use proto::v1::operator_service_client::OperatorServiceClient;
use proto::{ArtifactRef, ByteSize, ModelManifest, SelfTest};

use super::*;
use crate::manifest::{DatasetFormat, DatasetSpec, DeploymentManifest};
use crate::rpc::view;
use crate::store::{AssignmentOrder, DeploymentPhase, DeviceRecord, HoldingRecord};

const TEXT: &str = "apiVersion: reconvene/v1\nkind: Deployment\nmetadata: { name: d }\nspec:\n  network: resnet20\n  \
                    selector: { site: elsewhere }\n  dataset: { format: idx, path: /data }\n";

fn manifest() -> DeploymentManifest {
    let files = DatasetSpec { format: DatasetFormat::Idx, path: "/data".into(), test_share: None };
    DeploymentManifest::read(TEXT).unwrap().with_dataset(files)
}

fn order(deployment: &str, model: &[u8]) -> AssignmentOrder {
    AssignmentOrder {
        attempt: 0,
        probation: Default::default(),
        deployment: deployment.to_owned(),
        deployment_generation: Generation(1),
        model: ModelManifest {
            name: deployment.to_owned(),
            artifact: ArtifactRef { digest: Digest::of(model), size: ByteSize(1) },
            input_shape: [1, 1, 1],
            mean: vec![0.5],
            std: vec![0.25],
            classes: 1,
            self_test: SelfTest { input: vec![0.0], output: vec![1.0], tolerance: 0.5 },
        },
    }
}

fn holds(store: &SledStore, device: u32, model: Option<&[u8]>) {
    let record = DeviceRecord {
        id: gw(device),
        labels: Default::default(),
        agent_version: "0.1.0".to_owned(),
        profile: None,
        holding: HoldingRecord { generation: Generation(1), digest: model.map(Digest::of) },
        ended: None,
        unreadable: None,
        serving_address: String::new(),
        last_seen_unix_ms: 1,
        registered_unix_ms: 1,
    };
    store.register_device(&gw(device), &mut |_| record.clone()).unwrap();
}

#[tokio::test]
async fn a_deployment_that_is_deleted_names_all_that_it_left_with_something() {
    let host = Host::start_with(|store| {
        store.apply_deployment(&manifest(), TEXT, None, 1).unwrap();
        // It serves what it was told; it was told anew and serves what it had; it serves nothing; another has told it.
        for (device, deployment, holding) in
            [(1, "d", Some(&b"new"[..])), (2, "d", Some(b"old")), (3, "d", None), (4, "other", Some(b"new"))]
        {
            holds(store, device, holding);
            store.assign(&gw(device), &order(deployment, b"new")).unwrap();
        }
    })
    .await;
    let mut operator = OperatorServiceClient::new(host.channel().await);
    let deleted = v1::DeleteDeploymentRequest { name: "d".to_owned(), force: true };
    let reply = operator.delete_deployment(deleted).await.unwrap().into_inner();
    assert_eq!(reply.serving, ["gw-1", "gw-2"]);
    let devices = operator.list_devices(v1::ListRequest::default()).await.unwrap().into_inner().devices;
    let told: Vec<_> = devices.iter().map(|device| device.told_by.as_str()).collect();
    assert_eq!(told, ["d", "", "", "other"], "what it had before may be of anybody");
    host.stopped().await;
}

#[test]
fn a_complete_deployment_that_is_paused_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let applied = store.apply_deployment(&manifest(), TEXT, None, 1).unwrap();
    let said = |phase: DeploymentPhase, paused: bool| {
        let mut record = applied.record().clone();
        (record.phase, record.paused, record.message) = (phase, paused, "3 active".to_owned());
        view::message(&record)
    };
    assert_eq!(said(DeploymentPhase::Complete, false), "3 active");
    assert_eq!(said(DeploymentPhase::RollingOut, true), "3 active", "the driver says it");
    let text = said(DeploymentPhase::Complete, true);
    assert!(text.starts_with("3 active; paused") && text.contains("`reconvene rollout resume d`"), "{text}");
}
