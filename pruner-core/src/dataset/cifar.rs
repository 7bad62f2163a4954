//! CIFAR's binary versions: records of labels and 3x32x32 bytes, red, green, blue, row by row, and nothing around them.
//! Files are not trusted: a file's length is checked before memory is taken, and every label after.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Dataset, DatasetError, Split};
use crate::graph::Shape;

const SHAPE: Shape = Shape::new(3, 32, 32);
/// Most bytes of one file: six times CIFAR-100's training images.
const MOST_BYTES: u64 = 1 << 30;

/// What tells the two versions apart.
pub(super) struct Version {
    /// The folder that the archive unpacks to.
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    /// Names of the last kind of label, one a line; the file may be missing.
    names: &'static str,
    /// What each byte before the pixels means, and how many classes it tells apart; the last is the label.
    labels: &'static [(&'static str, usize)],
    expected: &'static str,
}

pub(super) const CIFAR10: Version = Version {
    folder: "cifar-10-batches-bin",
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: "test_batch.bin",
    names: "batches.meta.txt",
    labels: &[("label", 10)],
    expected: "data_batch_1.bin to data_batch_5.bin and test_batch.bin (CIFAR-10, binary version), \
               by themselves or in cifar-10-batches-bin",
};

pub(super) const CIFAR100: Version = Version {
    folder: "cifar-100-binary",
    train: &["train.bin"],
    test: "test.bin",
    names: "fine_label_names.txt",
    labels: &[("coarse label", 20), ("fine label", 100)],
    expected: "train.bin and test.bin (CIFAR-100, binary version), by themselves or in cifar-100-binary",
};

/// Reads CIFAR-10's binary version from `dir`, or from `cifar-10-batches-bin` in it. Errors name the file, the byte, and
/// what was expected there.
pub fn read_cifar10(dir: &Path) -> Result<Dataset, DatasetError> {
    CIFAR10.read(dir)
}

/// Reads CIFAR-100's binary version, with its 100 fine labels, from `dir`, or from `cifar-100-binary` in it. Errors name
/// the file, the byte, and what was expected there.
pub fn read_cifar100(dir: &Path) -> Result<Dataset, DatasetError> {
    CIFAR100.read(dir)
}

impl Version {
    /// Whether any of the files is there.
    pub(super) fn is_in(&self, dir: &Path) -> bool {
        [dir.to_owned(), dir.join(self.folder)].iter().any(|dir| self.has_one(dir))
    }

    fn files(&self) -> impl Iterator<Item = &'static str> {
        self.train.iter().copied().chain([self.test])
    }

    fn has_one(&self, dir: &Path) -> bool {
        self.files().any(|name| dir.join(name).is_file())
    }

    fn read(&self, dir: &Path) -> Result<Dataset, DatasetError> {
        let dir = &self.present(dir)?;
        let names = self.read_names(dir)?;
        let train = self.read_split(dir, self.train)?;
        let test = self.read_split(dir, &[self.test])?;
        Ok(Dataset::new(SHAPE, train, test).with_classes(self.classes(), names))
    }

    /// The images' shape and the number of classes, once every file is there and of whole records.
    pub(super) fn outline(&self, dir: &Path) -> Result<(Shape, usize), DatasetError> {
        let dir = &self.present(dir)?;
        self.read_names(dir)?;
        for name in self.files() {
            let path = dir.join(name);
            let len = length(&path)?;
            self.check_length(len as usize)
                .map_err(|(at, expected, found)| wrong(path, at, expected, found))?;
        }
        Ok((SHAPE, self.classes()))
    }

    /// The folder that has all the files.
    fn present(&self, dir: &Path) -> Result<PathBuf, DatasetError> {
        let unpacked = dir.join(self.folder);
        let dir = if !self.has_one(dir) && self.has_one(&unpacked) { unpacked } else { dir.to_owned() };
        let missing: Vec<&str> = self.files().filter(|name| !dir.join(name).is_file()).collect();
        if missing.is_empty() {
            return Ok(dir);
        }
        let missing = missing.join(", ");
        Err(DatasetError::Missing { dir, missing, expected: self.expected })
    }

    fn classes(&self) -> usize {
        self.labels.last().map_or(0, |&(_, classes)| classes)
    }

    fn read_names(&self, dir: &Path) -> Result<Vec<String>, DatasetError> {
        let path = dir.join(self.names);
        if !path.is_file() {
            return Ok(Vec::new());
        }
        let bytes = read_file(&path)?;
        let text = String::from_utf8_lossy(&bytes);
        let names: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if names.len() != self.classes() {
            let expected = format!("{} names, one a line,", self.classes());
            return Err(wrong(path, bytes.len(), expected, format!("{} in the file", names.len())));
        }
        Ok(names.into_iter().map(str::to_owned).collect())
    }

    fn read_split(&self, dir: &Path, files: &[&str]) -> Result<Split, DatasetError> {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for name in files {
            let path = dir.join(name);
            let bytes = read_file(&path)?;
            self.take_records(&bytes, &mut images, &mut labels)
                .map_err(|(at, expected, found)| wrong(path, at, expected, found))?;
        }
        Ok(Split::new(images, labels, SHAPE.numel()))
    }

    /// Bytes of a record.
    fn record(&self) -> usize {
        self.labels.len() + SHAPE.numel()
    }

    /// Whether a file of so many bytes holds whole records; or at which byte what was expected, and found.
    fn check_length(&self, len: usize) -> Result<(), (usize, String, String)> {
        let record = self.record();
        let end = || "the end of the file".to_owned();
        if len == 0 {
            return Err((0, format!("a record of {record} bytes"), end()));
        }
        match len % record {
            0 => Ok(()),
            over => Err((len, format!("{} more bytes (records are of {record})", record - over), end())),
        }
    }

    /// Adds a file's records; or says at which byte what was expected, and found.
    fn take_records(
        &self,
        bytes: &[u8],
        images: &mut Vec<u8>,
        labels: &mut Vec<u8>,
    ) -> Result<(), (usize, String, String)> {
        self.check_length(bytes.len())?;
        let record = self.record();
        images.reserve_exact(bytes.len() / record * SHAPE.numel());
        for (index, bytes) in bytes.chunks_exact(record).enumerate() {
            let (read, pixels) = bytes.split_at(self.labels.len());
            for (offset, (&found, &(what, classes))) in read.iter().zip(self.labels).enumerate() {
                if usize::from(found) >= classes {
                    let expected = format!("a {what} from 0 to {}", classes - 1);
                    return Err((index * record + offset, expected, found.to_string()));
                }
            }
            labels.extend(read.last());
            images.extend_from_slice(pixels);
        }
        Ok(())
    }
}

fn wrong(path: PathBuf, offset: usize, expected: String, found: String) -> DatasetError {
    DatasetError::Content { path, offset: offset as u64, expected, found }
}

/// Of a file that can be read.
fn length(path: &Path) -> Result<u64, DatasetError> {
    let failed = |source| DatasetError::Read { path: path.to_owned(), offset: 0, source };
    let len = fs::metadata(path).map_err(failed)?.len();
    if len > MOST_BYTES {
        let expected = format!("at most {MOST_BYTES} bytes");
        return Err(wrong(path.to_owned(), 0, expected, format!("a file of {len}")));
    }
    Ok(len)
}

fn read_file(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let failed = |offset| move |source| DatasetError::Read { path: path.to_owned(), offset, source };
    let len = length(path)?;
    let mut bytes = Vec::new();
    let read = File::open(path).map_err(failed(0))?.take(len).read_to_end(&mut bytes);
    read.map_err(failed(bytes.len() as u64))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
