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
    check_present(dir)?;
    let (shape, train) = read_split(dir, TRAIN)?;
    let (test_shape, test) = read_split(dir, TEST)?;
    if test_shape != shape {
        return Err(DatasetError::Shapes { dir: dir.to_owned(), train: shape, test: test_shape });
    }
    Ok(Dataset::new(shape, train, test))
}

/// The images' shape and the number of classes, by all labels and the images' headers and lengths.
pub(super) fn outline(dir: &Path) -> Result<(Shape, usize), DatasetError> {
    check_present(dir)?;
    let (shape, train) = outline_split(dir, TRAIN)?;
    let (test_shape, test) = outline_split(dir, TEST)?;
    if test_shape != shape {
        return Err(DatasetError::Shapes { dir: dir.to_owned(), train: shape, test: test_shape });
    }
    let largest = train.into_iter().chain(test).max();
    Ok((shape, (usize::from(largest.unwrap_or(0)) + 1).max(2)))
}

fn check_present(dir: &Path) -> Result<(), DatasetError> {
    let found = TRAIN.into_iter().chain(TEST).map(|name| (name, find(dir, name)));
    let missing: Vec<&str> = found.filter(|(_, path)| path.is_none()).map(|(name, _)| name).collect();
    if missing.is_empty() { Ok(()) } else { Err(absent(dir, missing.join(", "))) }
}

fn absent(dir: &Path, missing: String) -> DatasetError {
    DatasetError::Missing { dir: dir.to_owned(), missing, expected: EXPECTED }
}

/// The file of that name, plain before gzipped.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    [dir.join(name), dir.join(format!("{name}.gz"))].into_iter().find(|path| path.is_file())
}

fn read_split(dir: &Path, names: [&str; 2]) -> Result<(Shape, Split), DatasetError> {
    let (images, labels) = both(dir, names, Content::rest)?;
    let split = Split::new(images.pixels, labels, images.shape.numel());
    Ok((images.shape, split))
}

/// The images' shape, and the labels.
fn outline_split(dir: &Path, names: [&str; 2]) -> Result<(Shape, Vec<u8>), DatasetError> {
    let (images, labels) = both(dir, names, Content::pass_over)?;
    Ok((images.shape, labels))
}

/// As many images, whose pixels `read` sees to, as labels.
fn both<P>(
    dir: &Path,
    [images, labels]: [&str; 2],
    read: impl FnOnce(Content, &[usize]) -> Result<P, DatasetError>,
) -> Result<(Images<P>, Vec<u8>), DatasetError> {
    let path = |name| find(dir, name).ok_or_else(|| absent(dir, String::from(name)));
    let (images_path, labels_path) = (path(images)?, path(labels)?);
    let (images, labels) = (read_images(&images_path, read)?, read_labels(&labels_path)?);
    if images.count != labels.len() {
        let (images, labels) = (images.count, labels.len());
        return Err(DatasetError::Counts { path: labels_path, labels, images_path, images });
    }
    Ok((images, labels))
}

/// An images file.
struct Images<P> {
    shape: Shape,
    count: usize,
    pixels: P,
}

/// Reads a file of greyscale images: count, rows, columns, pixels.
fn read_images<P>(
    path: &Path,
    read: impl FnOnce(Content, &[usize]) -> Result<P, DatasetError>,
) -> Result<Images<P>, DatasetError> {
    let mut content = Content::open(path)?;
    content.magic(IMAGES, "an IDX images file's magic 0x00000803")?;
    let count = content.dimension("number of images")?;
    let rows = content.dimension("number of rows")?;
    let columns = content.dimension("number of columns")?;
    let pixels = read(content, &[count, rows, columns])?;
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
    fn rest(self, dims: &[usize]) -> Result<Vec<u8>, DatasetError> {
        // The vector grows with the bytes that really come, so a false header cannot make it take memory.
        let mut bytes = Vec::new();
        self.take(dims, |reader| reader.read_to_end(&mut bytes).map(|_| ()))?;
        Ok(bytes)
    }

    /// Checks that they are there, and keeps none.
    fn pass_over(self, dims: &[usize]) -> Result<(), DatasetError> {
        // A plain file's length says it.
        if self.len.is_some() {
            return self.expected(dims).map(|_| ());
        }
        self.take(dims, |reader| std::io::copy(reader, &mut std::io::sink()).map(|_| ()))
    }

    /// How many bytes are to come, if a file of that length can have them.
    fn expected(&self, dims: &[usize]) -> Result<u64, DatasetError> {
        let expected = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim as u64));
        let Some(expected) = expected.filter(|&bytes| bytes <= MOST_BYTES) else {
            let found = dims.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
            return Err(self.wrong(4, format!("dimensions of at most {MOST_BYTES} bytes"), found));
        };
        let header = self.offset;
        match self.len.filter(|&len| len != header + expected) {
            Some(len) => Err(self.wrong_length(header + expected, len)),
            None => Ok(expected),
        }
    }

    fn take(
        mut self,
        dims: &[usize],
        read: impl FnOnce(&mut dyn Read) -> std::io::Result<()>,
    ) -> Result<(), DatasetError> {
        let (header, expected) = (self.offset, self.expected(dims)?);
        let mut limited = (&mut self.reader).take(expected + 1);
        let read = read(&mut limited);
        let came = expected + 1 - limited.limit();
        self.offset = header + came;
        match read {
            Err(source) if source.kind() != ErrorKind::UnexpectedEof => Err(self.read_error(source)),
            Ok(()) if came == expected => Ok(()),
            _ => Err(self.wrong_length(header + expected, self.offset)),
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
