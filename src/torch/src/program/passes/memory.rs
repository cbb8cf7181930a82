//! Which writes in place may reuse the memory of their argument.

use std::collections::{HashMap, HashSet};

use super::InPlace;
use crate::program::graph::{Graph, Node, Operation, ValueId};

/// Lets those in-place operators that may be functional write into the memory of their argument where that is of no other use: a
/// fresh result of an operator whose gradient does not depend on its result, read by nothing else and not `protected`.
pub(crate) fn reuse_memory(graph: &Graph, modes: &mut [InPlace], protected: &HashSet<ValueId>) {
    /// Their gradients depend on their arguments at most.
    const FORGETFUL: &[&str] = &["conv2d", "batch_norm", "linear", "add", "add_"];
    let mut producer: HashMap<ValueId, &Node> = HashMap::new();
    let mut num_uses: HashMap<ValueId, usize> = HashMap::new();
    for node in &graph.nodes {
        producer.extend(node.defines().map(|value| (value, node)));
        node.uses().for_each(|value| *num_uses.entry(value).or_default() += 1);
    }
    let is_free = |value: ValueId| num_uses.get(&value) == Some(&1) && !protected.contains(&value);
    for (node, mode) in graph.nodes.iter().zip(modes) {
        let Some(mut value) = node.first_value().filter(|_| *mode == InPlace::Rebind) else { continue };
        while is_free(value) {
            match producer.get(&value) {
                // A folded batch norm hands on the convolution's result.
                Some(producer) if producer.operation == Operation::Identity => match producer.first_value() {
                    Some(before) => value = before,
                    None => break,
                },
                Some(producer) if FORGETFUL.contains(&producer.operator()) => {
                    *mode = InPlace::Reuse;
                    break;
                }
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{aliases, sketch::Sketch},
        *,
    };

    #[test]
    fn memory_is_reused_where_nothing_needs_it() {
        let mut sketch = Sketch::new("x");
        sketch.node("conv", "conv2d", &[("input", "x"), ("weight", "w")]);
        sketch.node("relu", "relu_", &[("self", "conv")]);
        sketch.node("gate", "sigmoid", &[("self", "relu")]);
        sketch.node("scaled", "mul_", &[("self", "gate"), ("other", "relu")]);
        sketch.output("scaled");
        let modes = |protected: &[ValueId]| {
            let mut modes = aliases(&sketch.graph).in_place;
            reuse_memory(&sketch.graph, &mut modes, &protected.iter().copied().collect());
            modes
        };
        // A sigmoid's gradient is computed from its result.
        assert_eq!(modes(&[])[1..], [InPlace::Reuse, InPlace::No, InPlace::Rebind]);
        assert_eq!(modes(&[sketch.id("conv")])[1], InPlace::Rebind, "a tap stays as it is");
    }
}
