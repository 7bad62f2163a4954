//! Reads any bytes as an ONNX file: the reader may refuse them, and may do nothing else but give a network, whose
//! channels then fall into groups and which can be written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pruner_core::graph::onnx::{BatchNorms, Options, decode_with, encode};
use pruner_core::{Shape, group};

fuzz_target!(|bytes: &[u8]| {
    let input = (bytes.len() % 2 == 1).then_some(Shape::new(3, 8, 8));
    let Ok(import) = decode_with(bytes, Options { input }) else { return };
    // Groups take memory for every channel, which a small file may have many of.
    let channels: usize = import.network.graph.shapes().iter().map(|shape| shape.channels).sum();
    if channels < 1 << 16 {
        group::groups(&import.network.graph);
    }
    encode(&import.network, BatchNorms::Folded).expect("what was read has all its tensors");
});
