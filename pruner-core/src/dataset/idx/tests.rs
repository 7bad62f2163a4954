//! Files written here, whole and spoiled in every way that the reader must name.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::graph::Shape;

/// A folder under the system's own that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pruner-core-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let folder = Self(dir);
        folder.put(TRAIN[0], &images(3, 2, 2, &[0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255]));
        folder.put(TRAIN[1], &labels(&[0, 1, 2]));
        folder.put(TEST[0], &images(1, 2, 2, &[1, 2, 3, 4]));
        folder.put(TEST[1], &labels(&[3]));
        folder
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }

    fn put_gz(&self, name: &str, bytes: &[u8], cut: usize) {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        let bytes = encoder.finish().unwrap();
        fs::remove_file(self.0.join(name)).unwrap();
        self.put(&format!("{name}.gz"), &bytes[..bytes.len() - cut]);
    }

    /// The error's text, the folder's own path left out.
    fn error(&self) -> String {
        read_idx(&self.0).unwrap_err().to_string().replace(&self.0.display().to_string(), "DIR")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn images(count: u32, rows: u32, columns: u32, pixels: &[u8]) -> Vec<u8> {
    let words = [0x0803, count, rows, columns].map(u32::to_be_bytes).concat();
    [&words, pixels].concat()
}

fn labels(labels: &[u8]) -> Vec<u8> {
    [&0x0801u32.to_be_bytes()[..], &(labels.len() as u32).to_be_bytes(), labels].concat()
}

#[test]
fn reads_plain_and_gzipped_files() {
    let folder = Folder::new("whole");
    folder.put_gz(TRAIN[0], &images(3, 2, 2, &[0, 255, 0, 255, 0, 255, 0, 255, 0, 255, 0, 255]), 0);
    let dataset = read_idx(&folder.0).unwrap();
    assert_eq!((dataset.shape, dataset.classes), (Shape::new(1, 2, 2), 4));
    assert_eq!((dataset.train.len(), dataset.test.len()), (3, 1));
    assert_eq!((dataset.mean[0], dataset.std[0]), (0.5, 0.5));
    assert_eq!((dataset.test.pixels(0), dataset.test.label(0)), (&[1, 2, 3, 4][..], 3));
    let mut out = [0.0; 4];
    dataset.normalise(dataset.train.pixels(2), &mut out);
    assert_eq!(out, [-1.0, 1.0, -1.0, 1.0]);
    assert_eq!(dataset.train.take(2).len(), 2);
    assert_eq!(dataset.train.take(9).len(), 3);
}

#[test]
fn missing_files_are_listed() {
    let folder = Folder::new("missing");
    fs::remove_file(folder.0.join(TRAIN[1])).unwrap();
    fs::remove_file(folder.0.join(TEST[0])).unwrap();
    let error = folder.error();
    assert!(
        error.starts_with("no dataset in DIR: train-labels-idx1-ubyte, t10k-images-idx3-ubyte not found;"),
        "{error}"
    );
}

#[test]
fn spoiled_files_are_named_with_the_byte() {
    let folder = Folder::new("spoiled");
    let cases: [(&str, Vec<u8>, &str); 7] = [
        (
            TRAIN[0],
            labels(&[1, 2, 3]),
            "expected an IDX images file's magic 0x00000803 at byte 0 of its content, found 0x00000801",
        ),
        (
            TRAIN[0],
            images(3, 2, 2, &[0; 11]),
            "expected 1 more bytes (28 in all) at byte 27 of its content, found the end of the file",
        ),
        (
            TRAIN[0],
            images(3, 2, 2, &[0; 13]),
            "expected the end of the file at byte 28 of its content, found more bytes",
        ),
        (
            TRAIN[0],
            images(3, 0, 2, &[]),
            "expected a number of rows of at least 1 at byte 8 of its content, found 0",
        ),
        (
            TRAIN[0],
            images(u32::MAX, u32::MAX, u32::MAX, &[]),
            "expected dimensions of at most 1073741824 bytes at byte 4 of its content, found 4294967295 x 4294967295 x 4294967295",
        ),
        (
            TRAIN[0],
            vec![0, 0, 8, 3, 0],
            "expected number of images at byte 4 of its content, found the end of the file",
        ),
        (
            TEST[1],
            vec![],
            "expected an IDX labels file's magic 0x00000801 at byte 0 of its content, found the end of the file",
        ),
    ];
    for (name, bytes, expected) in cases {
        let whole = fs::read(folder.0.join(name)).unwrap();
        folder.put(name, &bytes);
        assert_eq!(folder.error(), format!("DIR/{name}: {expected}"));
        folder.put(name, &whole);
    }
}

#[test]
fn a_cut_gzip_file_is_an_error() {
    let folder = Folder::new("cut");
    let pixels: Vec<u8> = (0..=255).cycle().take(3 * 40 * 40).map(|x: u8| x.wrapping_mul(x)).collect();
    folder.put_gz(TRAIN[0], &images(3, 40, 40, &pixels), 12);
    let error = folder.error();
    assert!(error.starts_with("DIR/train-images-idx3-ubyte.gz: expected"), "{error}");
    assert!(error.ends_with("found the end of the file"), "{error}");
}

#[test]
fn a_gzip_file_that_holds_less_or_more_than_it_says_is_an_error() {
    let folder = Folder::new("lying");
    folder.put_gz(TRAIN[0], &images(1 << 20, 2, 2, &[0; 12]), 0);
    assert_eq!(
        folder.error(),
        "DIR/train-images-idx3-ubyte.gz: expected 4194292 more bytes (4194320 in all) at byte 28 of its content, found the end of the file"
    );
}

#[test]
fn splits_must_agree() {
    let folder = Folder::new("disagree");
    folder.put(TRAIN[1], &labels(&[0, 1]));
    assert_eq!(
        folder.error(),
        "DIR/train-labels-idx1-ubyte has 2 labels for the 3 images of DIR/train-images-idx3-ubyte"
    );
    folder.put(TRAIN[1], &labels(&[0, 1, 2]));
    folder.put(TEST[0], &images(1, 1, 4, &[0; 4]));
    assert_eq!(folder.error(), "in DIR, training images are 1x2x2 but test images 1x1x4");
}

#[test]
fn an_outline_keeps_no_image_and_misses_none() {
    let folder = Folder::new("outline");
    assert_eq!(outline(&folder.0).unwrap(), (Shape::new(1, 2, 2), 4));
    let read = read_idx(&folder.0).unwrap();
    assert_eq!((read.shape, read.classes), (Shape::new(1, 2, 2), 4));
    // Where something is cut off, both say the same.
    let whole = images(3, 2, 2, &[0; 12]);
    for cut in [0, 3, 20, whole.len() - 1] {
        folder.put(TRAIN[0], &whole[..cut]);
        let outlined = outline(&folder.0).unwrap_err().to_string();
        assert_eq!(outlined, read_idx(&folder.0).unwrap_err().to_string());
    }
    folder.put_gz(TRAIN[0], &whole, 0);
    assert_eq!(outline(&folder.0).unwrap(), (Shape::new(1, 2, 2), 4));
    folder.put(TRAIN[0], &[]);
    folder.put_gz(TRAIN[0], &whole, 9);
    let outlined = outline(&folder.0).unwrap_err().to_string();
    assert_eq!(outlined, read_idx(&folder.0).unwrap_err().to_string());
}
