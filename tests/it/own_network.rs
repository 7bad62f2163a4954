//! A network that an operator brought: imported once, pruned for a device, served; and every way to bring a wrong one.

use proto::Digest;
use pruner_core::graph::onnx::{BatchNorms, encode};
use pruner_core::zoo::{self, ZooNetwork};
use pruner_core::{Network, Shape, init};

use crate::scene::{DEPLOYMENT, LIMIT, PATTERNS, Scene, params, yaml};

/// A MobileNetV2 for the scene's images: inverted residuals, depthwise convolutions, ReLU6.
fn file(classes: usize) -> Vec<u8> {
    let side = PATTERNS.side;
    let graph = zoo::build(ZooNetwork::MobileNetV2Cifar, Shape::new(1, side, side), classes).unwrap();
    let network = Network { weights: init::init(&graph, 3), graph };
    encode(&network, BatchNorms::Kept).unwrap()
}

#[tokio::test]
async fn it_is_imported_pruned_and_served() {
    let mut scene = Scene::start().await;
    let bytes = file(4);
    let imported = scene.operator.import("gate", bytes.clone()).await.unwrap();
    let model = imported.model.unwrap();
    assert!(!imported.unchanged && model.notes.is_empty(), "{model:?}");
    assert_eq!(model.digest, Digest::of(&bytes).to_string());
    scene.coordinator.kill9().unwrap();
    scene.coordinator.restart().await.unwrap();
    scene.operator = scene.coordinator.operator().unwrap();
    assert!(scene.operator.import("gate", bytes).await.unwrap().unchanged, "it outlived the kill");

    let _agent = scene.agent("one", scene.coordinator.address()).await;
    let mut manifest = scene.manifest(vec![params("one", "1/16.21")]);
    manifest.spec.network = "gate".to_owned();
    let deployment = scene.complete(&manifest).await;
    let outcome = &deployment.devices[0];
    assert_eq!(deployment.active, 1, "{outcome:?}");
    assert!(outcome.planned.unwrap().params <= model.params / 16, "{outcome:?}");
}

#[tokio::test]
async fn a_wrong_one_is_refused_and_nothing_is_kept() {
    let scene = Scene::start().await;
    let refusal = async |name: &str, bytes: Vec<u8>| {
        format!("{:#}", scene.operator.import(name, bytes).await.unwrap_err())
    };
    let zoo = scene.operator.models().await.unwrap().len();
    assert!(refusal("resnet20", file(4)).await.contains("'resnet20' is a network of the zoo"));
    assert!(refusal("No Name", file(4)).await.contains("'No Name' is not 1 to 63 of a-z 0-9 - ."));
    let mut truncated = file(4);
    truncated.truncate(truncated.len() / 2);
    let text = refusal("gate", truncated).await;
    assert!(text.contains("no network that can be imported"), "{text}");
    assert_eq!(scene.operator.models().await.unwrap().len(), zoo, "nothing was kept of them");
    scene.operator.import("gate", file(4)).await.unwrap();
    let text = refusal("gate", file(7)).await;
    assert!(text.contains("'gate' is another file"), "{text}");

    scene.operator.import("seven", file(7)).await.unwrap();
    let mut manifest = scene.manifest(vec![params("one", "1/4")]);
    manifest.spec.network = "seven".to_owned();
    let text = format!("{:#}", scene.operator.plan(&yaml(&manifest)).await.unwrap_err());
    assert!(text.contains("tells 7 classes apart, but the data set has"), "{text}");
    let _agent = scene.agent("one", scene.coordinator.address()).await;
    let generation = scene.apply(&manifest).await;
    let error = scene.operator.completed(DEPLOYMENT, generation, LIMIT).await.unwrap_err();
    assert!(format!("{error:#}").contains("7 classes"), "{error:#}");
}
