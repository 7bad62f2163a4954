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

fn hello() -> v1::Hello {
    v1::Hello { device_id: "gw-1".into(), ..Default::default() }
}

/// What is said of a message of that kind.
fn refusal(kind: v1::agent_message::Kind) -> Option<Invalid> {
    AgentMessage::try_from(v1::AgentMessage { kind: Some(kind) }).err()
}

#[test]
fn a_generation_that_was_never_given_is_refused_wherever_a_device_claims_it() {
    use v1::agent_message::Kind;
    let claim = |generation| {
        let active_digest = digest().to_string();
        [
            Kind::Hello(v1::Hello { generation, ..hello() }),
            Kind::Heartbeat(v1::Heartbeat { generation, active_digest, engine: String::new() }),
            Kind::Progress(v1::Progress {
                generation,
                digest: digest().to_string(),
                phase: v1::progress::Phase::Active.into(),
                ..Default::default()
            }),
        ]
    };
    for kind in claim(1 << 60) {
        assert_eq!(refusal(kind), None);
    }
    for kind in claim((1 << 60) + 1) {
        assert_eq!(refusal(kind).unwrap().field, "generation");
    }
}

#[test]
fn labels_and_texts_of_a_hello_are_bounded() {
    use v1::agent_message::Kind;
    let with = |change: fn(&mut v1::Hello)| {
        let mut hello = hello();
        change(&mut hello);
        refusal(Kind::Hello(hello)).map(|invalid| invalid.field)
    };
    fn labelled(hello: &mut v1::Hello, count: usize) {
        hello.labels = (0..count).map(|n| (format!("key-{n}"), String::new())).collect();
    }
    assert_eq!(with(|h| labelled(h, LABELS)), None);
    assert_eq!(with(|h| labelled(h, LABELS + 1)), Some("labels"));
    assert_eq!(with(|h| h.labels = [("x".repeat(TEXT), "y".repeat(TEXT))].into()), None);
    assert_eq!(with(|h| h.labels = [("x".repeat(TEXT + 1), String::new())].into()), Some("labels"));
    assert_eq!(with(|h| h.labels = [("x".into(), "y".repeat(TEXT + 1))].into()), Some("labels"));
    assert_eq!(with(|h| h.labels = [("x".into(), "\u{1b}[2J".into())].into()), Some("labels"));
    assert_eq!(with(|h| h.agent_version = "v".repeat(TEXT)), None);
    assert_eq!(with(|h| h.agent_version = "v".repeat(TEXT + 1)), Some("agent_version"));
    assert_eq!(with(|h| h.serving_address = "a\nb".into()), Some("serving_address"));
    assert_eq!(with(|h| h.device_id = "x".repeat(64)), Some("device_id"));
    let engine = v1::Heartbeat { engine: "e".repeat(TEXT + 1), ..Default::default() };
    assert_eq!(refusal(Kind::Heartbeat(engine)).unwrap().field, "engine");
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

#[test]
fn a_model_is_named_as_deployments_are_and_tested_with_numbers() {
    type Change = fn(&mut v1::ModelManifest);
    let table: [(&str, Change); 6] = [
        ("name", |wire| wire.name = "../../etc/x".to_owned()),
        ("name", |wire| wire.name = "evil\u{1b}[31m".to_owned()),
        ("name", |wire| wire.name = String::new()),
        ("self_test", |wire| wire.self_test.as_mut().unwrap().tolerance = f32::INFINITY),
        ("self_test", |wire| wire.self_test.as_mut().unwrap().input[0] = f32::NAN),
        ("self_test", |wire| wire.self_test.as_mut().unwrap().output[0] = f32::NEG_INFINITY),
    ];
    for (field, change) in table {
        let mut wire = v1::ModelManifest::from(manifest());
        change(&mut wire);
        let refused = ModelManifest::try_from(wire).unwrap_err();
        assert_eq!(refused.field, field, "{refused}");
    }
}
