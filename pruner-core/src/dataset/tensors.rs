//! Labelled images as a safetensors file, for programs that read no data set formats of their own.

use std::collections::HashMap;

use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, TensorView};

use super::Split;
use crate::graph::Shape;

impl Split {
    /// The file's bytes: `images`, u8, count x channels x height x width, as they were read; `labels`, i64.
    pub fn to_safetensors(&self, shape: Shape) -> Result<Vec<u8>, SafeTensorError> {
        let images: Vec<u8> = (0..self.len()).flat_map(|index| self.pixels(index)).copied().collect();
        let labels: Vec<u8> =
            (0..self.len()).flat_map(|index| (self.label(index) as i64).to_le_bytes()).collect();
        let Shape { channels, height, width } = shape;
        let tensors = [
            ("images", TensorView::new(Dtype::U8, vec![self.len(), channels, height, width], &images)?),
            ("labels", TensorView::new(Dtype::I64, vec![self.len()], &labels)?),
        ];
        safetensors::serialize(tensors, None::<HashMap<String, String>>)
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn pixels_and_labels_are_there_as_they_were_read() {
        let split = Split::new((0..12).collect(), vec![2, 0, 1], 4);
        let file = split.to_safetensors(Shape::new(1, 2, 2)).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let images = tensors.tensor("images").unwrap();
        assert_eq!(images.shape(), [3, 1, 2, 2]);
        assert_eq!(images.data(), (0..12).collect::<Vec<u8>>());
        let labels = tensors.tensor("labels").unwrap();
        assert_eq!(labels.dtype(), Dtype::I64);
        assert_eq!(labels.data()[..8], 2_i64.to_le_bytes());
    }
}
