//! Through which nodes data flows: which are needed for a value, and which depend on one.

use std::collections::HashSet;

use super::{Aliases, InPlace};
use crate::program::graph::{Graph, Node, ValueId};

/// Operators that read only shape and dtype of their tensors: no data flows through, so no gradient does. Treating them as
/// dependent would drop writes into buffers that they create (Swin's attention mask).
const SHAPE_ONLY: &[&str] = &[
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "sym_size",
    "sym_numel",
    "sym_stride",
];

/// Which nodes are needed for `wanted`, walking backwards; unused branches (auxiliary heads) and checks drop out.
pub(crate) fn needed(graph: &Graph, aliases: &Aliases, wanted: &[ValueId]) -> Vec<bool> {
    let mut live: HashSet<ValueId> = wanted.iter().copied().collect();
    let mut live_roots: HashSet<ValueId> = wanted.iter().map(|value| aliases.root(*value)).collect();
    let mut keep = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        let writes = aliases.in_place[index] == InPlace::Write
            && node.first_value().is_some_and(|first| live_roots.contains(&aliases.root(first)));
        if writes || node.defines().any(|value| live.contains(&value)) {
            keep[index] = true;
            for value in node.uses() {
                live.insert(value);
                live_roots.insert(aliases.root(value));
            }
        }
    }
    keep
}

/// The values through which the data of `seeds` flows, also by writes into memory that others see.
pub(crate) fn dependents(graph: &Graph, aliases: &Aliases, seeds: &[ValueId]) -> HashSet<ValueId> {
    let mut dependent: HashSet<ValueId> = seeds.iter().copied().collect();
    // Memory that such data is written to: everything that shares it depends, from the start, because libtorch records
    // gradients only into views that were made while it was recording.
    let mut written: HashSet<ValueId> = HashSet::new();
    loop {
        let before = (dependent.len(), written.len());
        for (node, mode) in graph.nodes.iter().zip(&aliases.in_place) {
            if SHAPE_ONLY.contains(&node.operator()) {
                continue;
            }
            let shared = |value: ValueId| written.contains(&aliases.root(value));
            let depends = node.uses().any(|value| dependent.contains(&value) || shared(value));
            if depends && *mode == InPlace::Write {
                written.extend(node.first_value().map(|first| aliases.root(first)));
            }
            if depends {
                dependent.extend(node.defines());
            }
        }
        if before == (dependent.len(), written.len()) {
            break;
        }
    }
    let shared = |index: &usize| written.contains(&aliases.root(ValueId(*index as u32)));
    dependent.extend((0..graph.values.len()).filter(shared).map(|index| ValueId(index as u32)));
    dependent
}

/// Whether the node passes data on, as opposed to shapes only.
pub(crate) fn carries_data(node: &Node) -> bool {
    !SHAPE_ONLY.contains(&node.operator())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{aliases, sketch::Sketch},
        *,
    };

    #[test]
    fn a_write_through_a_view_really_writes_and_is_kept() {
        // mask = new_zeros(x); part = mask[..]; part.fill_(value); y = x + mask
        let mut sketch = Sketch::new("x");
        sketch.node("mask", "new_zeros", &[("self", "x")]);
        sketch.node("part", "slice", &[("self", "mask")]);
        sketch.node("filled", "fill_", &[("self", "part"), ("value", "one")]);
        sketch.node("y", "add", &[("self", "x"), ("other", "mask")]);
        sketch.node("unused", "relu", &[("self", "x")]);
        sketch.output("y");
        let aliases = aliases(&sketch.graph);
        assert_eq!(aliases.in_place[2], InPlace::Write);
        assert_eq!(needed(&sketch.graph, &aliases, &[sketch.id("y")]), [true, true, true, true, false]);
        // Only the shape of `x` flows into the mask.
        let dependent = dependents(&sketch.graph, &aliases, &[sketch.id("x")]);
        assert!(dependent.contains(&sketch.id("y")) && !dependent.contains(&sketch.id("mask")));
    }

    #[test]
    fn gradients_flow_through_a_write_into_a_view() {
        // sheet = new_zeros(x); part = sheet[..]; part.copy_(layer); y = relu(sheet)
        let mut sketch = Sketch::new("x");
        sketch.node("layer", "conv2d", &[("input", "x"), ("weight", "w")]);
        sketch.node("sheet", "new_zeros", &[("self", "x")]);
        sketch.node("part", "slice", &[("self", "sheet")]);
        sketch.node("written", "copy_", &[("self", "part"), ("src", "layer")]);
        sketch.node("y", "relu", &[("self", "sheet")]);
        sketch.node("other", "relu", &[("self", "x")]);
        sketch.output("y");
        let dependent = dependents(&sketch.graph, &aliases(&sketch.graph), &[sketch.id("layer")]);
        for (name, depends) in [("part", true), ("written", true), ("sheet", true), ("y", true), ("other", false), ("x", false)] {
            assert_eq!(dependent.contains(&sketch.id(name)), depends, "{name}");
        }
    }
}
