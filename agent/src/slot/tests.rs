//! Updates that are cut short after every step, and what serves afterwards.

use std::fs;

use proto::{ArtifactRef, ByteSize, SelfTest};

use super::*;

fn installed(generation: u64, bytes: &[u8]) -> Installed {
    Installed {
        probation: Default::default(),
        generation: Generation(generation),
        deployment: "fashion".into(),
        model: ModelManifest {
            name: "fashion".into(),
            artifact: ArtifactRef { digest: Digest::of(bytes), size: ByteSize(bytes.len() as u64) },
            input_shape: [1, 1, 1],
            mean: vec![0.5],
            std: vec![0.25],
            classes: 1,
            self_test: SelfTest { input: vec![0.0], output: vec![0.0], tolerance: 1e-3 },
        },
    }
}

struct Device {
    dir: tempfile::TempDir,
    state: StateDir,
}

impl Device {
    /// Generation 1, bytes `one`, is active in slot A.
    fn with_one() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        state.prepare().unwrap();
        let device = Self { dir, state };
        let mut slots = device.slots();
        let slot = slots.install(&device.staged(b"one"), installed(1, b"one")).unwrap();
        slots.activate(slot).unwrap();
        device
    }

    fn slots(&self) -> Slots {
        Slots::read(&self.state)
    }

    fn staged(&self, bytes: &[u8]) -> PathBuf {
        let path = self.state.staging().join(Digest::of(bytes).to_string());
        fs::write(&path, bytes).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serves(&self, generation: u64, bytes: &[u8]) {
        let slots = self.slots();
        let best = slots.candidates()[0];
        assert_eq!(slots.installed(best).unwrap().generation, Generation(generation));
        assert_eq!(slots.model_bytes(best).unwrap().unwrap(), bytes);
    }
}

#[test]
fn an_empty_device_has_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let slots = Slots::read(&StateDir::open(dir.path()).unwrap());
    assert!(slots.active().is_none() && slots.candidates().is_empty());
    assert_eq!(slots.inactive_slot(), Slot::A);
}

#[test]
fn an_update_survives_a_crash_after_every_step() {
    // Each step is what `install` and `activate` do to the disk, in their order; a restart looks after each.
    let json = serde_json::to_vec(&installed(2, b"two")).unwrap();
    type Step<'a> = (&'a str, &'a dyn Fn(&Device));
    let steps: [Step; 5] = [
        ("manifest half written", &|d| fs::write(d.path("slots/b/manifest.new"), &json[..9]).unwrap()),
        ("manifest there", &|d| fs::write(d.path("slots/b/manifest.json"), &json).unwrap()),
        ("model there", &|d| fs::rename(d.staged(b"two"), d.path("slots/b/model.onnx")).unwrap()),
        ("pointer half written", &|d| fs::write(d.path("active.new"), b"").unwrap()),
        ("pointer there", &|d| fs::write(d.path("active"), b"b").unwrap()),
    ];
    let device = Device::with_one();
    for (index, (name, step)) in steps.iter().enumerate() {
        step(&device);
        match index {
            4 => device.serves(2, b"two"),
            _ => device.serves(1, b"one"),
        }
        let other_is_whole = device.slots().installed(Slot::B).is_some();
        assert_eq!(other_is_whole, index >= 2, "{name}");
    }
}

#[test]
fn an_update_over_an_old_model_never_mixes_the_two() {
    let device = Device::with_one();
    let mut slots = device.slots();
    let slot = slots.install(&device.staged(b"two"), installed(2, b"two")).unwrap();
    slots.activate(slot).unwrap();
    // Generation 3 goes into slot A, over "one": after the manifest the old bytes do not match it.
    fs::write(device.path("slots/a/manifest.json"), serde_json::to_vec(&installed(3, b"three")).unwrap())
        .unwrap();
    assert!(device.slots().installed(Slot::A).is_none());
    device.serves(2, b"two");
}

#[test]
fn a_damaged_active_slot_falls_back_to_the_other() {
    for damage in [&b""[..], b"tw0", b"two and more"] {
        let device = Device::with_one();
        let mut slots = device.slots();
        let slot = slots.install(&device.staged(b"two"), installed(2, b"two")).unwrap();
        slots.activate(slot).unwrap();
        device.serves(2, b"two");
        fs::write(device.path("slots/b/model.onnx"), damage).unwrap();
        assert!(device.slots().active().is_none());
        device.serves(1, b"one");
    }
}

#[test]
fn a_lost_or_senseless_pointer_means_the_newest_intact_slot() {
    for pointer in [None, Some(&b"z"[..]), Some(b"")] {
        let device = Device::with_one();
        let mut slots = device.slots();
        slots.install(&device.staged(b"two"), installed(2, b"two")).unwrap();
        match pointer {
            Some(text) => fs::write(device.path("active"), text).unwrap(),
            None => fs::remove_file(device.path("active")).unwrap(),
        }
        let mut slots = device.slots();
        assert_eq!((slots.active_slot(), slots.candidates()), (Some(Slot::B), vec![Slot::B, Slot::A]));
        assert_eq!(slots.damage().len(), usize::from(pointer.is_some()));
        slots.settle().unwrap();
        assert_eq!(fs::read(device.path("active")).unwrap(), b"b");
    }
    let device = Device::with_one();
    fs::write(device.path("slots/a/model.onnx"), b"0ne").unwrap();
    let mut slots = device.slots();
    slots.settle().unwrap();
    assert_eq!((slots.active_slot(), fs::read(device.path("active")).unwrap()), (None, b"a".to_vec()));
}

#[test]
fn bytes_of_the_other_slot_serve_again_under_a_new_generation() {
    let device = Device::with_one();
    let mut slots = device.slots();
    let slot = slots.install(&device.staged(b"two"), installed(2, b"two")).unwrap();
    slots.activate(slot).unwrap();
    let slot = slots.adopt(installed(3, b"one")).unwrap();
    assert_eq!(slot, Slot::A);
    device.serves(2, b"two");
    slots.activate(slot).unwrap();
    device.serves(3, b"one");
}

#[test]
fn what_the_disk_cannot_read_is_as_good_as_not_there() {
    let device = Device::with_one();
    let mut slots = device.slots();
    let two = slots.install(&device.staged(b"two"), installed(2, b"two")).unwrap();
    slots.activate(two).unwrap();
    // A folder in its place is refused by every read, as a bad block is.
    for broken in ["slots/b/manifest.json", "active"] {
        let path = device.dir.path().join(broken);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
    }
    let slots = device.slots();
    assert_eq!(slots.active_slot(), Some(Slot::A));
    assert_eq!(slots.candidates(), [Slot::A]);
    assert_eq!(slots.installed(Slot::A).map(Installed::digest), Some(Digest::of(b"one")));
    let [manifest, pointer] = slots.damage() else { panic!("{:?}", slots.damage()) };
    assert!(manifest.starts_with("slot b: ") && pointer.ends_with("/active: it is a folder"), "{pointer}");
}

#[test]
fn what_is_damaged_is_said() {
    type Blow<'a> = (&'a str, &'a dyn Fn(&Device));
    let blows: [Blow; 8] = [
        ("slot a: its model is not the one that its manifest names", &|d| {
            fs::write(d.path("slots/a/model.onnx"), b"two").unwrap();
        }),
        ("slot a: its model has 9 bytes, its manifest says 3", &|d| {
            fs::write(d.path("slots/a/model.onnx"), b"nine byte").unwrap();
        }),
        ("slot a: its model is missing", &|d| fs::remove_file(d.path("slots/a/model.onnx")).unwrap()),
        ("slot a: its manifest is not sound: ", &|d| {
            fs::write(d.path("slots/a/manifest.json"), b"{").unwrap()
        }),
        ("slots/a/model.onnx: it is no regular file", &|d| {
            let model = d.path("slots/a/model.onnx");
            fs::remove_file(&model).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&model).status().unwrap().success());
        }),
        ("slots/a/model.onnx: it is a folder", &|d| {
            fs::remove_file(d.path("slots/a/model.onnx")).unwrap();
            fs::create_dir(d.path("slots/a/model.onnx")).unwrap();
        }),
        ("slots/a/model.onnx: it is a link to a file that does not exist", &|d| {
            fs::remove_file(d.path("slots/a/model.onnx")).unwrap();
            std::os::unix::fs::symlink("nowhere", d.path("slots/a/model.onnx")).unwrap();
        }),
        ("it is a folder", &|d| {
            fs::remove_file(d.path("slots/a/manifest.json")).unwrap();
            fs::create_dir(d.path("slots/a/manifest.json")).unwrap();
        }),
    ];
    assert!(Device::with_one().slots().damage().is_empty(), "an empty slot is none");
    for (expected, blow) in blows {
        let device = Device::with_one();
        blow(&device);
        let slots = device.slots();
        let [damage] = slots.damage() else { panic!("{expected}: {:?}", slots.damage()) };
        assert!(damage.contains(expected), "{damage}");
        assert!(slots.candidates().is_empty());
    }
}
