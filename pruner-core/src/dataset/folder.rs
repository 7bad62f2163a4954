//! A folder of images: `train/CLASS/NAME.png` and `test/CLASS/NAME.png`, or `train` alone and a declared share of it to
//! test on. Owns the layout and the order of images; a single file's bytes are `picture`'s.

mod picture;
mod share;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub use share::{TestShare, TestShareError};

use super::{Dataset, DatasetError, Split};
use crate::graph::Shape;

/// Most bytes of all pixels, one per channel: both splits are held in memory.
const MOST_BYTES: u64 = 8 << 30;
/// A label is a byte.
const MOST_CLASSES: usize = 256;
const EXPECTED: &str =
    "a folder `train` with a folder of PNG or JPEG images for each class, and `test` likewise";

/// Whether the folder looks like one.
pub(super) fn is_in(dir: &Path) -> bool {
    dir.join("train").is_dir()
}

/// Reads `dir/train/CLASS/*` and `dir/test/CLASS/*`; without `dir/test`, `test_share` of each class is tested on and not
/// trained on. Classes are the folders of `train` in the order of their names. All images must be of one size; they are
/// grey if all of them are, else RGB; 16 bits become 8, transparency is dropped. The classes' images are mixed evenly,
/// so that the first images of a split are of all classes. Hidden files are passed over, any other that is no image is
/// an error. Errors name the file, and the byte where that is known.
pub fn read_folder(dir: &Path, test_share: Option<TestShare>) -> Result<Dataset, DatasetError> {
    let (classes, [train, test]) = listed(dir, test_share)?;
    let shape = common_shape(dir, &[&train[..], &test].concat())?;
    let (train, test) = (load(&train, shape)?, load(&test, shape)?);
    let names = classes.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    Ok(Dataset::new(shape, train, test).with_classes(classes.len(), names))
}

/// The images' shape, by the headers of all of them, and the number of classes.
pub(super) fn outline(dir: &Path, test_share: Option<TestShare>) -> Result<(Shape, usize), DatasetError> {
    let (classes, [train, test]) = listed(dir, test_share)?;
    Ok((common_shape(dir, &[train, test].concat())?, classes.len()))
}

/// The classes, and the files to train and to test on.
fn listed(
    dir: &Path,
    test_share: Option<TestShare>,
) -> Result<(Vec<OsString>, [Vec<Labelled>; 2]), DatasetError> {
    if !is_in(dir) {
        let (dir, missing) = (dir.to_owned(), "train".to_owned());
        return Err(DatasetError::Missing { dir, missing, expected: EXPECTED });
    }
    let classes = classes(&dir.join("train"))?;
    let splits = splits(dir, &classes, test_share)?;
    Ok((classes, splits))
}

/// An image's file.
#[derive(Debug, Clone, PartialEq)]
struct Labelled {
    path: PathBuf,
    label: u8,
}

fn layout(path: impl Into<PathBuf>, problem: impl Into<String>) -> DatasetError {
    DatasetError::Layout { path: path.into(), problem: problem.into() }
}

/// The names in a folder, sorted, without hidden ones.
fn list(dir: &Path) -> Result<Vec<OsString>, DatasetError> {
    let failed = |source| DatasetError::List { dir: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in dir.read_dir().map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn classes(train: &Path) -> Result<Vec<OsString>, DatasetError> {
    let names = list(train)?;
    if let Some(stray) = names.iter().map(|name| train.join(name)).find(|path| !path.is_dir()) {
        return Err(layout(stray, "is no folder of a class's images; move it away"));
    }
    match names.len() {
        2..=MOST_CLASSES => Ok(names),
        few @ 0..2 => Err(layout(
            train,
            format!("has folders of {few} classes; there must be at least 2 to tell apart"),
        )),
        many => Err(layout(train, format!("has folders of {many} classes; at most {MOST_CLASSES} are read"))),
    }
}

/// The files of a class, in the order of their names; none where it has no folder.
fn images(dir: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let paths: Vec<_> = list(dir)?.into_iter().map(|name| dir.join(name)).collect();
    let is_image = |path: &PathBuf| {
        let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
        extension.is_some_and(|x| x == "png" || x == "jpg" || x == "jpeg") && path.is_file()
    };
    match paths.iter().find(|path| !is_image(path)) {
        Some(stray) => Err(layout(stray, "is no .png, .jpg or .jpeg file; move it away")),
        None => Ok(paths),
    }
}

/// What is trained on and what is tested on.
fn splits(
    dir: &Path,
    classes: &[OsString],
    test_share: Option<TestShare>,
) -> Result<[Vec<Labelled>; 2], DatasetError> {
    let (train_dir, test_dir) = (dir.join("train"), dir.join("test"));
    let read =
        |root: &Path| classes.iter().map(|class| images(&root.join(class))).collect::<Result<Vec<_>, _>>();
    let train = read(&train_dir)?;
    if let Some(empty) = train.iter().position(Vec::is_empty) {
        let path = train_dir.join(&classes[empty]);
        return Err(layout(path, "holds no image; add some, or remove the folder"));
    }
    match (test_dir.exists(), test_share) {
        (true, None) => {
            if let Some(other) = list(&test_dir)?.into_iter().find(|name| !classes.contains(name)) {
                let problem = "is no class of `train`; add training images for it, or move it away";
                return Err(layout(test_dir.join(other), problem));
            }
            let test = read(&test_dir)?;
            if test.iter().all(Vec::is_empty) {
                return Err(layout(
                    test_dir,
                    "holds no image; add some in folders named as those of `train`",
                ));
            }
            Ok([mix(train), mix(test)])
        }
        (true, Some(_)) => {
            Err(layout(test_dir, "has the images to test on: declare no test share, or move the folder away"))
        }
        (false, Some(share)) => {
            if let Some(single) = train.iter().position(|images| images.len() < 2) {
                let problem = "holds 1 image; to share out between training and testing takes at least 2";
                return Err(layout(train_dir.join(&classes[single]), problem));
            }
            let (train, test) = train.into_iter().map(|images| share.divide(images)).unzip();
            Ok([mix(train), mix(test)])
        }
        (false, None) => Err(layout(
            dir,
            "has no folder `test`: make one like `train`, or declare a test share, such as 0.2 of each class",
        )),
    }
}

/// The images of all classes, each class's spread evenly over the whole.
fn mix(classes: Vec<Vec<PathBuf>>) -> Vec<Labelled> {
    let mut placed: Vec<(f64, Labelled)> = Vec::new();
    for (label, images) in classes.into_iter().enumerate() {
        let count = images.len() as f64;
        let label = u8::try_from(label).expect("there are at most 256 classes");
        let place = |(index, path)| ((index as f64 + 0.5) / count, Labelled { path, label });
        placed.extend(images.into_iter().enumerate().map(place));
    }
    // Stable: where places are equal, classes keep their order.
    placed.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    placed.into_iter().map(|(_, labelled)| labelled).collect()
}

/// The one shape of all images, by their headers. Nothing was decoded yet when it is found that they are too much.
fn common_shape(dir: &Path, files: &[Labelled]) -> Result<Shape, DatasetError> {
    let headers: Vec<_> = files.par_iter().map(|file| picture::header(&file.path)).collect();
    let headers = headers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let (first, first_size) = (&files[0], headers[0].size);
    if let Some((file, header)) = files.iter().zip(&headers).find(|(_, header)| header.size != first_size) {
        let (path, first) = (file.path.clone(), first.path.clone());
        return Err(DatasetError::Sizes { path, size: header.size, first, first_size });
    }
    let channels = if headers.iter().all(|header| header.is_grey) { 1 } else { 3 };
    let shape = Shape::new(channels, first_size.1 as usize, first_size.0 as usize);
    let bytes = files.len() as u128 * shape.numel() as u128;
    // Where addresses have 32 bits, what they reach is the limit.
    let most = MOST_BYTES.min(isize::MAX as u64);
    if bytes > most.into() {
        return Err(DatasetError::TooLarge { dir: dir.to_owned(), images: files.len(), shape, bytes, most });
    }
    Ok(shape)
}

/// Decodes in parallel; what comes out, images or the first error, is the same for any number of threads.
fn load(files: &[Labelled], shape: Shape) -> Result<Split, DatasetError> {
    let mut pixels = vec![0; files.len() * shape.numel()];
    let decoded = pixels.par_chunks_exact_mut(shape.numel()).zip(files);
    let decoded = decoded.map(|(out, file)| picture::decode(&file.path, shape, out));
    decoded.find_first(Result::is_err).unwrap_or(Ok(()))?;
    Ok(Split::new(pixels, files.iter().map(|file| file.label).collect(), shape.numel()))
}

#[cfg(test)]
mod tests;
