//! Messages there and back, and what the border refuses.

use super::*;
use crate::{ByteSize, SelfTest};

fn digest() -> Digest {
    Digest::of(b"model")
}

fn manifest() -> ModelManifest {
    ModelManifest {
        name: "fashion".into(),
        artifact: ArtifactRef { digest: digest(), size: ByteSize(5) },
        input_shape: [1, 2, 2],
        mean: vec![0.5],
        std: vec![0.25],
        classes: 2,
        self_test: SelfTest { input: vec![0.0; 4], output: vec![1.0, 2.0], tolerance: 1e-3 },
    }
}

#[test]
fn agent_messages_round_trip() {
    let progress =
        |phase| AgentMessage::Progress(Progress { generation: Generation(3), digest: digest(), phase });
    let interval = LatencyInterval {
        digest: digest(),
        generation: Generation(3),
        interval_ms: 1000,
        histogram: vec![1, 2],
        errors: 1,
        rss: Some(ByteSize(9)),
        cpu_ms: Some(12),
        millicelsius: Some(-1500),
    };
    let messages = [
        AgentMessage::Hello(Hello {
            device_id: "gw-1".parse().unwrap(),
            agent_version: "0.1.0".into(),
            labels: BTreeMap::from([("site".into(), "berlin".into())]),
            holding: Holding::default(),
            serving_address: "127.0.0.1:1".into(),
        }),
        AgentMessage::Heartbeat(Heartbeat {
            holding: Holding { generation: Generation(2), digest: Some(digest()) },
            engine: "rten, 2 threads".into(),
        }),
        AgentMessage::Beat,
        progress(Phase::Downloading { done: 7 }),
        progress(Phase::Verifying),
        progress(Phase::Active),
        progress(Phase::Failed { reason: "self-test".into() }),
        AgentMessage::Telemetry(SpoolPosition { epoch: 1, sequence: 2 }, interval),
    ];
    for message in messages {
        assert_eq!(AgentMessage::try_from(v1::AgentMessage::from(message.clone())), Ok(message));
    }
}

pub(crate) fn assignment() -> Assignment {
    Assignment {
        device: "gw-1".parse().unwrap(),
        generation: Generation(1),
        deployment: "fashion".into(),
        model: manifest(),
        probation: Probation { late_above_ms: Some(2.5), ..Default::default() },
    }
}

#[test]
fn assignments_round_trip() {
    assert_eq!(Assignment::try_from(v1::Assignment::from(assignment())), Ok(assignment()));
    let nameless = v1::Assignment { device_id: String::new(), ..assignment().into() };
    assert!(Assignment::try_from(nameless).is_err());
    let zeroth = v1::Assignment { generation: 0, ..assignment().into() };
    assert_eq!(Assignment::try_from(zeroth).unwrap_err().field, "generation");
}

#[test]
fn coordinator_messages_round_trip() {
    let messages = [
        CoordinatorMessage::Welcome(Welcome {
            heartbeat_interval_ms: 1,
            telemetry_interval_ms: 2,
            probes: vec![manifest().artifact],
            signing_keys: vec![VerifyingKey::try_from(&[7; 32][..]).unwrap()],
        }),
        CoordinatorMessage::Assignment(SignedAssignment { assignment: vec![1, 2], signature: vec![3] }),
        CoordinatorMessage::TelemetryAck(SpoolPosition { epoch: 1, sequence: 2 }),
    ];
    for message in messages {
        assert_eq!(CoordinatorMessage::try_from(v1::CoordinatorMessage::from(message.clone())), Ok(message));
    }
}

#[test]
fn messages_that_mean_nothing_are_refused_by_name() {
    assert_eq!(AgentMessage::try_from(v1::AgentMessage { kind: None }), Err(Invalid::missing("kind")));
    let unspecified = v1::Progress { digest: digest().to_string(), ..Default::default() };
    assert_eq!(Progress::try_from(unspecified).unwrap_err().field, "phase");
    for (field, break_it) in [
        ("input_shape", (|m| m.input_shape = vec![1, 2]) as fn(&mut v1::ModelManifest)),
        ("input_shape", |m| m.input_shape = vec![u32::MAX; 3]),
        ("mean, std", |m| m.std.clear()),
        ("self_test", |m| m.self_test.as_mut().unwrap().output.push(0.0)),
        ("self_test", |m| m.self_test = None),
        ("digest", |m| m.artifact.as_mut().unwrap().digest = "xyz".into()),
        ("size_bytes", |m| m.artifact.as_mut().unwrap().size_bytes = 0),
    ] {
        let mut wire = v1::ModelManifest::from(manifest());
        break_it(&mut wire);
        assert_eq!(ModelManifest::try_from(wire).unwrap_err().field, field);
    }
}
