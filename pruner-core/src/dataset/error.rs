//! Why files are no dataset.

use std::path::PathBuf;

use crate::graph::Shape;

/// What is wrong, and where.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// Not all four files are there.
    #[error(
        "no dataset in {}: {missing} not found; the folder must hold train-images-idx3-ubyte, \
         train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, each plain or as .gz",
        dir.display()
    )]
    Missing {
        /// Where they were looked for.
        dir: PathBuf,
        /// Their names.
        missing: String,
    },
    /// The operating system or the decompressor failed.
    #[error("cannot read {} past byte {offset} of its content", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Bytes of content read before.
        offset: u64,
        /// Why.
        source: std::io::Error,
    },
    /// A file's content is not what its format or its own header says.
    #[error("{}: expected {expected} at byte {offset} of its content, found {found}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// Where in the decompressed content.
        offset: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Images and labels of one split differ in number.
    #[error("{} has {labels} labels for the {images} images of {}", path.display(), images_path.display())]
    Counts {
        /// The labels' file.
        path: PathBuf,
        /// How many it has.
        labels: usize,
        /// The images' file.
        images_path: PathBuf,
        /// How many it has.
        images: usize,
    },
    /// Training and test images differ in shape.
    #[error("in {}, training images are {train} but test images {test}", dir.display())]
    Shapes {
        /// Where the files are.
        dir: PathBuf,
        /// Of training images.
        train: Shape,
        /// Of test images.
        test: Shape,
    },
}
