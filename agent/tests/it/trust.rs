//! Assignments that this device must not follow, whoever sends them.

use proto::SigningKey;

use crate::device::Device;
use crate::fake::{Fake, File};
use crate::model::Model;
use crate::session::{answers_as, beats_with, ending, holding};

fn key() -> SigningKey {
    SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_first_coordinators_assignments_for_this_device_are_followed() {
    let (old, new) = (Model::of_seed(1), Model::of_seed(2));
    let mut fake = Fake::start().await;
    for model in [&old, &new] {
        fake.serve_file(model.digest(), File::whole(&model.bytes));
    }
    let document = SigningKey::generate().unwrap();
    fake.sign_with(SigningKey::from_pkcs8(&document).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    fake.assign(old.assignment(1)).await;
    assert_eq!(ending(&mut fake, 1).await, Ok(()));

    let mut foreign = new.assignment(2);
    foreign.device = "gw-2".parse().unwrap();
    fake.assign(foreign).await;
    let reason = ending(&mut fake, 2).await.unwrap_err();
    assert_eq!(reason, "the assignment is for gw-2, not for this device");

    fake.sign_with(key());
    fake.assign(new.assignment(3)).await;
    let reason = ending(&mut fake, 3).await.unwrap_err();
    assert_eq!(reason, "the assignment is refused: it is not signed by a key that this device trusts");
    device.stop().await;

    // A coordinator that announces another key is another coordinator, after a restart too.
    fake.forget();
    let device = Device::start(dir.path().to_owned(), fake.address).await;
    assert!(ending(&mut fake, 3).await.unwrap_err().contains("not signed by a key that this device trusts"));
    beats_with(&fake, holding(&old, 1)).await;
    device.ready().await;
    answers_as(&device, &old, 1).await;
    assert!(fake.offsets(new.digest()).is_empty(), "not a byte of it was fetched");

    fake.sign_with(SigningKey::from_pkcs8(&document).unwrap());
    fake.assign(new.assignment(4)).await;
    assert_eq!(ending(&mut fake, 4).await, Ok(()));
    answers_as(&device, &new, 1).await;
    device.stop().await;
}
