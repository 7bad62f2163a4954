//! One PNG or JPEG file: its size, and its pixels channel by channel. What it is goes by its bytes, not by its name.
//! Files are not trusted: lengths and sizes are checked before memory is taken.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageReader, ImageResult, Limits};

use crate::dataset::DatasetError;
use crate::graph::Shape;

/// Most pixels of a side.
const MOST_SIDE: u32 = 16_384;
/// Most bytes of a file, and of what its decoder may take: a photograph of that side, in RGB, and half again.
const MOST_BYTES: u64 = 1 << 30;

/// What a file says of its image.
pub(super) struct Header {
    /// Width and height.
    pub(super) size: (u32, u32),
    pub(super) is_grey: bool,
}

/// Reads no more than the format makes its reader read: a PNG's head, a JPEG wholly.
pub(super) fn header(path: &Path) -> Result<Header, DatasetError> {
    let failed = |source| DatasetError::Read { path: path.to_owned(), offset: 0, source };
    let len = fs::metadata(path).map_err(failed)?.len();
    if len > MOST_BYTES {
        let (expected, found) = (format!("at most {MOST_BYTES} bytes"), format!("a file of {len}"));
        return Err(DatasetError::Content { path: path.to_owned(), offset: 0, expected, found });
    }
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let opened = open(&mut reader)
        .map(|decoder| Header { size: decoder.dimensions(), is_grey: !decoder.color_type().has_color() });
    opened.map_err(|source| refuse(path, &mut reader, source))
}

/// Decodes the file into `out`, channel by channel. The file may have changed since its header was read: another size
/// is an error.
pub(super) fn decode(path: &Path, shape: Shape, out: &mut [u8]) -> Result<(), DatasetError> {
    let failed = |source| DatasetError::Read { path: path.to_owned(), offset: 0, source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MOST_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    if is_cut_jpeg(&bytes) {
        return Err(DatasetError::Content {
            path: path.to_owned(),
            offset: bytes.len() as u64,
            expected: "a JPEG's end marker".to_owned(),
            found: "the end of the file".to_owned(),
        });
    }
    let mut reader = Cursor::new(bytes);
    let decoded = open(&mut reader).and_then(DynamicImage::from_decoder);
    let image = decoded.map_err(|source| refuse(path, &mut reader, source))?;
    let (width, height) = (image.width(), image.height());
    if (height as usize, width as usize) != (shape.height, shape.width) {
        let size = format!("{width}x{height}");
        let expected = format!("an image of {}x{}", shape.width, shape.height);
        return Err(DatasetError::Content { path: path.to_owned(), offset: 0, expected, found: size });
    }
    match shape.channels {
        1 => out.copy_from_slice(image.into_luma8().as_raw()),
        _ => planes(image.into_rgb8().as_raw(), out),
    }
    Ok(())
}

/// Pixel by pixel to channel by channel.
fn planes(pixels: &[u8], out: &mut [u8]) {
    let area = out.len() / 3;
    for (channel, plane) in out.chunks_exact_mut(area).enumerate() {
        plane.iter_mut().zip(pixels.chunks_exact(3)).for_each(|(out, pixel)| *out = pixel[channel]);
    }
}

fn open<'a>(reader: impl BufRead + Seek + 'a) -> ImageResult<impl ImageDecoder + 'a> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MOST_SIDE);
    limits.max_image_height = Some(MOST_SIDE);
    limits.max_alloc = Some(MOST_BYTES);
    let mut reader = ImageReader::new(reader).with_guessed_format()?;
    reader.limits(limits);
    reader.into_decoder()
}

fn refuse(path: &Path, reader: &mut impl Seek, source: image::ImageError) -> DatasetError {
    let offset = reader.stream_position().unwrap_or(0);
    DatasetError::Image { path: path.to_owned(), offset, source }
}

/// Whether a JPEG stops before its end marker: the decoder would pass what is missing off as grey. The marker is looked
/// for behind the first scan's header, since a preview inside of the head has one too; in a scan's bytes none can occur.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(&[0xff, 0xd8]) else { return false };
    while let [0xff, marker, after @ ..] = rest {
        rest = match *marker {
            0xda => return !after.windows(2).any(|pair| pair == [0xff, 0xd9]),
            // Markers may begin with any number of this byte.
            0xff => &rest[1..],
            _ => {
                let [high, low, ..] = after else { return true };
                let Some(next) = after.get(usize::from(u16::from_be_bytes([*high, *low]))..) else {
                    return true;
                };
                next
            }
        };
    }
    // Whatever stands there, the decoder judges it, unless nothing does.
    rest.is_empty()
}
