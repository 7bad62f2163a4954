//! A small labelled set that a network learns in seconds, written as IDX files. The same figures write the same bytes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Classes: stripes across, stripes down, a checkerboard, and none of them.
pub const CLASSES: usize = 4;

/// How many images, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patterns {
    /// Height and width, pixels.
    pub side: usize,
    /// Training images.
    pub train: usize,
    /// Test images.
    pub test: usize,
    /// Of the noise and the phases.
    pub seed: u64,
}

impl Patterns {
    /// Writes the four files into `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut random = SplitMix(self.seed);
        for (name, count) in [("train", self.train), ("t10k", self.test)] {
            let mut images = header(0x0803, &[count, self.side, self.side]);
            let mut labels = header(0x0801, &[count]);
            for index in 0..count {
                let label = index % CLASSES;
                self.draw(label, &mut random, &mut images);
                labels.push(label as u8);
            }
            for (suffix, bytes) in [("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)] {
                let file = folder.join(format!("{name}-{suffix}"));
                fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
        Ok(())
    }

    /// Appends one image: a pattern of period 4 at a random phase, with noise over it.
    fn draw(&self, label: usize, random: &mut SplitMix, into: &mut Vec<u8>) {
        let (across, down) = (random.below(4) as usize, random.below(4) as usize);
        for y in 0..self.side {
            for x in 0..self.side {
                let (odd_row, odd_column) = ((y + down) / 2 % 2 == 1, (x + across) / 2 % 2 == 1);
                let is_bright = match label {
                    0 => odd_row,
                    1 => odd_column,
                    2 => odd_row != odd_column,
                    _ => random.below(2) == 1,
                };
                let noise = random.below(56);
                into.push(if is_bright { 200 + noise } else { noise } as u8);
            }
        }
    }
}

/// An IDX header: type and rank, then each dimension, big-endian.
fn header(magic: u32, dimensions: &[usize]) -> Vec<u8> {
    let mut bytes = magic.to_be_bytes().to_vec();
    for &dimension in dimensions {
        bytes.extend((dimension as u32).to_be_bytes());
    }
    bytes
}

/// The SplitMix64 generator (Steele, Lea and Flood, 2014): enough for noise, and the same on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_have_the_lengths_that_their_headers_claim() {
        let patterns = Patterns { side: 8, train: 12, test: 4, seed: 3 };
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        patterns.write(first.path()).unwrap();
        patterns.write(second.path()).unwrap();
        let read = |folder: &tempfile::TempDir, file: &str| fs::read(folder.path().join(file)).unwrap();
        let images = read(&first, "train-images-idx3-ubyte");
        assert_eq!(images[..8], [0, 0, 8, 3, 0, 0, 0, 12]);
        assert_eq!(images.len(), 16 + 12 * 64);
        assert_eq!(read(&first, "t10k-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 4, 0, 1, 2, 3]);
        assert_eq!(images, read(&second, "train-images-idx3-ubyte"));
    }
}
