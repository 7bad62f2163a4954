//! Why files are no dataset.

use std::path::PathBuf;

use super::Format;
use crate::graph::Shape;

/// What is wrong, and where.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// Not all of a format's files are there.
    #[error("no dataset in {}: {missing} not found; the folder must hold {expected}", dir.display())]
    Missing {
        /// Where they were looked for.
        dir: PathBuf,
        /// Their names.
        missing: String,
        /// All that should be there.
        expected: &'static str,
    },
    /// Nothing that is there belongs to a format that is known.
    #[error(
        "no dataset in {}: it needs the four IDX files of the MNIST family, the binary version of CIFAR-10 or \
         CIFAR-100 (.bin), or images as train/CLASS/NAME.png or .jpg", dir.display()
    )]
    Unknown {
        /// Where they were looked for.
        dir: PathBuf,
    },
    /// What is there may be two datasets.
    #[error("{} holds files of both {} and {}: name the format", dir.display(), formats[0], formats[1])]
    Ambiguous {
        /// Where they are.
        dir: PathBuf,
        /// Two that fit.
        formats: [Format; 2],
    },
    /// A share was declared, but the format has test images of its own.
    #[error(
        "a test share is for folders of images; {format} has test images of its own: leave the share out"
    )]
    NeedlessShare {
        /// The format.
        format: Format,
    },
    /// A folder cannot be listed.
    #[error("cannot list {}", dir.display())]
    List {
        /// Which.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A folder of images is not laid out as it must be.
    #[error("{}: {problem}", path.display())]
    Layout {
        /// The folder or file in question.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// An image's bytes are none, or not all.
    #[error("{}: no whole PNG or JPEG image; reading stopped at byte {offset}", path.display())]
    Image {
        /// Which file.
        path: PathBuf,
        /// How far its bytes were taken in when that showed; a JPEG is taken in wholly before it is looked at.
        offset: u64,
        /// Why.
        source: image::ImageError,
    },
    /// Images of a folder differ in size.
    #[error(
        "{} is {} pixels wide and {} high, but {} is {} wide and {} high; all must be of one size",
        path.display(), size.0, size.1, first.display(), first_size.0, first_size.1
    )]
    Sizes {
        /// Which file.
        path: PathBuf,
        /// Its width and height.
        size: (u32, u32),
        /// The first file.
        first: PathBuf,
        /// Its width and height.
        first_size: (u32, u32),
    },
    /// Too much to hold in memory.
    #[error(
        "{}: {images} images of {shape} are {bytes} bytes, above the {most} that are held in memory; make them \
         smaller or fewer", dir.display()
    )]
    TooLarge {
        /// Where they are.
        dir: PathBuf,
        /// How many.
        images: usize,
        /// Of each.
        shape: Shape,
        /// Of all.
        bytes: u128,
        /// What is allowed.
        most: u64,
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
