//! The IDX format: a magic number, big-endian dimensions, then bytes. Files are not trusted: sizes are checked
//! before memory is taken, and a file must hold exactly what its header says.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{Dataset, DatasetError, Split};
use crate::graph::Shape;

/// Most bytes of one file's content: 20 times Fashion-MNIST's images.
const MOST_BYTES: u64 = 1 << 30;
/// Unsigned bytes in one dimension.
const LABELS: u32 = 0x0801;
/// Unsigned bytes in three dimensions.
const IMAGES: u32 = 0x0803;

const TRAIN: [&str; 2] = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"];
const TEST: [&str; 2] = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
const EXPECTED: &str = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and \
                        t10k-labels-idx1-ubyte, each plain or as .gz";

/// Whether any of the files is there.
pub(super) fn is_in(dir: &Path) -> bool {
    TRAIN.into_iter().chain(TEST).any(|name| find(dir, name).is_some())
}

/// Reads the four IDX files of MNIST's or Fashion-MNIST's layout from `dir`, each plain or gzipped (`.gz`).
/// Errors name the file, the byte, and what was expected there.
pub fn read_idx(dir: &Path) -> Result<Dataset, DatasetError> {
    let found = TRAIN.into_iter().chain(TEST).map(|name| (name, find(dir, name)));
    let missing: Vec<&str> = found.filter(|(_, path)| path.is_none()).map(|(name, _)| name).collect();
    if !missing.is_empty() {
        return Err(absent(dir, missing.join(", ")));
    }
    let (shape, train) = read_split(dir, TRAIN)?;
    let (test_shape, test) = read_split(dir, TEST)?;
    if test_shape != shape {
        return Err(DatasetError::Shapes { dir: dir.to_owned(), train: shape, test: test_shape });
    }
    Ok(Dataset::new(shape, train, test))
}

/// The images' shape and the number of classes, by all labels and the images to test on, which are the fewer ones.
pub(super) fn outline(dir: &Path) -> Result<(Shape, usize), DatasetError> {
    let (shape, test) = read_split(dir, TEST)?;
    let train = find(dir, TRAIN[1]).ok_or_else(|| absent(dir, TRAIN[1].to_owned()))?;
    let largest = read_labels(&train)?.into_iter().chain(test.labels.iter().copied()).max();
    Ok((shape, (usize::from(largest.unwrap_or(0)) + 1).max(2)))
}

fn absent(dir: &Path, missing: String) -> DatasetError {
    DatasetError::Missing { dir: dir.to_owned(), missing, expected: EXPECTED }
}

/// The file of that name, plain before gzipped.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    [dir.join(name), dir.join(format!("{name}.gz"))].into_iter().find(|path| path.is_file())
}

fn read_split(dir: &Path, [images, labels]: [&str; 2]) -> Result<(Shape, Split), DatasetError> {
    let path = |name| find(dir, name).ok_or_else(|| absent(dir, String::from(name)));
    let (images_path, labels_path) = (path(images)?, path(labels)?);
    let (images, labels) = (read_images(&images_path)?, read_labels(&labels_path)?);
    if images.count != labels.len() {
        let (images, labels) = (images.count, labels.len());
        return Err(DatasetError::Counts { path: labels_path, labels, images_path, images });
    }
    let split = Split::new(images.pixels, labels, images.shape.numel());
    Ok((images.shape, split))
}

/// An images file.
struct Images {
    shape: Shape,
    count: usize,
    pixels: Vec<u8>,
}

/// Reads a file of greyscale images: count, rows, columns, pixels.
fn read_images(path: &Path) -> Result<Images, DatasetError> {
    let mut content = Content::open(path)?;
    content.magic(IMAGES, "an IDX images file's magic 0x00000803")?;
    let count = content.dimension("number of images")?;
    let rows = content.dimension("number of rows")?;
    let columns = content.dimension("number of columns")?;
    let pixels = content.rest(&[count, rows, columns])?;
    Ok(Images { shape: Shape::new(1, rows, columns), count, pixels })
}

/// Reads a file of labels: count, then one byte each.
fn read_labels(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let mut content = Content::open(path)?;
    content.magic(LABELS, "an IDX labels file's magic 0x00000801")?;
    let count = content.dimension("number of labels")?;
    content.rest(&[count])
}

/// A file's decompressed content, and how much of it was read.
struct Content {
    path: PathBuf,
    reader: Box<dyn Read>,
    /// Length of the content, where the file itself tells.
    len: Option<u64>,
    offset: u64,
}

impl Content {
    fn open(path: &Path) -> Result<Self, DatasetError> {
        let failed = |source| DatasetError::Read { path: path.to_owned(), offset: 0, source };
        let file = File::open(path).map_err(failed)?;
        let is_gzip = path.extension().is_some_and(|extension| extension == "gz");
        let len = if is_gzip { None } else { Some(file.metadata().map_err(failed)?.len()) };
        let file = BufReader::new(file);
        let reader: Box<dyn Read> =
            if is_gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        Ok(Self { path: path.to_owned(), reader, len, offset: 0 })
    }

    fn wrong(&self, offset: u64, expected: impl Into<String>, found: impl Into<String>) -> DatasetError {
        DatasetError::Content {
            path: self.path.clone(),
            offset,
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn read_error(&self, source: std::io::Error) -> DatasetError {
        DatasetError::Read { path: self.path.clone(), offset: self.offset, source }
    }

    fn word(&mut self, what: &str) -> Result<u32, DatasetError> {
        let mut bytes = [0; 4];
        self.reader.read_exact(&mut bytes).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => self.wrong(self.offset, what, "the end of the file"),
            _ => self.read_error(source),
        })?;
        self.offset += 4;
        Ok(u32::from_be_bytes(bytes))
    }

    fn magic(&mut self, magic: u32, what: &str) -> Result<(), DatasetError> {
        let found = self.word(what)?;
        if found == magic { Ok(()) } else { Err(self.wrong(0, what, format!("0x{found:08x}"))) }
    }

    /// A dimension, at least 1.
    fn dimension(&mut self, what: &str) -> Result<usize, DatasetError> {
        let value = self.word(what)?;
        match usize::try_from(value) {
            Ok(value) if value > 0 => Ok(value),
            _ => Err(self.wrong(self.offset - 4, format!("a {what} of at least 1"), value.to_string())),
        }
    }

    /// All bytes behind the header; exactly the product of `dims`.
    fn rest(mut self, dims: &[usize]) -> Result<Vec<u8>, DatasetError> {
        let header = self.offset;
        let expected = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim as u64));
        let Some(expected) = expected.filter(|&bytes| bytes <= MOST_BYTES) else {
            let found = dims.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
            return Err(self.wrong(4, format!("dimensions of at most {MOST_BYTES} bytes"), found));
        };
        if let Some(len) = self.len.filter(|&len| len != header + expected) {
            return Err(self.wrong_length(header + expected, len));
        }
        // The vector grows with the bytes that really come, so a false header cannot make it take memory.
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(expected + 1).read_to_end(&mut bytes);
        self.offset = header + bytes.len() as u64;
        if let Err(source) = read {
            return Err(match source.kind() {
                ErrorKind::UnexpectedEof => self.wrong_length(header + expected, self.offset),
                _ => self.read_error(source),
            });
        }
        if bytes.len() as u64 == expected {
            Ok(bytes)
        } else {
            Err(self.wrong_length(header + expected, self.offset))
        }
    }

    fn wrong_length(&self, expected: u64, got: u64) -> DatasetError {
        if got < expected {
            let what = format!("{} more bytes ({expected} in all)", expected - got);
            self.wrong(got, what, "the end of the file")
        } else {
            self.wrong(expected, "the end of the file", "more bytes")
        }
    }
}

#[cfg(test)]
mod tests;
