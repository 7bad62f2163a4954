//! A disk that takes no more writes of the coordinator's store, in the middle of its work: what it acknowledged is there after the restart
//! that it asks for by ending.

use fleet_tests::tracer::{Tracer, may_trace};

use crate::scene::{DEPLOYMENT, Scene, ended, yaml};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_whose_disk_refuses_a_write_ends_and_has_what_it_acknowledged() {
    if !may_trace().unwrap() {
        return;
    }
    let mut scene = Scene::start().await;
    let mut manifest = scene.manifest(Vec::new());
    let first = scene.apply(&manifest).await;
    let store = scene.coordinator.state_dir().join("store/db");
    let disk =
        Tracer::refuse(scene.coordinator.pid(), &store, "pwrite64,fdatasync,sync_file_range", "ENOSPC");
    let disk = disk.await.unwrap();
    manifest.spec.training.epochs += 1;
    // Whichever write is refused first: another one may have ended it already.
    scene.operator.apply(&yaml(&manifest)).await.unwrap_err();
    let status = ended(scene.coordinator.daemon()).await;
    assert!(!status.success(), "{status}: nobody would start it again");
    drop(disk);
    scene.coordinator.restart().await.unwrap();
    let kept = scene.operator.deployment(DEPLOYMENT).await.unwrap().unwrap();
    assert_eq!(kept.generation, first);
    assert_eq!(scene.apply(&manifest).await, first + 1);
}
