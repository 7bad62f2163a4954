//! Several nodes that are one of ours, or none.

use super::*;

#[test]
fn a_view_leaves_no_node_behind() {
    let made = made().ints("there", &[0, -1, 2, 3]).ints("back", &[-1, 4, 6, 6]).node("Relu", &["x"], "r");
    let made = made.node("Reshape", &["r", "there"], "apart").node("Reshape", &["apart", "back"], "again");
    let made = made.node("GlobalAveragePool", &["again"], "p").ints("axes", &[2, 3]);
    let made = made.node("Squeeze", &["p", "axes"], "v").node("Unsqueeze", &["v", "axes"], "u");
    let import = made.node("Tanh", &["u"], "y").import();
    assert_eq!(lines(&import)[1..], ["p = GlobalAvgPool(r) 4x1x1", "y = Activation(Tanh)(p) 4x1x1"]);
}

/// As PyTorch writes `x.view(x.size(0), -1)`.
#[test]
fn a_shape_that_is_computed_from_the_image_is_folded() {
    let made = made().node("Shape", &["x"], "shape");
    let zero = schema::Tensor { dims: Vec::new(), ..tensor("", 7, &[], 0_i64.to_le_bytes().to_vec()) };
    let zero = Attribute { name: Some("value".into()), t: Some(zero), kind: Some(4), ..Attribute::default() };
    let made = made.with("Constant", &[], &["zero"], vec![zero]);
    let made = made.with("Gather", &["shape", "zero"], &["n"], vec![int("axis", 0)]);
    let made = made.ints("axis0", &[0]).node("Unsqueeze", &["n", "axis0"], "ns").ints("rest", &[-1]);
    let made = made.with("Concat", &["ns", "rest"], &["target"], vec![int("axis", 0)]);
    let import = made.node("Reshape", &["x", "target"], "y").import();
    assert_eq!(lines(&import), ["y = Flatten(x) 144x1x1"]);
    assert_eq!(import.network.graph.interface().outputs, [Output { name: "y".into(), rank: 2 }]);
}

#[test]
fn a_shuffle_of_channels() {
    let made = made().ints("apart", &[0, 2, 2, 6, 6]).ints("together", &[-1, 4, 6, 6]);
    let made = made.node("Reshape", &["x", "apart"], "a");
    let made = made.with("Transpose", &["a"], &["t"], vec![ints("perm", &[0, 2, 1, 3, 4])]);
    assert_eq!(
        lines(&made.node("Reshape", &["t", "together"], "y").import()),
        ["y = Shuffle { groups: 2 }(x) 4x6x6"]
    );
}

#[test]
fn gates() {
    let silu = made().node("Sigmoid", &["x"], "s").node("Mul", &["s", "x"], "y").import();
    assert_eq!(lines(&silu), ["y = Activation(Silu)(x) 4x6x6"]);
    let sixth = vec![Attribute::float("alpha", 1.0 / 6.0)];
    let swish = made().with("HardSigmoid", &["x"], &["s"], sixth).node("Mul", &["x", "s"], "y").import();
    assert_eq!(lines(&swish), ["y = Activation(HardSwish)(x) 4x6x6"]);
    let other = made().node("HardSigmoid", &["x"], "s").node("Mul", &["x", "s"], "y").import();
    assert_eq!(lines(&other).len(), 2);
}

#[test]
fn slices_of_channels() {
    let made =
        made().with("Split", &["x", "lengths"], &["a", "b"], vec![int("axis", 1)]).ints("lengths", &[1, 3]);
    let made = made.ints("starts", &[-2]).ints("ends", &[i64::MAX]).ints("axes", &[1]);
    let made = made.node("Slice", &["b", "starts", "ends", "axes"], "c");
    let import = made.with("Concat", &["c", "a"], &["y"], vec![int("axis", 1)]).import();
    let expected = [
        "a.0 = Slice { start: 0, end: 1 }(x) 1x6x6",
        "a.1 = Slice { start: 1, end: 4 }(x) 3x6x6",
        "c = Slice { start: 1, end: 3 }(a.1) 2x6x6",
        "y = Concat(c, a.0) 3x6x6",
    ];
    assert_eq!(lines(&import), expected);
}

#[test]
fn constants_beside_features() {
    let made = made().floats("mean.value", &[4, 1, 1]).floats("one", &[1]).floats("map", &[1, 1, 6, 6]);
    let made = made.node("Sub", &["x", "mean.value"], "a").node("Div", &["one", "a"], "b");
    let import = made.node("Mul", &["b", "map"], "y").import();
    let shapes: Vec<String> = lines(&import).into_iter().map(|line| line.replace("Shape ", "")).collect();
    assert_eq!(shapes[0], "mean = Constant { shape: { channels: 4, height: 1, width: 1 } }() 4x1x1");
    assert_eq!(shapes[3], "b = Binary(Div)(one, a) 4x6x6");
    assert_eq!(shapes[4], "map = Constant { shape: { channels: 1, height: 6, width: 6 } }() 1x6x6");
    assert_eq!(numbers(&import, "mean.value"), [0.0, 1.0, 2.0, 3.0]);
}

#[test]
fn the_mean_over_rows_and_columns() {
    let both = vec![ints("axes", &[-1, 2]), int("keepdims", 0)];
    let import = made().with("ReduceMean", &["x"], &["y"], both).import();
    assert_eq!(lines(&import), ["y = GlobalAvgPool(x) 4x1x1"]);
    assert_eq!(import.network.graph.interface().outputs[0].rank, 2);
    let new = made().ints("axes", &[2, 3]).node("ReduceMean", &["x", "axes"], "y").opset(18).import();
    assert_eq!(lines(&new), ["y = GlobalAvgPool(x) 4x1x1"]);
    let rows = made().with("ReduceMean", &["x"], &["y"], vec![ints("axes", &[2])]).import();
    assert_eq!(
        rows.notes[0].to_string(),
        "node 'y' (ReduceMean) is carried through unchanged: it is not over rows and columns"
    );
}

#[test]
fn what_no_output_needs_is_dropped() {
    let made = made().node("Mystery", &["x"], "unused").node("Sigmoid", &["x"], "s");
    let import = made.node("Relu", &["x"], "y").import();
    assert_eq!(lines(&import), ["y = Activation(Relu)(x) 4x6x6"]);
    assert!(import.notes.is_empty());
}
