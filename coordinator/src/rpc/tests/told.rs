//! What is known of whoever told a device what it serves.

use proto::v1::operator_service_client::OperatorServiceClient;

use super::*;
use crate::manifest::{DatasetFormat, DatasetSpec, DeploymentManifest};
use crate::refit::Breach;
use crate::rpc::delete::has_begun;
use crate::rpc::view;
use crate::store::sample::order;
use crate::store::{DeploymentPhase, DeviceRecord, HoldingRecord, Outcome, OutcomeRecord, TelemetryRecord};

pub(super) const TEXT: &str = "apiVersion: reconvene/v1\nkind: Deployment\nmetadata: { name: d }\nspec:\n  network: resnet20\n  \
                    selector: { site: elsewhere }\n  dataset: { format: idx, path: /data }\n";

pub(in crate::rpc) fn manifest() -> DeploymentManifest {
    let files = DatasetSpec { format: DatasetFormat::Idx, path: "/data".into(), test_share: None };
    DeploymentManifest::read(TEXT).unwrap().with_dataset(files)
}

pub(super) fn holds(store: &SledStore, device: u32, model: Option<&[u8]>) {
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

#[tokio::test]
async fn a_deployment_that_has_told_nobody_anything_is_deleted_without_force() {
    let host = Host::start_with(|store| {
        for (device, name) in [(1, "d"), (2, "e")] {
            let mut wanted = manifest();
            wanted.metadata.name = name.to_owned();
            store.apply_deployment(&wanted, TEXT, None, 1).unwrap();
            holds(store, device, None);
        }
        store.assign(&gw(2), &order("e", b"new")).unwrap();
    })
    .await;
    let mut operator = OperatorServiceClient::new(host.channel().await);
    let delete = |name: &str| v1::DeleteDeploymentRequest { name: name.to_owned(), force: false };
    let deleted = operator.delete_deployment(delete("d")).await.unwrap().into_inner();
    assert_eq!((deleted.generation, deleted.serving), (1, vec![]));
    let told = operator.delete_deployment(delete("e")).await.unwrap_err();
    assert!(told.message().starts_with("deployment 'e' is under way; "), "{told:?}");
    host.stopped().await;
}

#[test]
fn a_deployment_whose_models_are_made_or_told_has_begun() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let mut record = store.apply_deployment(&manifest(), TEXT, None, 1).unwrap().record().clone();
    assert!(!has_begun(&record), "nobody matches");
    let mut with = |outcome: OutcomeRecord| {
        record.outcomes = [(gw(1), outcome)].into();
        has_begun(&record)
    };
    let waiting = OutcomeRecord::waiting("it has sent no profile");
    assert!(!with(waiting.clone()));
    assert!(!with(OutcomeRecord { state: Outcome::Deriving, ..waiting.clone() }), "it is scored for all");
    let derivation = crate::store::DerivationKey::of(&1).unwrap();
    assert!(with(OutcomeRecord { derivation: Some(derivation), ..waiting.clone() }));
    assert!(with(OutcomeRecord { wave: Some(0), ..waiting }));
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
    let failed = said(DeploymentPhase::Failed { reason: "3 active".to_owned() }, true);
    let next = "3 active; `reconvene rollout retry d` begins it again, a changed manifest replaces it";
    assert_eq!(failed, next, "there is nothing to go back to");
    let text = said(DeploymentPhase::Complete, true);
    assert!(text.starts_with("3 active; paused") && text.contains("`reconvene rollout resume d`"), "{text}");
}

/// The deployment `d`, once the driver has this to say of it.
async fn said(operator: &mut OperatorServiceClient<Channel>, message: &str) -> v1::Deployment {
    loop {
        let wanted = v1::ListRequest { name: "d".to_owned() };
        let found = operator.list_deployments(wanted).await.unwrap().into_inner().deployments;
        if found[0].message.starts_with(message) {
            return found[0].clone();
        }
    }
}

#[tokio::test]
async fn a_device_that_is_banned_counts_as_such_and_names_who_waits_for_it() {
    let host = Host::start_with(|store| {
        let everywhere = |name: &str| {
            let mut manifest = manifest();
            (manifest.metadata.name, manifest.spec.selector) = (name.to_owned(), Default::default());
            store.apply_deployment(&manifest, TEXT, None, 1).unwrap();
        };
        everywhere("d");
        everywhere("e");
        for device in [1, 2] {
            holds(store, device, Some(b"model"));
        }
        let active = OutcomeRecord {
            state: Outcome::Active { since_unix_ms: 1 },
            digest: Some(Digest::of(b"model")),
            wave: Some(0),
            ..OutcomeRecord::waiting("")
        };
        let change = &mut |record: &mut crate::store::DeploymentRecord| {
            record.outcomes = [1, 2].map(|device| (gw(device), active.clone())).into();
            (record.phase, record.was_complete) = (DeploymentPhase::Complete, true);
        };
        store.update_deployment("d", Generation(1), change).unwrap();
        store.change_identity(&gw(1), &mut |identity| identity.banned = true).unwrap();
    })
    .await;
    let mut operator = OperatorServiceClient::new(host.channel().await);
    let found = said(&mut operator, "1 active, 1 banned: `reconvene device unban gw-1`").await;
    assert_eq!((found.matched, found.active), (2, 1), "{found:?}");
    let reasons: Vec<_> = found.devices.iter().map(|outcome| &outcome.reason[..12]).collect();
    assert_eq!(reasons, ["it is banned", "it is away; "]);
    let devices = operator.list_devices(v1::ListRequest::default()).await.unwrap().into_inner().devices;
    let waits: Vec<_> = devices.iter().map(|it| (it.held_by.as_str(), it.wanted_by.join(","))).collect();
    assert_eq!(waits, [("d", "e".to_owned()), ("d", "e".to_owned())]);
    let request = v1::ControlDeviceRequest { name: "gw-1".to_owned(), verb: "unban".to_owned() };
    operator.control_device(request).await.unwrap();
    said(&mut operator, "2 active").await;
    host.stopped().await;
}

#[tokio::test]
async fn a_device_over_its_ceiling_that_is_not_fitted_again_says_so() {
    let host = Host::start_with(|store| {
        let mut manifest = manifest();
        manifest.spec.selector = Default::default();
        store.apply_deployment(&manifest, TEXT, None, 1).unwrap();
        let late = Breach { quantile: "p95".to_owned(), measured_ms: 3.0, ceiling_ms: 1.6, requests: 500 };
        let mut active = OutcomeRecord {
            state: Outcome::Active { since_unix_ms: 1 },
            digest: Some(Digest::of(b"model")),
            assignment: Some(Generation(1)),
            wave: Some(0),
            breaches: vec![late.clone(), late],
            ..OutcomeRecord::waiting("")
        };
        active.budget.latency_p95_ms = Some(1.6);
        let change = &mut |record: &mut crate::store::DeploymentRecord| {
            record.outcomes = [1, 2, 3].map(|device| (gw(device), active.clone())).into();
            (record.phase, record.was_complete) = (DeploymentPhase::Complete, true);
        };
        for device in [1, 2, 3] {
            holds(store, device, Some(b"model"));
        }
        store.update_deployment("d", Generation(1), change).unwrap();
        // It was over its ceiling before the start, and is away since.
        let AgentMessage::Telemetry(position, interval) = telemetry(1, encoded([3000; 500])) else {
            panic!()
        };
        let record = TelemetryRecord { device: gw(3), position, interval, received_unix_ms: 1 };
        store.insert_telemetry(&record).unwrap();
    })
    .await;
    for (device, microseconds) in [(1, 2000), (2, 1000)] {
        let mut talk = host.say(&[hello(&gw(device))]).await.unwrap();
        talk.send(telemetry(1, encoded([microseconds; 500]))).await;
        talk.acknowledged().await;
    }
    let mut operator = OperatorServiceClient::new(host.channel().await);
    let found = loop {
        let found = said(&mut operator, "3 active").await;
        if found.over_ceiling == 2 {
            break found;
        }
    };
    assert_eq!(found.active, 3);
    let [late, within, away] = [0, 1, 2].map(|at| found.devices[at].reason.as_str());
    assert!(late.contains("a network that is over its ceiling") && late.contains(": p95 2.0"), "{late}");
    assert!(late.ends_with("as rollout.refits is 2: apply a higher ceiling, or more refits"), "{late}");
    assert!(
        within.contains("the largest network within its budget") && !within.contains("apply"),
        "{within}"
    );
    assert!(away.contains("a network that is over its ceiling when it was last heard of: p95 "), "{away}");
    host.stopped().await;
}

#[tokio::test]
async fn an_operator_of_whom_nothing_is_known_leaves_nothing() {
    let host = Host::start().await;
    let mut operator = OperatorServiceClient::new(host.channel().await);
    for (verb, listed) in [("revoke", 1), ("reinstate", 0)] {
        let request = v1::ControlOperatorRequest { name: "nosuch".to_owned(), verb: verb.to_owned() };
        operator.control_operator(request).await.unwrap();
        let known = operator.list_operators(v1::ListRequest::default()).await.unwrap().into_inner();
        assert_eq!(known.operators.len(), listed, "{verb}");
    }
    let strange = v1::ControlOperatorRequest { name: "token/x".to_owned(), verb: "revoke".to_owned() };
    let refusal = operator.control_operator(strange).await.unwrap_err();
    assert!(refusal.message().starts_with("invalid operator name: "), "{refusal:?}");
    host.stopped().await;
}

#[tokio::test]
async fn an_approval_says_whether_the_device_has_been_there() {
    let key = |device: u32| Digest::of(&device.to_le_bytes());
    let host = Host::start_with(|store| {
        // It waits; it needs no approval and has not come; it has been there; it is kept out.
        for (device, waits, confirmed, banned) in [
            (1, true, false, false),
            (2, false, false, false),
            (3, false, true, false),
            (4, true, false, true),
        ] {
            let known = &mut |identity: &mut crate::store::IdentityRecord| {
                identity.key = Some(key(device));
                // With a token that is gone, nobody could use an approval.
                identity.token = Some("t".to_owned());
                (identity.waits, identity.confirmed, identity.banned) = (waits, confirmed, banned);
            };
            store.change_identity(&gw(device), known).unwrap();
        }
    })
    .await;
    let mut operator = OperatorServiceClient::new(host.channel().await);
    let mut approve = async |device| {
        let request = v1::ApproveDeviceRequest { name: gw(device).to_string(), key: key(device).to_string() };
        operator.approve_device(request).await
    };
    let lost = approve(1).await.unwrap_err();
    assert!(lost.message().contains("the join token is not known"), "{lost:?}");
    let expected = |pending| v1::ApproveDeviceResponse { already: true, pending };
    assert_eq!(approve(2).await.unwrap().into_inner(), expected(true));
    assert_eq!(approve(3).await.unwrap().into_inner(), expected(false));
    let refused = approve(4).await.unwrap_err();
    assert!(refused.message().contains("`reconvene device unban gw-4` first"), "{refused:?}");
    host.stopped().await;
}
