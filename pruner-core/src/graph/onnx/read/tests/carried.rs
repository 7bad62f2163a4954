//! Nodes that are carried through, and what the file says of its input and outputs.

use super::*;
use crate::graph::onnx::{BatchNorms, encode};
use crate::graph::{Opaque, Operand};

fn opaque<'b>(import: &'b Import, name: &str) -> &'b Opaque {
    let id = import.network.graph.find(name).unwrap();
    match &import.network.graph.node(id).op {
        Op::Opaque(opaque) => opaque,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_keeps_its_message_and_its_constants() {
    let made = made().floats("w", &[4, 3, 2, 2]).node("ConvTranspose", &["x", "w"], "t");
    let import = made.node("Relu", &["t"], "y").import();
    let carried = opaque(&import, "t");
    assert_eq!(carried.outputs, [[1, 3, 7, 7]]);
    assert_eq!(carried.operands[0], Operand::Value { rank: 4 });
    let Operand::Constant(tensor) = &carried.operands[1] else { panic!() };
    let tensor = schema::Tensor::decode(&**tensor).unwrap();
    assert_eq!((tensor.dims.as_slice(), tensor.raw_data.unwrap().len()), (&[4, 3, 2, 2][..], 48 * 4));
    assert_eq!(schema::Node::decode(carried.node.as_slice()).unwrap().op_type(), "ConvTranspose");
    assert_eq!(import.notes.len(), 1);
}

/// What is in the file where the rules do not say it.
#[test]
fn an_unknown_operator_has_the_shape_that_the_file_says() {
    let mut made = made().node("Mystery", &["x"], "m").node("Relu", &["m"], "y");
    made.nodes[0].domain = Some("com.example".to_owned());
    let advice = "run ONNX's shape inference over the file and import the result";
    assert_eq!(made.error(), format!("node 'm' (Mystery) makes numbers whose shape is unknown; {advice}"));
    let mut graph = made.graph().encode_to_vec();
    field(&mut graph, 13, &value("m", &[5, 2, 3]).encode_to_vec());
    let import = decode(&model(17, &graph)).unwrap();
    assert_eq!(lines(&import)[0], "m = Opaque com.example.Mystery(x) 5x2x3");
    assert_eq!(import.notes[0].reason, "its operator is not ONNX's own but of 'com.example'");
}

#[test]
fn further_outputs_are_parts() {
    let made = made().ints("lengths", &[2, 4]);
    let made = made.with("Split", &["x", "lengths"], &["a", "b"], vec![int("axis", 3)]);
    let made = made.node("Relu", &["b"], "y").node("Tanh", &["a"], "z");
    let import = Made { outputs: vec![value("z", &[4, 6, 2]), value("y", &[4, 6, 4])], ..made }.import();
    let expected = [
        "a = Opaque Split(x) 4x6x2",
        "a.1 = Part { index: 1 }(a) 4x6x4",
        "y = Activation(Relu)(a.1) 4x6x4",
        "z = Activation(Tanh)(a) 4x6x2",
        "outputs = Outputs(z, y) 144x1x1",
    ];
    assert_eq!(lines(&import), expected);
    let names: Vec<&str> = import.network.graph.interface().outputs.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["z", "y"]);
}

/// The batch's size in a shape is copied or inferred, never fixed.
#[test]
fn a_shape_with_the_batch_in_it_stays_open() {
    let made = made().node("Shape", &["x"], "shape").ints("0", &[0]).ints("1", &[1]);
    let made = made.node("Slice", &["shape", "0", "1"], "n").ints("rest", &[2, 72]);
    let made = made.with("Concat", &["n", "rest"], &["target"], vec![int("axis", 0)]);
    let import = made.node("Reshape", &["x", "target"], "y").import();
    let Operand::Constant(tensor) = &opaque(&import, "y").operands[1] else { panic!() };
    let raw = schema::Tensor::decode(&**tensor).unwrap().raw_data.unwrap();
    assert_eq!(raw, [0_i64, 2, 72].map(i64::to_le_bytes).concat());
    assert!(encode(&import.network, BatchNorms::Kept).is_ok());
}

#[test]
fn the_input_is_one_image_of_known_size() {
    let open = |dims: &[Option<i64>]| {
        let dim = |dim: &Option<i64>| schema::Dimension { value: dim.map(schema::DimensionValue::Value) };
        let shape = schema::TensorShape { dim: dims.iter().map(dim).collect() };
        let tensor = schema::TensorType { elem_type: Some(1), shape: Some(shape) };
        let r#type = Some(schema::Type { tensor_type: Some(tensor) });
        let inputs = vec![schema::Value { name: Some("x".to_owned()), r#type }];
        Made { inputs, ..made().node("Relu", &["x"], "y") }
    };
    let sizes = open(&[Some(2), Some(3), None, Some(8)]);
    let advice = "export the network with fixed channels, rows and columns, or say the input's shape";
    let expected = format!("the network's input 'x' leaves dimension 3 open (no name); {advice}");
    assert_eq!(sizes.error(), expected);
    let given = |shape| decode_with(&sizes.bytes(), Options { input: Some(shape) });
    let import = given(Shape::new(3, 7, 8)).unwrap();
    assert_eq!(import.network.graph.input_shape(), Shape::new(3, 7, 8));
    assert_eq!(import.network.graph.interface().batch, Batch::Fixed(2));
    let error = given(Shape::new(3, 7, 9)).unwrap_err().to_string();
    assert_eq!(error, "the network's input 'x' has dimension 4 of 8 in the file, not of 9");
    assert!(open(&[None, None]).error().contains("leaves dimension 2 open"));
    assert!(open(&[None, Some(3), Some(3)]).error().contains("has 3 dimensions"));
    assert_eq!(open(&[None, Some(3)]).import().network.graph.interface().input_rank, 2);
    let two =
        Made { inputs: vec![value("x", &[4]), value("z", &[4])], ..made().node("Add", &["x", "z"], "y") };
    assert!(two.error().contains("is not one but 2: 'x', 'z'"), "{}", two.error());
    assert!(made().floats("w", &[4]).node("Relu", &["w"], "y").error().contains("no output depends on one"));
}
