//! A dataset that was given a name: a deployment that says the name means the files, also after a crash.

use coordinator::manifest::DatasetRef;

use crate::scene::{Scene, params, yaml};

#[tokio::test]
async fn a_name_stands_for_the_files() {
    let mut scene = Scene::start().await;
    let added = scene.operator.add_dataset("patterns", &scene.dataset()).await.unwrap();
    let dataset = added.dataset.unwrap();
    assert!(!added.unchanged);
    assert_eq!((dataset.format.as_str(), dataset.input_shape), ("idx", vec![1, 12, 12]));
    assert_eq!((dataset.train_images, dataset.test_images), (768, 200));
    scene.coordinator.kill9().unwrap();
    scene.coordinator.restart().await.unwrap();
    scene.operator = scene.coordinator.operator().unwrap();
    assert!(scene.operator.add_dataset("patterns", &scene.dataset()).await.unwrap().unchanged);

    let files = yaml(&scene.manifest(vec![params("one", "1/4")]));
    let meant = |name: &str| {
        let named = DatasetRef::Named { name: name.to_owned() };
        serde_saphyr::to_string(&scene.manifest(vec![params("one", "1/4")]).with_dataset(named)).unwrap()
    };
    assert_eq!(scene.operator.apply(&files).await.unwrap().result, "created");
    let again = scene.operator.apply(&meant("patterns")).await.unwrap();
    assert_eq!(again.result, "unchanged", "the name says what the files said");
    let refusal = format!("{:#}", scene.operator.apply(&meant("pattern")).await.unwrap_err());
    assert!(
        refusal.contains("spec.dataset.name: 'pattern' is no dataset's name; known: patterns"),
        "{refusal}"
    );
}
