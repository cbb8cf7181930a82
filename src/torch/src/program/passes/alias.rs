//! Which values share memory, and which writes in place another one could see.

use std::collections::{HashMap, HashSet};

use crate::program::graph::{Graph, ValueId};

/// Operators whose outputs may share memory with their first argument.
const VIEWS: &[&str] = &[
    "view",
    "reshape",
    "view_as",
    "reshape_as",
    "transpose",
    "permute",
    "t",
    "swapaxes",
    "movedim",
    "slice",
    "select",
    "narrow",
    "unsqueeze",
    "squeeze",
    "expand",
    "expand_as",
    "flatten",
    "unflatten",
    "unbind",
    "split",
    "split_with_sizes",
    "chunk",
    "unfold",
    "diagonal",
    "detach",
    "alias",
    "contiguous",
    "to",
    "type_as",
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "feature_alpha_dropout",
    "_unsafe_view",
    "swapdims",
    "moveaxis",
    "numpy_T",
    "mT",
    "mH",
    "matrix_H",
    "adjoint",
    "ravel",
    "broadcast_to",
    "broadcast_tensors",
    "meshgrid",
    "tensor_split",
    "hsplit",
    "vsplit",
    "dsplit",
    "sum_to_size",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "view_as_real",
    "view_as_complex",
    "real",
    "imag",
    "conj",
    "resolve_conj",
    "resolve_neg",
    "positive",
    "lift_fresh",
];

/// How an in-place operator is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InPlace {
    /// It is not in place.
    No,
    /// Nothing else sees the memory: run the functional twin and let the old name mean the new value. Taps stay snapshots.
    Rebind,
    /// As `Rebind`, and nothing needs what the memory held, for gradients neither: write over it, which saves memory.
    Reuse,
    /// Another live value shares the memory: really write.
    Write,
}

/// Storage roots and the mode of every node.
pub(crate) struct Aliases {
    roots: HashMap<ValueId, ValueId>,
    /// One per node.
    pub in_place: Vec<InPlace>,
    /// Weights and constants that some node writes to: each run needs its own copy.
    pub written_constants: HashSet<ValueId>,
}

impl Aliases {
    /// The value whose memory `value` may share.
    pub(crate) fn root(&self, value: ValueId) -> ValueId {
        self.roots.get(&value).copied().unwrap_or(value)
    }
}

/// Finds out which in-place writes another value could see.
pub(crate) fn aliases(graph: &Graph) -> Aliases {
    let mut last_use: HashMap<ValueId, usize> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        for value in node.uses() {
            last_use.insert(value, index);
        }
    }
    for output in graph.outputs.iter().flatten() {
        last_use.insert(*output, graph.nodes.len());
    }
    let constants: HashSet<ValueId> = graph.bindings.iter().map(|(id, _)| *id).collect();
    let inputs: HashSet<ValueId> = graph.inputs.iter().copied().collect();

    let mut aliases = Aliases { roots: HashMap::new(), in_place: Vec::new(), written_constants: HashSet::new() };
    let mut members: HashMap<ValueId, Vec<ValueId>> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let mut mode = InPlace::No;
        if let Some(first) = node.first_value().filter(|_| node.is_in_place() || VIEWS.contains(&node.operator())) {
            let root = aliases.root(first);
            let family = members.entry(root).or_insert_with(|| vec![root]);
            for value in node.defines() {
                aliases.roots.insert(value, root);
                family.push(value);
            }
            if node.is_in_place() {
                let mine = |value: ValueId| value == first || node.defines().any(|defined| defined == value);
                let seen_later = |value: &ValueId| !mine(*value) && last_use.get(value).is_some_and(|last| *last > index);
                mode = InPlace::Rebind;
                if constants.contains(&root) || inputs.contains(&root) || family.iter().any(seen_later) {
                    mode = InPlace::Write;
                    if constants.contains(&root) || inputs.contains(&root) {
                        aliases.written_constants.insert(root);
                    }
                }
            }
        }
        aliases.in_place.push(mode);
    }
    aliases
}

#[cfg(test)]
mod tests {
    use super::{super::sketch::Sketch, *};

    #[test]
    fn a_write_that_nobody_else_sees_becomes_functional() {
        let mut sketch = Sketch::new("x");
        sketch.node("conv", "conv2d", &[("input", "x"), ("weight", "w")]);
        sketch.node("relu", "relu_", &[("self", "conv")]);
        sketch.output("relu");
        assert_eq!(aliases(&sketch.graph).in_place, [InPlace::No, InPlace::Rebind]);
    }

    #[test]
    fn a_write_to_a_weight_asks_for_a_private_copy() {
        let mut sketch = Sketch::new("x");
        sketch.node("flat", "view", &[("self", "w")]);
        sketch.node("scaled", "mul_", &[("self", "flat"), ("other", "x")]);
        sketch.output("scaled");
        let aliases = aliases(&sketch.graph);
        assert_eq!(aliases.in_place[1], InPlace::Write);
        assert_eq!(aliases.written_constants, HashSet::from([sketch.id("w")]));
    }
}
