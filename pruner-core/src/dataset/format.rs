//! Which formats there are, which of them a folder is in, and the one way to read them all.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Dataset, DatasetError, TestShare, cifar, folder, idx};
use crate::graph::Shape;
use crate::named::named;

/// How a dataset's files are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// MNIST-family IDX files, gzipped or not.
    Idx,
    /// CIFAR-10's binary version.
    Cifar10,
    /// CIFAR-100's binary version; its fine labels.
    Cifar100,
    /// PNG and JPEG files, a folder for each class.
    Folder,
}

named!(Format, "format of a dataset", {
    Idx => "idx",
    Cifar10 => "cifar10",
    Cifar100 => "cifar100",
    Folder => "folder",
});

/// Reads and checks every file of the dataset in `dir`. `test_share` is for a folder of images without a test folder;
/// with another format it is refused. Errors name the file and what is wrong where.
pub fn read(dir: &Path, format: Format, test_share: Option<TestShare>) -> Result<Dataset, DatasetError> {
    match (format, test_share) {
        (Format::Folder, _) => folder::read_folder(dir, test_share),
        (_, Some(_)) => Err(DatasetError::NeedlessShare { format }),
        (Format::Idx, None) => idx::read_idx(dir),
        (Format::Cifar10, None) => cifar::read_cifar10(dir),
        (Format::Cifar100, None) => cifar::read_cifar100(dir),
    }
}

/// The images' shape and the number of classes, as [`read`] finds them, from labels, headers and lengths alone: no image is
/// decoded or kept, and not all that `read` refuses is refused. A file that is missing, empty or cut off is.
pub fn outline(
    dir: &Path,
    format: Format,
    test_share: Option<TestShare>,
) -> Result<(Shape, usize), DatasetError> {
    match (format, test_share) {
        (Format::Folder, _) => folder::outline(dir, test_share),
        (_, Some(_)) => Err(DatasetError::NeedlessShare { format }),
        (Format::Idx, None) => idx::outline(dir),
        (Format::Cifar10, None) => cifar::CIFAR10.outline(dir),
        (Format::Cifar100, None) => cifar::CIFAR100.outline(dir),
    }
}

/// The format of what is in `dir`, by the names of the files alone: one file of a format is enough, so that reading it
/// then says what else is missing. An error if nothing is known, or two formats have files there.
pub fn detect(dir: &Path) -> Result<Format, DatasetError> {
    let is_there = |format: &Format| match format {
        Format::Idx => idx::is_in(dir),
        Format::Cifar10 => cifar::CIFAR10.is_in(dir),
        Format::Cifar100 => cifar::CIFAR100.is_in(dir),
        Format::Folder => folder::is_in(dir),
    };
    let mut found = Format::ALL.iter().copied().filter(is_there);
    match (found.next(), found.next()) {
        (Some(format), None) => Ok(format),
        (Some(one), Some(other)) => {
            Err(DatasetError::Ambiguous { dir: dir.to_owned(), formats: [one, other] })
        }
        (None, _) => Err(match dir.read_dir() {
            Ok(_) => DatasetError::Unknown { dir: dir.to_owned() },
            Err(source) => DatasetError::List { dir: dir.to_owned(), source },
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_format_is_known_by_any_of_its_files() {
        for (file, expected) in [
            ("t10k-labels-idx1-ubyte.gz", Format::Idx),
            ("test_batch.bin", Format::Cifar10),
            ("cifar-10-batches-bin/data_batch_3.bin", Format::Cifar10),
            ("test.bin", Format::Cifar100),
            ("cifar-100-binary/train.bin", Format::Cifar100),
            ("train/cat/1.png", Format::Folder),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, []).unwrap();
            assert_eq!(detect(dir.path()).unwrap(), expected, "{file}");
        }
    }

    #[test]
    fn what_is_no_dataset_or_two_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            |dir: &Path| detect(dir).unwrap_err().to_string().replace(&dir.display().to_string(), "DIR");
        assert!(error(dir.path()).starts_with("no dataset in DIR: it needs the four IDX files"));
        assert_eq!(error(&dir.path().join("x")), "cannot list DIR");
        for folder in ["cifar-10-batches-bin", "cifar-100-binary"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("cifar-10-batches-bin/test_batch.bin"), []).unwrap();
        fs::write(dir.path().join("cifar-100-binary/test.bin"), []).unwrap();
        assert_eq!(error(dir.path()), "DIR holds files of both cifar10 and cifar100: name the format");
    }

    #[test]
    fn a_share_is_only_for_folders_of_images() {
        let share = TestShare::new(0.2).unwrap();
        let error = read(Path::new("/nowhere"), Format::Cifar10, Some(share)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a test share is for folders of images; cifar10 has test images of its own: leave the share out"
        );
    }
}
