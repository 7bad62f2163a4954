//! The promised length is the written length, and the bytes never change.

use super::*;
use crate::graph::Shape;
use crate::init::init;
use crate::zoo::{ZooNetwork, build};

fn network(which: ZooNetwork, input: Shape) -> Network {
    let graph = build(which, input, 10).unwrap();
    let weights = init(&graph, 7);
    Network { graph, weights }
}

#[test]
fn the_promised_length_is_the_written_one() {
    for which in ZooNetwork::ALL {
        let network = network(which, Shape::new(3, 32, 32));
        let bytes = encode(&network, BatchNorms::Folded).unwrap();
        assert_eq!(bytes.len() as u64, encoded_len(&network.graph), "{which}");
    }
}
