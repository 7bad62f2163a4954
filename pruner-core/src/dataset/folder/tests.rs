//! Small folders of images, as they should be, and each wrong in a way that the reader must name.

use std::fs;
use std::io::Cursor;

use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage};
use tempfile::TempDir;

use super::*;

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn grey(value: u8) -> Vec<u8> {
    encoded(GrayImage::from_pixel(4, 2, image::Luma([value])), ImageFormat::Png)
}

/// Two classes, `cat` with two images and `dog` with four to train on, one of each to test on.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (index, name) in
            ["train/cat/a", "train/cat/b", "train/dog/a", "train/dog/b", "train/dog/c", "train/dog/d"]
                .iter()
                .enumerate()
        {
            folder.put(&format!("{name}.png"), &grey(index as u8 * 10));
        }
        folder.put("test/cat/a.png", &grey(60));
        folder.put("test/dog/a.png", &grey(70));
        folder
    }

    fn without_test() -> Self {
        let folder = Self::new();
        fs::remove_dir_all(folder.0.path().join("test")).unwrap();
        folder
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn read(&self) -> Dataset {
        read_folder(self.0.path(), None).unwrap()
    }

    /// The error and its causes, the folder's own path left out.
    fn error_with(&self, share: Option<f64>) -> String {
        let share = share.map(|share| TestShare::new(share).unwrap());
        let error = read_folder(self.0.path(), share).unwrap_err();
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        format!("{error}{cause}").replace(&self.0.path().display().to_string(), "DIR")
    }

    fn error(&self) -> String {
        self.error_with(None)
    }
}

/// The first pixel and the label of each image.
fn firsts(split: &Split) -> Vec<(u8, u8)> {
    (0..split.len()).map(|index| (split.pixels(index)[0], split.label(index))).collect()
}

#[test]
fn classes_are_named_and_evenly_mixed() {
    let folder = Folder::new();
    folder.put("train/.hidden", b"");
    folder.put("train/cat/.DS_Store", b"");
    let dataset = folder.read();
    assert_eq!((dataset.shape, dataset.classes), (Shape::new(1, 2, 4), 2));
    assert_eq!(dataset.class_names, ["cat", "dog"]);
    assert_eq!(firsts(&dataset.train), [(20, 1), (0, 0), (30, 1), (40, 1), (10, 0), (50, 1)]);
    assert_eq!(firsts(&dataset.test), [(60, 0), (70, 1)]);
    assert_eq!((dataset.train.per_class(2), dataset.test.per_class(2)), (vec![2, 4], vec![1, 1]));
}

#[test]
fn one_image_in_colour_makes_all_rgb() {
    let folder = Folder::new();
    folder.put("train/cat/a.png", &encoded(RgbImage::from_pixel(4, 2, Rgb([1, 2, 3])), ImageFormat::Png));
    let dataset = folder.read();
    assert_eq!(dataset.shape, Shape::new(3, 2, 4));
    let coloured = [[1; 8], [2; 8], [3; 8]].concat();
    assert_eq!(dataset.train.pixels(1), coloured);
    assert_eq!(dataset.train.pixels(0), [20; 24]);
}

#[test]
fn depth_and_transparency_are_levelled() {
    let folder = Folder::new();
    let deep = image::ImageBuffer::from_pixel(4, 2, image::Luma([0x8080u16]));
    folder.put("test/cat/a.png", &encoded(deep, ImageFormat::Png));
    let clear = image::GrayAlphaImage::from_pixel(4, 2, image::LumaA([9, 0]));
    folder.put("test/dog/a.png", &encoded(clear, ImageFormat::Png));
    let dataset = folder.read();
    assert_eq!(dataset.shape.channels, 1);
    assert_eq!(firsts(&dataset.test), [(0x80, 0), (9, 1)]);
}

#[test]
fn a_jpeg_is_read_whatever_its_name() {
    let folder = Folder::new();
    let jpeg = encoded(GrayImage::from_pixel(4, 2, image::Luma([128])), ImageFormat::Jpeg);
    folder.put("test/cat/b.JPG", &jpeg);
    folder.put("test/cat/c.png", &jpeg);
    let dataset = folder.read();
    assert_eq!((dataset.shape.channels, dataset.test.len()), (1, 4));
    assert!(dataset.test.pixels(1)[0].abs_diff(128) < 3, "{:?}", firsts(&dataset.test));
}

#[test]
fn a_share_is_tested_on_where_there_is_no_test_folder() {
    let folder = Folder::without_test();
    let dataset = read_folder(folder.0.path(), Some(TestShare::new(0.25).unwrap())).unwrap();
    assert_eq!(firsts(&dataset.train), [(20, 1), (0, 0), (30, 1), (40, 1)]);
    assert_eq!(firsts(&dataset.test), [(10, 0), (50, 1)]);
    fs::remove_file(folder.0.path().join("train/cat/a.png")).unwrap();
    assert_eq!(
        folder.error_with(Some(0.25)),
        "DIR/train/cat: holds 1 image; to share out between training and testing takes at least 2"
    );
}

#[test]
fn what_is_tested_on_is_said_once() {
    assert_eq!(
        Folder::without_test().error(),
        "DIR: has no folder `test`: make one like `train`, or declare a test share, such as 0.2 of each class"
    );
    assert_eq!(
        Folder::new().error_with(Some(0.2)),
        "DIR/test: has the images to test on: declare no test share, or move the folder away"
    );
}

#[test]
fn folders_that_are_laid_out_otherwise() {
    let spoiled = |spoil: fn(&Folder, &Path)| {
        let folder = Folder::new();
        spoil(&folder, folder.0.path());
        folder.error()
    };
    for (error, expected) in [
        (
            spoiled(|_, dir| fs::rename(dir.join("train"), dir.join("training")).unwrap()),
            "no dataset in DIR: train not found; the folder must hold a folder `train` with a folder of PNG or JPEG \
             images for each class, and `test` likewise",
        ),
        (
            spoiled(|_, dir| fs::create_dir(dir.join("train/bird")).unwrap()),
            "DIR/train/bird: holds no image; add some, or remove the folder",
        ),
        (
            spoiled(|folder, _| folder.put("train/labels.csv", b"")),
            "DIR/train/labels.csv: is no folder of a class's images; move it away",
        ),
        (
            spoiled(|folder, _| folder.put("test/cat/notes.txt", b"")),
            "DIR/test/cat/notes.txt: is no .png, .jpg or .jpeg file; move it away",
        ),
        (
            spoiled(|folder, _| folder.put("train/cat/more.png/a.png", &grey(0))),
            "DIR/train/cat/more.png: is no .png, .jpg or .jpeg file; move it away",
        ),
        (
            spoiled(|folder, _| folder.put("test/bird/a.png", &grey(0))),
            "DIR/test/bird: is no class of `train`; add training images for it, or move it away",
        ),
        (
            spoiled(|_, dir| fs::remove_dir_all(dir.join("train/dog")).unwrap()),
            "DIR/train: has folders of 1 classes; there must be at least 2 to tell apart",
        ),
        (
            spoiled(|folder, _| (0..255).for_each(|class| folder.put(&format!("train/{class}/a.png"), b""))),
            "DIR/train: has folders of 257 classes; at most 256 are read",
        ),
        (
            spoiled(|_, dir| {
                for class in ["cat", "dog"] {
                    fs::remove_file(dir.join("test").join(class).join("a.png")).unwrap();
                }
            }),
            "DIR/test: holds no image; add some in folders named as those of `train`",
        ),
    ] {
        assert_eq!(error, expected);
    }
}

#[test]
fn images_are_of_one_size() {
    let folder = Folder::new();
    folder.put("test/dog/b.png", &encoded(GrayImage::new(2, 4), ImageFormat::Png));
    assert_eq!(
        folder.error(),
        "DIR/test/dog/b.png is 2 pixels wide and 4 high, but DIR/train/dog/a.png is 4 wide and 2 high; \
         all must be of one size"
    );
}

#[test]
fn files_that_are_no_image() {
    let folder = Folder::new();
    folder.put("train/cat/b.png", b"GIF89a, or so it says");
    let error = folder.error();
    let expected = "DIR/train/cat/b.png: no whole PNG or JPEG image; reading stopped at byte ";
    assert!(error.starts_with(expected), "{error}");
    for bytes in [&b""[..], b"\n", b"some text that is no image"] {
        folder.put("train/cat/b.png", bytes);
        let error = folder.error();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn images_that_are_cut_off() {
    let noise = |x: u32, y: u32| Rgb([(x * 37 + y * 11) as u8, (x * x * 7) as u8, (y * 91) as u8]);
    let image = RgbImage::from_fn(40, 40, noise);
    for (format, ending) in [(ImageFormat::Png, "png"), (ImageFormat::Jpeg, "jpg")] {
        let folder = Folder(tempfile::tempdir().unwrap());
        let whole = encoded(image.clone(), format);
        for name in ["train/a/1", "train/a/2", "train/b/1", "train/b/2"] {
            folder.put(&format!("{name}.{ending}"), &whole);
        }
        let share = TestShare::new(0.5).unwrap();
        read_folder(folder.0.path(), Some(share)).unwrap();
        for len in (0..whole.len()).step_by(41) {
            folder.put(&format!("train/b/1.{ending}"), &whole[..len]);
            let error = folder.error_with(Some(0.5));
            assert!(error.starts_with(&format!("DIR/train/b/1.{ending}: ")), "{len}: {error}");
        }
        let cut = &whole[..whole.len() - 40];
        folder.put(&format!("train/b/1.{ending}"), cut);
        let expected = match format {
            ImageFormat::Png => "no whole PNG or JPEG image; reading stopped at byte".to_owned(),
            _ => format!(
                "expected a JPEG's end marker at byte {} of its content, found the end of the file",
                cut.len()
            ),
        };
        let error = folder.error_with(Some(0.5));
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn the_first_error_is_always_the_same() {
    let folder = Folder::new();
    for name in ["train/dog/b.png", "train/dog/c.png", "train/cat/b.png", "test/dog/a.png"] {
        let cut = grey(0);
        folder.put(name, &cut[..cut.len() - 20]);
    }
    for _ in 0..20 {
        assert!(folder.error().starts_with("DIR/train/dog/b.png: no whole"), "{}", folder.error());
    }
}

#[test]
fn what_no_memory_holds_is_refused_by_its_headers() {
    let folder = Folder::new();
    // A PNG's head alone: 16,384 pixels a side, RGB, and no pixels behind it.
    let head = |side: u32| {
        let mut chunk = b"IHDR".to_vec();
        chunk.extend([side.to_be_bytes(), side.to_be_bytes()].concat());
        chunk.extend([8, 2, 0, 0, 0]);
        let mut crc = flate2::Crc::new();
        crc.update(&chunk);
        let idat = [&0u32.to_be_bytes()[..], b"IDAT", &0x35af_061eu32.to_be_bytes()].concat();
        [b"\x89PNG\r\n\x1a\n", &13u32.to_be_bytes()[..], &chunk, &crc.sum().to_be_bytes(), &idat].concat()
    };
    for name in ["train/cat", "train/dog", "test/cat", "test/dog"] {
        fs::remove_dir_all(folder.0.path().join(name)).unwrap();
        for image in 0..3 {
            folder.put(&format!("{name}/{image}.png"), &head(16_384));
        }
    }
    assert_eq!(
        folder.error(),
        "DIR: 12 images of 3x16384x16384 are 9663676416 bytes, above the 8589934592 that are held in memory; \
         make them smaller or fewer"
    );
    folder.put("test/dog/0.png", &head(16_385));
    let error = folder.error();
    assert!(error.starts_with("DIR/test/dog/0.png: no whole PNG or JPEG image"), "{error}");
    assert!(error.contains("limit"), "{error}");
}

#[test]
fn an_outline_decodes_nothing() {
    for folder in [Folder::new(), Folder::without_test()] {
        let share = (!folder.0.path().join("test").exists()).then(|| TestShare::new(0.5).unwrap());
        let outline = |folder: &Folder| outline(folder.0.path(), share);
        let read = |folder: &Folder| {
            let read = read_folder(folder.0.path(), share).unwrap();
            (read.shape, read.classes)
        };
        assert_eq!(outline(&folder).unwrap(), read(&folder));
        let half = grey(1);
        folder.put("train/cat/a.png", &half[..half.len() - 20]);
        assert_eq!(outline(&folder).unwrap(), (Shape::new(1, 2, 4), 2));
    }
}
