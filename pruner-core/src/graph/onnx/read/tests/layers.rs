//! Operators of ours, one by one: attributes, versions and borders.

use super::*;
use crate::graph::{Activation, Conv, Divisor, Padding, Window};

/// The only node behind the image, and its shape.
fn only(made: Made) -> (Op, Shape) {
    let import = made.import();
    let graph = &import.network.graph;
    assert_eq!(graph.nodes().len(), 2, "{:?}", lines(&import));
    assert!(import.notes.is_empty(), "{:?}", import.notes);
    (graph.nodes()[1].op.clone(), graph.shapes()[1])
}

fn conv(weight: [i64; 4], attributes: Vec<Attribute>) -> (Conv, Shape) {
    let made = made().floats("c.weight", &weight).with("Conv", &["x", "c.weight"], &["y"], attributes);
    match only(made) {
        (Op::Conv(conv), shape) => (conv, shape),
        other => panic!("{other:?}"),
    }
}

#[test]
fn convolutions_of_every_kind() {
    let (depthwise, shape) = conv([8, 1, 3, 3], vec![int("group", 4), ints("pads", &[1, 1, 1, 1])]);
    assert_eq!((depthwise.inputs, depthwise.groups, shape), (4, 4, Shape::new(8, 6, 6)));
    let (row, shape) = conv([2, 4, 1, 3], vec![ints("kernel_shape", &[1, 3]), ints("pads", &[0, 0, 0, 1])]);
    let padding = Padding { right: 1, ..Padding::default() };
    assert_eq!((row.window.kernel, row.window.padding, shape), ([1, 3], padding, Shape::new(2, 6, 5)));
    let (wide, shape) = conv([2, 4, 3, 3], vec![ints("dilations", &[2, 1]), ints("strides", &[1, 2])]);
    assert_eq!((wide.window.dilation, wide.window.stride), ([2, 1], [1, 2]));
    assert_eq!(shape, Shape::new(2, 2, 2));
}

#[test]
fn borders_that_the_file_leaves_to_the_reader() {
    let same = |kind| conv([2, 4, 2, 2], vec![text("auto_pad", kind), ints("strides", &[1, 4])]);
    let (upper, shape) = same("SAME_UPPER");
    // Columns: two windows of 2 with a step of 4 reach 6 far, so nothing is missing.
    assert_eq!((upper.window.padding, shape.width), (Padding { bottom: 1, ..Padding::default() }, 2));
    let (lower, shape) = same("SAME_LOWER");
    assert_eq!((lower.window.padding, shape.height), (Padding { top: 1, ..Padding::default() }, 6));
    assert_eq!(same("VALID").0.window.padding, Padding::default());
}

#[test]
fn ceiling_mode_is_a_further_border() {
    let pool = |operator: &str, more: Vec<Attribute>| {
        let window = vec![ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]), int("ceil_mode", 1)];
        made().with(operator, &["x"], &["y"], [window, more].concat())
    };
    let padding = Padding { bottom: 1, right: 1, ..Padding::default() };
    let window = Window { padding, ..Window::square(3, 2, 0) };
    assert_eq!(only(pool("MaxPool", Vec::new())), (Op::MaxPool(window), Shape::new(4, 3, 3)));
    let inside = Op::AvgPool { window, divisor: Divisor::Inside };
    assert_eq!(only(pool("AveragePool", vec![int("count_include_pad", 1)])).0, inside);
    // A border that counts and one that does not.
    let both = pool("AveragePool", vec![int("count_include_pad", 1), ints("pads", &[2, 2, 0, 0])]);
    let import = both.import();
    let nodes = import.network.graph.nodes();
    let border = Padding { top: 2, left: 2, bottom: 0, right: 0 };
    assert_eq!(nodes[1].op, Op::Pad { border, value: 0.0 });
    // 6 and a border of 2 make three windows and a half: the last starts inside and is filled up.
    assert_eq!(import.network.graph.shapes()[2], Shape::new(4, 4, 4));
    assert_eq!(nodes[2].op, Op::AvgPool { window: Window { padding, ..window }, divisor: Divisor::Inside });
}

#[test]
fn limits_are_attributes_or_inputs() {
    let clip = Op::Activation(Activation::Clip { min: f32::MIN, max: 6.0 });
    let old = made().with("Clip", &["x"], &["y"], vec![Attribute::float("max", 6.0)]).opset(10);
    assert_eq!(only(old).0, clip);
    let mut new = made().node("Clip", &["x", "", "max"], "y").opset(11);
    new.tensors.push(tensor("max", 1, &[], 6_f32.to_le_bytes().to_vec()));
    assert_eq!(only(new).0, clip);
    let relu = made().with("Clip", &["x"], &["y"], vec![Attribute::float("min", 0.0)]).opset(9);
    assert_eq!(only(relu).0, Op::RELU);
}

#[test]
fn a_product_is_a_linear_layer() {
    let vector = || made().node("GlobalAveragePool", &["x"], "p").node("Flatten", &["p"], "v");
    let scales = vec![Attribute::float("alpha", 2.0), Attribute::float("beta", 3.0)];
    let gemm = vector().floats("fc.weight", &[4, 2]).floats("fc.bias", &[2]);
    let gemm = gemm.with("Gemm", &["v", "fc.weight", "fc.bias"], &["y"], scales).import();
    assert_eq!(lines(&gemm)[1], "fc = Linear { inputs: 4, outputs: 2, bias: true }(p) 2x1x1");
    assert_eq!(numbers(&gemm, "fc.weight"), [0.0, 4.0, 8.0, 12.0, 2.0, 6.0, 10.0, 14.0]);
    assert_eq!(numbers(&gemm, "fc.bias"), [0.0, 3.0]);
    let rows = vector().floats("w", &[2, 4]).floats("b", &[1]);
    let rows = rows.with("Gemm", &["v", "w", "b"], &["y"], vec![int("transB", 1)]).import();
    assert_eq!(lines(&rows)[1], "y = Linear { inputs: 4, outputs: 2, bias: true }(p) 2x1x1");
    assert_eq!(numbers(&rows, "y.weight"), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let sum = vector().floats("w", &[4, 2]).floats("b", &[2]).node("MatMul", &["v", "w"], "m");
    let sum = sum.node("Add", &["b", "m"], "y").import();
    assert_eq!(lines(&sum)[1], "m = Linear { inputs: 4, outputs: 2, bias: true }(p) 2x1x1");
    assert_eq!(numbers(&sum, "m.bias"), [0.0, 1.0]);
}

/// What something else reads before the sum stays without the bias.
#[test]
fn a_sum_is_no_bias_where_the_product_is_read_elsewhere() {
    let twice = made().floats("w", &[2, 4, 1, 1]).floats("b", &[2, 1, 1]).node("Conv", &["x", "w"], "c");
    let twice =
        twice.node("Identity", &["c"], "i").node("Add", &["i", "b"], "s").node("Mul", &["s", "c"], "y");
    let import = twice.import();
    assert_eq!(
        lines(&import)[1..],
        [
            "b = Constant { shape: Shape { channels: 2, height: 1, width: 1 } }() 2x1x1",
            "s = Binary(Add)(c, b) 2x6x6",
            "y = Binary(Mul)(s, c) 2x6x6"
        ]
    );
}

#[test]
fn resizing_by_sizes_or_scales_and_in_old_versions() {
    use crate::graph::{Coordinates, Interpolation, Resize};
    let old = made().with("Upsample", &["x", "s"], &["y"], vec![text("mode", "nearest")]).opset(9);
    let mut old = old;
    let scales = |scales: [f32; 4]| scales.iter().flat_map(|scale| scale.to_le_bytes()).collect::<Vec<u8>>();
    old.tensors.push(tensor("s", 1, &[4], scales([1.0, 1.0, 2.0, 1.5])));
    let resize = Resize {
        height: 12,
        width: 9,
        step: None,
        interpolation: Interpolation::NearestFloor,
        coordinates: Coordinates::Asymmetric,
    };
    assert_eq!(only(old), (Op::Resize(resize), Shape::new(4, 12, 9)));
    let mut odd = made().with("Resize", &["x", "", "s"], &["y"], vec![text("mode", "linear")]);
    odd.tensors.push(tensor("s", 1, &[4], scales([1.0, 1.0, 0.4, 0.5])));
    let (Op::Resize(resize), shape) = only(odd) else { panic!() };
    assert_eq!((resize.step, shape), (Some([2.5, 2.0]), Shape::new(4, 2, 3)));
    // The batch's size goes through the shape that the size is made of.
    let sized = made().ints("two", &[0]).ints("hw", &[3, 3]).node("Shape", &["x"], "shape");
    let sized = sized.ints("zero", &[0]).ints("end", &[2]).node("Slice", &["shape", "zero", "end"], "nc");
    let sized = sized.with("Concat", &["nc", "hw"], &["sizes"], vec![int("axis", 0)]);
    let sized = sized.with("Resize", &["x", "", "", "sizes"], &["y"], vec![text("mode", "linear")]);
    assert_eq!(only(sized).1, Shape::new(4, 3, 3));
}

#[test]
fn weights_may_come_through_other_nodes() {
    let made = made().floats("w.weight", &[4, 2, 1, 1]).node("Identity", &["w.weight"], "same");
    let made = made.with("Transpose", &["same"], &["turned"], vec![ints("perm", &[1, 0, 2, 3])]);
    let made = made.with("Cast", &["turned"], &["cast"], vec![int("to", 1)]);
    let import = made.node("Conv", &["x", "cast"], "y").import();
    assert_eq!(numbers(&import, "y.weight"), [0.0, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]);
}

/// Each of two layers has a copy of the weights that they share in the file.
#[test]
fn shared_tensors_are_parted() {
    let made = made().floats("c.weight", &[4, 4, 1, 1]).node("Conv", &["x", "c.weight"], "a");
    let import = made.node("Conv", &["a", "c.weight"], "y").import();
    let names: Vec<&String> = import.network.weights.keys().collect();
    assert_eq!(names, ["c.weight", "c_2.weight"]);
}

#[test]
fn batch_norms_slopes_and_softmax() {
    let made = made().floats("n.weight", &[4]).floats("s", &[4, 1, 1]);
    let norm = ["x", "n.weight", "n.weight", "n.weight", "n.weight"];
    let made = made.with("BatchNormalization", &norm, &["b"], vec![Attribute::float("epsilon", 0.5)]);
    let made = made.node("PRelu", &["b", "s"], "p").with("Softmax", &["p"], &["y"], vec![int("axis", -3)]);
    let expected = [
        "n = BatchNorm { channels: 4, eps: 0.5 }(x) 4x6x6",
        "p = PRelu { channels: 4 }(n) 4x6x6",
        "y = Softmax(p) 4x6x6",
    ];
    assert_eq!(lines(&made.import()), expected);
}
