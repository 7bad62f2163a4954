//! What was written is read, and nothing else is taken for it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Files = Vec<(String, Vec<u8>)>;

fn manifest(files: &Files) -> Manifest {
    let member = |(name, bytes): &(String, Vec<u8>)| Member {
        name: name.parse().unwrap(),
        size: bytes.len() as u64,
        sha256: Digest::of(bytes),
        records: 1,
    };
    let files = files.iter().map(member).collect();
    Manifest { files, ..Manifest::new(1_795_845_600_123, 1, true) }
}

fn written(manifest: &Manifest, files: &Files) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes: BTreeMap<Name, &Vec<u8>> =
        files.iter().map(|(name, bytes)| (name.parse().unwrap(), bytes)).collect();
    write(manifest, &mut out, |file| Ok(bytes[&file.name].as_slice())).unwrap();
    out
}

fn small() -> (Files, Vec<u8>) {
    let model = b"a model".to_vec();
    let files = vec![
        ("records/device".to_owned(), b"\x01{\"id\":\"gw-1\"}".to_vec()),
        (format!("artifacts/{}", Digest::of(&model)), model),
        ("state/signing-key.p8".to_owned(), vec![7; 600]),
        ("authority/ca.pem".to_owned(), Vec::new()),
    ];
    let bytes = written(&manifest(&files), &files);
    (files, bytes)
}

fn refused(bytes: &[u8]) -> String {
    crate::causes::chain(&read(bytes, |_| Ok(io::sink())).unwrap_err())
}

#[test]
fn every_bit_and_every_byte_counts() {
    let (files, whole) = small();
    let found = read(whole.as_slice(), |_| Ok(io::sink())).unwrap().0;
    assert_eq!(found, manifest(&files));
    assert_eq!(found.length(), whole.len() as u64);
    for length in 0..whole.len() {
        let problem = refused(&whole[..length]);
        let known = length >= SEAL.len();
        assert_eq!(problem.contains("it is cut off"), known, "{length}: {problem}");
    }
    let mut damaged = whole.clone();
    for at in 0..whole.len() {
        for bit in 0..8 {
            damaged[at] ^= 1 << bit;
            assert!(read(damaged.as_slice(), |_| Ok(io::sink())).is_err(), "bit {bit} of byte {at}");
            damaged[at] = whole[at];
        }
    }
    damaged.push(0);
    assert!(refused(&damaged).contains("something follows its end"));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let (files, whole) = small();
    assert!(refused(b"PK\x03\x04 something else").contains("it is no backup of a coordinator"));
    assert!(refused(b"").contains("it is no backup of a coordinator"));
    let find = |text: &[u8]| whole.windows(text.len()).position(|window| window == text).unwrap();
    let mut damaged = whole.clone();
    damaged[find(b"a model") + 2] = b'x';
    let problem = refused(&damaged);
    assert!(problem.contains(&format!("{} has another digest, between bytes", files[1].0)), "{problem}");
    // A later version says so, though its manifest has other fields.
    let json = br#"{"version": 2, "compressed": true}"#;
    let mut later = Vec::new();
    for (name, bytes) in [(SEAL, digest_line(Digest::of(json)).into_bytes()), (MANIFEST, json.to_vec())] {
        later.extend(header(name, bytes.len() as u64, 0).unwrap().as_bytes());
        later.extend(&bytes);
        later.extend(padding(bytes.len() as u64));
    }
    assert!(refused(&later).contains("it has version 2 of the format"), "{}", refused(&later));
}

#[test]
fn a_manifest_that_lies_is_refused_though_it_is_sealed() {
    let (files, _) = small();
    let seal_of = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut value = serde_json::to_value(manifest(&files)).unwrap();
        edit(&mut value);
        let json = serde_json::to_vec_pretty(&value).unwrap();
        let mut out = Vec::new();
        for (name, bytes) in [(SEAL, digest_line(Digest::of(&json)).into_bytes()), (MANIFEST, json.clone())] {
            out.extend(header(name, bytes.len() as u64, 1_795_845_600_123).unwrap().as_bytes());
            out.extend(&bytes);
            out.extend(padding(bytes.len() as u64));
        }
        for (name, bytes) in &files {
            out.extend(header(name, bytes.len() as u64, 1_795_845_600_123).unwrap().as_bytes());
            out.extend(bytes);
            out.extend(padding(bytes.len() as u64));
        }
        out.extend([0; 1024]);
        refused(&out)
    };
    let climbs = seal_of(&|value| value["files"][3]["name"] = "authority/../../etc/cron.d/x".into());
    assert!(climbs.contains("a backup has no file"), "{climbs}");
    let longer = seal_of(&|value| value["files"][0]["size"] = 1_u64.wrapping_shl(50).into());
    assert!(longer.contains("the header of records/device"), "{longer}");
    let twice = seal_of(&|value| value["files"][1] = value["files"][0].clone());
    assert!(twice.contains("is in it twice"), "{twice}");
    let other = seal_of(&|value| value["files"][1]["sha256"] = Digest::of(b"y").to_string().into());
    assert!(other.contains("is said to have the digest"), "{other}");
    let unknown = seal_of(&|value| value["compressed"] = true.into());
    assert!(unknown.contains("unknown field"), "{unknown}");
}

#[test]
fn a_file_that_changed_while_it_was_read_makes_no_backup() {
    let (files, _) = small();
    let manifest = manifest(&files);
    for bytes in [&b""[..], b"longer than it was said to be"] {
        let error = write(&manifest, &mut Vec::new(), |_| Ok(bytes)).unwrap_err();
        assert!(error.to_string().contains("changed while it was read"), "{error}");
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read(
        kinds in prop::collection::btree_map("[a-z0-9][a-z0-9_.-]{0,20}", prop::collection::vec(any::<u8>(), 0..1500), 0..5),
    ) {
        let files: Files = kinds.into_iter().map(|(kind, bytes)| (format!("records/{kind}"), bytes)).collect();
        let manifest = manifest(&files);
        let mut back: Vec<(String, std::rc::Rc<std::cell::RefCell<Vec<u8>>>)> = Vec::new();
        struct Shared(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.borrow_mut().extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let found = read(written(&manifest, &files).as_slice(), |file| {
            let bytes = std::rc::Rc::default();
            back.push((file.name.to_string(), std::rc::Rc::clone(&bytes)));
            Ok(Shared(bytes))
        });
        prop_assert_eq!(found.unwrap().0, manifest);
        let back: Files = back.into_iter().map(|(name, bytes)| (name, bytes.borrow().clone())).collect();
        prop_assert_eq!(back, files);
    }

    #[test]
    fn records_come_back(
        all in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..200)), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        use crate::backup::records;
        let mut bytes = Vec::new();
        for (key, value) in &all {
            records::put(&mut bytes, key, value).unwrap();
        }
        let mut input = bytes.as_slice();
        for record in &all {
            let found = records::next(&mut input).unwrap();
            prop_assert_eq!(found.as_ref(), Some(record));
        }
        prop_assert_eq!(records::next(&mut input).unwrap(), None);
        // A part is never taken for more than it is.
        let mut part = &bytes[..cut.index(bytes.len() + 1)];
        let whole = std::iter::from_fn(|| records::next(&mut part).ok().flatten()).count();
        prop_assert!(whole <= all.len());
    }
}
