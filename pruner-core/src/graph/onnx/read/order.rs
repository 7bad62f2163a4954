//! Which nodes of a file count, and in what order: those that an output depends on, each behind what it reads. Owns the
//! checks that every name has one maker and that nothing reads itself.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::ReadError;
use super::file::{File, Node};
use crate::graph::shown;

/// Who makes a value.
#[derive(Clone, Copy)]
pub(super) enum Maker {
    Input,
    Tensor,
    Node(usize),
}

/// The makers of all names, and the nodes that count.
pub(super) struct Order<'a> {
    pub(super) makers: HashMap<&'a str, Maker>,
    /// Each behind what it reads, otherwise as in the file.
    pub(super) nodes: Vec<usize>,
    /// How often a name is read, by nodes that count and as an output.
    pub(super) uses: HashMap<&'a str, usize>,
}

/// Orders the nodes of a file.
pub(super) fn order<'a>(file: &File<'a>) -> Result<Order<'a>, ReadError> {
    let makers = makers(file)?;
    for node in &file.nodes {
        for name in given(node) {
            if !makers.contains_key(name) {
                let reader = format!("node '{}' ({})", shown::name(node.title()), shown::name(node.operator));
                return Err(ReadError::Undefined { reader, name: name.to_owned() });
            }
        }
    }
    for output in &file.outputs {
        if !makers.contains_key(output.name) {
            let (reader, name) = ("the graph's output".to_owned(), output.name.to_owned());
            return Err(ReadError::Undefined { reader, name });
        }
    }
    let sorted = sorted(file, &makers)?;
    let live = live(file, &makers);
    let nodes: Vec<usize> = sorted.into_iter().filter(|index| live[*index]).collect();
    let mut uses = HashMap::new();
    let read = nodes.iter().flat_map(|index| given(&file.nodes[*index]));
    for name in read.chain(file.outputs.iter().map(|output| output.name)) {
        *uses.entry(name).or_insert(0) += 1;
    }
    Ok(Order { makers, nodes, uses })
}

/// The names that a node reads; an input that is left out has none.
fn given<'a, 'b>(node: &'b Node<'a>) -> impl Iterator<Item = &'a str> + 'b {
    node.inputs.iter().copied().filter(|name| !name.is_empty())
}

fn makers<'a>(file: &File<'a>) -> Result<HashMap<&'a str, Maker>, ReadError> {
    let mut makers = HashMap::new();
    let tensors = file.tensors.iter().map(|tensor| (tensor.name, Maker::Tensor));
    let nodes = file.nodes.iter().enumerate();
    let outputs =
        nodes.flat_map(|(index, node)| node.outputs.iter().map(move |name| (*name, Maker::Node(index))));
    for (name, maker) in tensors.chain(outputs.filter(|(name, _)| !name.is_empty())) {
        if makers.insert(name, maker).is_some() {
            return Err(ReadError::Duplicate { name: name.to_owned() });
        }
    }
    let mut inputs = HashMap::new();
    for input in &file.inputs {
        let is_twice = inputs.insert(input.name, ()).is_some();
        match makers.get(input.name) {
            // An initializer is an input's value where nobody gives another.
            Some(Maker::Tensor) if !is_twice => {}
            None => drop(makers.insert(input.name, Maker::Input)),
            Some(_) => return Err(ReadError::Duplicate { name: input.name.to_owned() }),
        }
    }
    Ok(makers)
}

/// All nodes, of those that may come next always the first in the file.
fn sorted(file: &File<'_>, makers: &HashMap<&str, Maker>) -> Result<Vec<usize>, ReadError> {
    let mut waits = vec![0_usize; file.nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); file.nodes.len()];
    for (index, node) in file.nodes.iter().enumerate() {
        for name in given(node) {
            if let Some(Maker::Node(maker)) = makers.get(name) {
                waits[index] += 1;
                readers[*maker].push(index);
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..waits.len()).filter(|index| waits[*index] == 0).map(Reverse).collect();
    let mut sorted = Vec::with_capacity(waits.len());
    while let Some(Reverse(index)) = ready.pop() {
        sorted.push(index);
        for &reader in &readers[index] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.push(Reverse(reader));
            }
        }
    }
    match waits.iter().position(|waits| *waits > 0) {
        Some(node) => {
            let advice = "waits for its own output: the graph has a cycle; export the network again";
            Err(file.nodes[node].error(advice.to_owned()))
        }
        None => Ok(sorted),
    }
}

/// Whether an output depends on each node.
fn live(file: &File<'_>, makers: &HashMap<&str, Maker>) -> Vec<bool> {
    let mut live = vec![false; file.nodes.len()];
    let mut names: Vec<&str> = file.outputs.iter().map(|output| output.name).collect();
    while let Some(name) = names.pop() {
        if let Some(Maker::Node(index)) = makers.get(name)
            && !live[*index]
        {
            live[*index] = true;
            names.extend(given(&file.nodes[*index]));
        }
    }
    live
}
