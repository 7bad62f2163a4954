//! Small files of the right form, and each spoiled in a way that the reader must name.

use tempfile::TempDir;

use super::*;

fn record(labels: &[u8], red: u8) -> Vec<u8> {
    let mut bytes = labels.to_vec();
    for value in [red, 100, 200] {
        bytes.extend([value; 1024]);
    }
    bytes
}

fn put(dir: &TempDir, name: &str, bytes: &[u8]) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn cifar10(at: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (index, name) in CIFAR10.train.iter().enumerate() {
        put(&dir, &format!("{at}{name}"), &record(&[index as u8], index as u8 * 10));
    }
    put(&dir, &format!("{at}test_batch.bin"), &[record(&[7], 0), record(&[3], 1)].concat());
    dir
}

fn cifar100() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(&dir, "train.bin", &[record(&[19, 99], 1), record(&[0, 42], 2)].concat());
    put(&dir, "test.bin", &record(&[1, 5], 3));
    dir
}

fn error(dir: &TempDir, read: fn(&Path) -> Result<Dataset, DatasetError>) -> String {
    read(dir.path()).unwrap_err().to_string().replace(&dir.path().display().to_string(), "DIR")
}

#[test]
fn batches_follow_one_another() {
    for at in ["", "cifar-10-batches-bin/"] {
        let dataset = read_cifar10(cifar10(at).path()).unwrap();
        assert_eq!((dataset.shape, dataset.classes), (SHAPE, 10));
        assert_eq!((dataset.train.len(), dataset.test.len()), (5, 2));
        assert_eq!((dataset.train.label(4), dataset.test.label(0)), (4, 7));
        let pixels = dataset.train.pixels(4);
        assert_eq!((pixels[0], pixels[1023], pixels[1024], pixels[3071]), (40, 40, 100, 200));
        assert_eq!(dataset.class_names, [""; 0]);
    }
}

#[test]
fn fine_labels_are_used() {
    let dataset = read_cifar100(cifar100().path()).unwrap();
    assert_eq!((dataset.classes, dataset.train.len(), dataset.test.len()), (100, 2, 1));
    assert_eq!((dataset.train.label(0), dataset.train.label(1), dataset.test.label(0)), (99, 42, 5));
    assert_eq!(dataset.train.pixels(1)[0], 2);
}

#[test]
fn names_are_read_where_they_are() {
    let dir = cifar10("");
    let names: Vec<String> = (0..10).map(|class| format!("kind {class}")).collect();
    put(&dir, "batches.meta.txt", format!("{}\n\n", names.join("\n")).as_bytes());
    assert_eq!(read_cifar10(dir.path()).unwrap().class_names, names);
    put(&dir, "batches.meta.txt", b"cat\ndog\n");
    assert_eq!(
        error(&dir, read_cifar10),
        "DIR/batches.meta.txt: expected 10 names, one a line, at byte 8 of its content, found 2 in the file"
    );
}

#[test]
fn missing_files_are_listed() {
    let dir = cifar10("cifar-10-batches-bin/");
    for name in ["data_batch_2.bin", "test_batch.bin"] {
        fs::remove_file(dir.path().join("cifar-10-batches-bin").join(name)).unwrap();
    }
    assert_eq!(
        error(&dir, read_cifar10),
        "no dataset in DIR/cifar-10-batches-bin: data_batch_2.bin, test_batch.bin not found; the folder must hold \
         data_batch_1.bin to data_batch_5.bin and test_batch.bin (CIFAR-10, binary version), by themselves or in \
         cifar-10-batches-bin"
    );
}

#[test]
fn spoiled_files_are_named_with_the_byte() {
    let at_end = "found the end of the file";
    for (bytes, expected) in [
        (vec![], format!("expected a record of 3073 bytes at byte 0 of its content, {at_end}")),
        (
            record(&[1], 0)[..3000].to_vec(),
            format!("expected 73 more bytes (records are of 3073) at byte 3000 of its content, {at_end}"),
        ),
        (
            [record(&[1], 0), vec![2]].concat(),
            format!("expected 3072 more bytes (records are of 3073) at byte 3074 of its content, {at_end}"),
        ),
        (
            [record(&[9], 0), record(&[10], 0)].concat(),
            "expected a label from 0 to 9 at byte 3073 of its content, found 10".to_owned(),
        ),
    ] {
        let dir = cifar10("");
        put(&dir, "data_batch_3.bin", &bytes);
        assert_eq!(error(&dir, read_cifar10), format!("DIR/data_batch_3.bin: {expected}"));
    }
    for (labels, expected) in [
        ([20, 0], "expected a coarse label from 0 to 19 at byte 3074 of its content, found 20"),
        ([0, 100], "expected a fine label from 0 to 99 at byte 3075 of its content, found 100"),
    ] {
        let dir = cifar100();
        put(&dir, "test.bin", &[record(&[0, 0], 0), record(&labels, 0)].concat());
        assert_eq!(error(&dir, read_cifar100), format!("DIR/test.bin: {expected}"));
    }
}

#[test]
fn an_outline_says_what_is_cut_off_as_reading_does() {
    let dir = cifar10("");
    assert_eq!(CIFAR10.outline(dir.path()).unwrap(), (SHAPE, 10));
    for cut in [0, 1, 3072] {
        put(&dir, "data_batch_4.bin", &record(&[1], 1)[..cut]);
        let outlined = CIFAR10.outline(dir.path()).unwrap_err().to_string();
        assert_eq!(outlined, read_cifar10(dir.path()).unwrap_err().to_string());
    }
    fs::remove_file(dir.path().join("data_batch_4.bin")).unwrap();
    let outlined = CIFAR10.outline(dir.path()).unwrap_err().to_string();
    assert_eq!(outlined, read_cifar10(dir.path()).unwrap_err().to_string());
}

#[test]
fn a_file_that_is_far_too_long_is_not_read() {
    let dir = cifar100();
    File::create(dir.path().join("train.bin")).unwrap().set_len(MOST_BYTES + 1).unwrap();
    assert_eq!(
        CIFAR100.outline(dir.path()).unwrap_err().to_string(),
        read_cifar100(dir.path()).unwrap_err().to_string()
    );
    assert_eq!(
        error(&dir, read_cifar100),
        "DIR/train.bin: expected at most 1073741824 bytes at byte 0 of its content, found a file of 1073741825"
    );
}
