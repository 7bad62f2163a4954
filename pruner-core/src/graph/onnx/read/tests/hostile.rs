//! Files that lie, files that are cut off, and files in which anything may stand.

use proptest::prelude::*;

use super::*;

fn small() -> Made {
    let made = made().floats("c.weight", &[4, 4, 3, 3]).ints("target", &[0, -1]).floats("w", &[144, 3]);
    let pads = vec![ints("pads", &[1, 1, 1, 1])];
    let made = made.with("Conv", &["x", "c.weight"], &["c"], pads).node("Relu", &["c"], "r");
    made.node("Reshape", &["r", "target"], "v").node("MatMul", &["v", "w"], "y")
}

/// A cut file is refused unless only the set of operators, the last field, is whole.
#[test]
fn a_file_that_is_cut_off_never_panics() {
    let bytes = small().bytes();
    assert!(decode(&bytes).is_ok());
    for end in 0..bytes.len() {
        assert!(decode(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
    }
}

#[test]
fn sizes_that_lie_are_refused_by_name() {
    let lie = |dims: &[i64], bytes: usize| {
        let mut made = small();
        made.tensors.push(tensor("liar", 1, dims, vec![0; bytes]));
        made.error()
    };
    assert_eq!(
        lie(&[1 << 20, 1 << 10], 8),
        "tensor 'liar' claims dimensions [1048576, 1024] and holds 2 numbers; the file is damaged"
    );
    assert!(lie(&[1 << 40, 1 << 40], 8).contains("which no file holds"));
    assert!(lie(&[-1], 4).contains("claims dimensions [-1]"));
    assert!(lie(&[1; 9], 4).contains("has 9 dimensions; 8 are the most"));
    assert!(lie(&[1], 5).contains("a part of a number"));
    let mut half = small();
    half.tensors[0].raw_data = None;
    half.tensors[0].float_data = vec![0.0; 143];
    assert!(half.error().starts_with("tensor 'c.weight' claims dimensions [4, 4, 3, 3] and holds 143"));
    half.tensors[0].float_data.push(1.0);
    assert!(decode(&half.bytes()).is_ok());
}

#[test]
fn names_of_megabytes_are_refused_and_carried_in_a_few_words() {
    let long = "\u{2713}".repeat(1 << 20);
    let cut = "\u{2713}".repeat(21) + "...";
    assert_eq!(
        made().node(&long, &["x"], "h").node("Relu", &["h"], "y").error(),
        format!(
            "node 'h' ({cut}) makes numbers whose shape is unknown; run ONNX's shape inference over the file and import the result"
        )
    );
    let mode = text("auto_pad", &long);
    let named = |change: &dyn Fn(&mut Made)| {
        let mut made = small();
        change(&mut made);
        let said = match decode(&made.bytes()) {
            Ok(import) => import.notes.iter().map(ToString::to_string).collect(),
            Err(error) => error.to_string(),
        };
        assert!(said.len() < 1024, "{} bytes: {}", said.len(), &said[..300]);
        said
    };
    assert!(named(&|made| made.nodes[1].input[0].clone_from(&long)).contains(&cut));
    assert!(named(&|made| made.tensors[0].name = Some(long.clone())).contains("reads 'c.weight'"));
    assert!(named(&|made| made.outputs[0].name = Some(long.clone())).contains(&cut));
    assert!(
        named(&|made| {
            made.nodes[1].name = Some(long.clone());
            made.nodes[1].op_type = Some("If".to_owned());
        })
        .contains(&cut)
    );
    named(&|made| made.nodes[1].domain = Some(long.clone()));
    named(&|made| made.nodes[0].attribute.push(mode.clone()));
    named(&|made| made.nodes[0].attribute[0] = ints("pads", &vec![1 << 40; 1 << 16]));
}

#[test]
fn a_flood_of_small_parts_is_refused_before_it_takes_memory() {
    let mut graph = Vec::new();
    (0..(1 << 16) + 1).for_each(|_| field(&mut graph, 1, &[]));
    assert_eq!(decode(&model(17, &graph)).unwrap_err().to_string(), "the file has more than 65536 nodes");
    let mut graph = Vec::new();
    (0..1 << 20).for_each(|_| field(&mut graph, 11, &[]));
    field(&mut graph, 11, &[]);
    assert!(decode(&model(17, &graph)).unwrap_err().to_string().contains("has more than 1048576"));
}

/// A thousand layers that share one weight would be a thousand copies of it.
#[test]
fn shared_tensors_do_not_multiply_without_end() {
    let mut made = made().floats("w", &[1024, 1024]);
    made.inputs = vec![value("x", &[1024])];
    for layer in 0..200 {
        let (from, to) = (format!("l{layer}"), format!("l{}", layer + 1));
        let from = if layer == 0 { "x" } else { &from };
        made = made.node("MatMul", &[from, "w"], if layer == 199 { "y" } else { &to });
    }
    assert!(made.error().contains("makes the network many times larger than its file"), "{}", made.error());
}

/// One byte per number in the file would be eight in what is carried through.
#[test]
fn packed_integers_do_not_swell_without_end() {
    let mut made = made().node("Mystery", &["x", "zeros"], "m").node("Relu", &["m"], "y");
    let zeros = schema::Tensor {
        int64_data: vec![0; 1 << 26],
        raw_data: None,
        ..tensor("zeros", 7, &[1 << 26], Vec::new())
    };
    made.tensors.push(zeros);
    let mut graph = made.graph().encode_to_vec();
    field(&mut graph, 13, &value("m", &[4]).encode_to_vec());
    let error = decode(&model(17, &graph)).unwrap_err().to_string();
    assert!(error.contains("makes the network many times larger than its file"), "{error}");
}

#[test]
fn what_is_not_imported_is_refused_by_name_and_word() {
    let relu = || made().node("Relu", &["x"], "y");
    assert!(relu().opset(8).error().contains("version 8 of ONNX's operators"));
    assert!(relu().opset(22).error().contains("export it with an opset of 9 to 21"));
    let control = made().node("If", &["x"], "y").error();
    assert!(control.starts_with("node 'y' (If) is control flow"), "{control}");
    let mut branch = schema::Node::decode(relu().nodes[0].encode_to_vec().as_slice()).unwrap();
    branch.op_type = Some("Loop".to_owned());
    let mut bytes = branch.encode_to_vec();
    let mut attribute = Attribute { name: Some("body".to_owned()), ..Attribute::default() }.encode_to_vec();
    field(&mut attribute, 6, &[]);
    field(&mut bytes, 5, &attribute);
    let mut graph = schema::Graph { node: Vec::new(), ..relu().graph() }.encode_to_vec();
    field(&mut graph, 1, &bytes);
    let error = decode(&model(17, &graph)).unwrap_err().to_string();
    assert!(
        error.starts_with("node 'y' (Loop) holds a graph of its own (control flow) in 'body'"),
        "{error}"
    );
    let mut outside = small();
    outside.tensors[0].data_location = Some(1);
    assert!(outside.error().starts_with("tensor 'c.weight' lies in another file"));
    let mut words = small();
    words.tensors[0].string_data = vec![b"a".to_vec()];
    assert!(words.error().starts_with("tensor 'c.weight' holds strings"));
    let mut functions = small().bytes();
    field(&mut functions, 25, &[]);
    assert!(decode(&functions).unwrap_err().to_string().contains("defines functions of its own"));
}

#[test]
fn names_must_be_made_once_and_before_they_are_read() {
    let twice = made().node("Relu", &["x"], "y").node("Tanh", &["x"], "y");
    assert_eq!(twice.error(), "two values are named 'y'; export the network again, each name once");
    let none = made().node("Relu", &["nothing"], "y");
    assert!(none.error().starts_with("node 'y' (Relu) reads 'nothing', which nothing in the file makes"));
    let cycle = made().node("Add", &["x", "b"], "a").node("Relu", &["a"], "b").node("Relu", &["a"], "y");
    assert!(cycle.error().starts_with("node 'a' (Add) waits for its own output"), "{}", cycle.error());
    // The order of nodes is not the file's duty to us.
    let backwards = made().node("Relu", &["a"], "y").node("Tanh", &["x"], "a");
    assert_eq!(lines(&backwards.import()).len(), 2);
}

#[test]
fn shapes_that_do_not_fit_are_refused_by_name() {
    let narrow = made().floats("w", &[4, 3, 1, 1]).node("Conv", &["x", "w"], "y");
    assert_eq!(narrow.error(), "node 'y': convolution of width 3 reads 4 channels");
    let none = made().floats("w", &[4, 4, 1, 1]).with("Conv", &["x", "w"], &["y"], vec![int("group", 0)]);
    assert_eq!(none.error(), "node 'y': convolution of width 0 reads 4 channels");
    let huge = made().ints("pads", &[0, 0, 1 << 40, 0, 0, 0, 0, 0]).node("Pad", &["x", "pads"], "y");
    assert!(huge.error().contains("node 'y' (Pad)"), "{}", huge.error());
    let wide = vec![ints("strides", &[i64::MAX, 1]), ints("kernel_shape", &[1, 1])];
    let wide = made().with("MaxPool", &["x"], &["m"], wide).node("Relu", &["m"], "y");
    assert!(wide.error().contains("node 'm' (MaxPool)"));
}

/// Nothing is in them, and their rows are many: found by the property below, at 16 GiB and more.
#[test]
fn tensors_of_nothing_are_not_walked_row_by_row() {
    for dims in
        [&[1 << 31, 0][..], &[0, 1 << 31], &[1 << 40, 0, 1], &[1 << 40, 1 << 40, 0], &[0, 1 << 62, 1 << 62]]
    {
        for operator in
            ["Expand", "Add", "Concat", "Gather", "Transpose", "Slice", "Where", "Cast", "Neg", "Reshape"]
        {
            let mut made = made().ints("d", dims).ints("a", &[]).ints("b", &[]).ints("c", &[]);
            made.tensors.push(tensor("empty", 7, dims, Vec::new()));
            for inputs in
                [["empty", "empty", "empty", "empty"], ["empty", "a", "b", "c"], ["a", "d", "empty", "c"]]
            {
                let made = Made { nodes: Vec::new(), ..made.clone() }.with(
                    operator,
                    &inputs,
                    &["t"],
                    vec![int("to", 6)],
                );
                let _ = decode(&made.node("Reshape", &["x", "t"], "y").bytes());
            }
        }
        let made =
            made().ints("d", dims).node("ConstantOfShape", &["d"], "t").node("Reshape", &["x", "t"], "y");
        let _ = decode(&made.bytes());
    }
    // The same of a value of the image's.
    let to = [0, 1, 1, i64::MAX, 2];
    let made = made().opset(11).ints("none", &[]).ints("to", &to).ints("five", &[0, -1, 2, 2, 2]);
    let made = made.node("Reshape", &["x", "five"], "r").node("Resize", &["r", "none", "none", "to"], "y");
    let _ = decode(&made.bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_file_with_flipped_bits_never_panics(flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 1..6)) {
        let mut bytes = small().bytes();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let _ = decode(&bytes);
    }

    #[test]
    fn nodes_with_any_attributes_and_integers_never_panic(
        operator in proptest::sample::select(OPERATORS.as_slice()),
        numbers in proptest::collection::vec(number(), 8),
        lists in proptest::collection::vec(proptest::collection::vec(number(), 0..9), 4),
        rank in 0..6_usize,
        opset in 9..22_i64,
    ) {
        let names = ["axis", "keepdims", "group", "transB", "to", "ceil_mode", "blocksize", "allowzero"];
        let listed = ["axes", "pads", "perm", "strides", "kernel_shape", "dilations", "starts", "ends", "split"];
        let scalars = names.iter().zip(&numbers).map(|(name, number)| int(name, *number));
        let attributes = scalars.chain(listed.iter().zip(lists.iter().cycle()).map(|(name, list)| ints(name, list)));
        let mut made = made().opset(opset);
        for (name, list) in ["a", "b", "c", "d"].iter().zip(&lists) {
            made = made.ints(name, list);
        }
        // A value of another rank, where it can be made.
        let shape: Vec<i64> = [vec![0], vec![-1], vec![2; 4]].concat()[..rank].to_vec();
        made = made.ints("shape", &shape).node("Reshape", &["x", "shape"], "r").floats("w", &[2, 2, 2, 2]);
        let first = if rank % 2 == 0 { "x" } else { "r" };
        let second = if opset % 2 == 0 { "a" } else { "w" };
        let inputs = [first, second, "b", "c", "d"];
        let bytes = made.with(operator, &inputs[..1 + numbers[0].unsigned_abs() as usize % 5], &["y"], attributes.collect()).bytes();
        let _ = decode(&bytes);
        // The same on constants alone.
        let _ = decode(&folding(operator, &lists, opset).bytes());
    }
}

/// A reshape by what the operator makes of constants.
fn folding(operator: &str, lists: &[Vec<i64>], opset: i64) -> Made {
    let mut made = made().opset(opset);
    for (name, list) in ["a", "b", "c", "d"].iter().zip(lists) {
        made = made.ints(name, list);
    }
    made.node("Shape", &["x"], "s").node(operator, &["s", "a", "b", "c", "d"], "t").node(
        "Reshape",
        &["x", "t"],
        "y",
    )
}

fn number() -> impl Strategy<Value = i64> {
    let small = -3..8_i64;
    let any = prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(1 << 31), Just(1 << 20), any::<i64>()];
    prop_oneof![6 => small, 1 => any]
}

const OPERATORS: [&str; 48] = [
    "Conv",
    "BatchNormalization",
    "Gemm",
    "MatMul",
    "Relu",
    "Clip",
    "PRelu",
    "Softmax",
    "Add",
    "Div",
    "Mod",
    "Concat",
    "Split",
    "Slice",
    "Gather",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Pad",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "ReduceMean",
    "ReduceSum",
    "ReduceProd",
    "Resize",
    "Upsample",
    "Identity",
    "ConstantOfShape",
    "Cast",
    "Shape",
    "Dropout",
    "Expand",
    "Tile",
    "Range",
    "Where",
    "Equal",
    "TopK",
    "ArgMax",
    "ConvTranspose",
    "DepthToSpace",
    "SpaceToDepth",
    "Neg",
    "Floor",
    "Size",
    "Min",
];
