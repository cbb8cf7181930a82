//! Taps stay what they were when a later node writes over them.

use std::collections::HashSet;

use super::{InPlace, aliases};
use crate::program::graph::{Arg, Graph, Node, Operation, Output, ValueId};

/// Lets the nodes after a tap work on a copy where they would overwrite it: a tap is what a hook on its module sees, and
/// libtorch does not write into the leaf of a gradient.
pub(crate) fn copy_overwritten_taps(graph: &mut Graph, taps: &[ValueId]) {
    let aliases = aliases(graph);
    let writes = graph.nodes.iter().zip(&aliases.in_place).filter(|(_, mode)| **mode == InPlace::Write);
    let overwritten: HashSet<ValueId> = writes.filter_map(|(node, _)| Some(aliases.root(node.first_value()?))).collect();
    for tap in taps.iter().copied().collect::<HashSet<_>>() {
        // A tap that is itself a view stays one: what is written to its base must reach it.
        if !overwritten.contains(&tap) || graph.bindings.iter().any(|(id, _)| *id == tap) {
            continue;
        }
        let producer = graph.nodes.iter().position(|node| node.defines().any(|value| value == tap));
        let at = producer.map_or(0, |producer| producer + 1);
        let name = format!("{}_copy", graph.values[tap.index()]);
        let copy = graph.add_value(name.clone());
        for node in &mut graph.nodes[at..] {
            node.replace(tap, copy);
        }
        let operation = Operation::Operator { name: "aten::clone".into(), overload: String::new() };
        let args = vec![("self".into(), Arg::Value(tap))];
        graph.nodes.insert(at, Node::new(name, operation, args, vec![Output::Value(copy)]));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::sketch::Sketch, *};

    #[test]
    fn a_tap_that_is_overwritten_in_part_is_copied_first() {
        // layer = conv(x); part = layer[..]; part.fill_(value); y = relu(layer)
        let mut sketch = Sketch::new("x");
        sketch.node("layer", "conv2d", &[("input", "x"), ("weight", "w")]);
        sketch.node("part", "slice", &[("self", "layer")]);
        sketch.node("filled", "fill_", &[("self", "part"), ("value", "one")]);
        sketch.node("y", "relu", &[("self", "layer")]);
        sketch.output("y");
        let (untouched, layer, y) = (sketch.graph.nodes.len(), sketch.id("layer"), sketch.id("y"));
        copy_overwritten_taps(&mut sketch.graph, &[y]);
        assert_eq!(sketch.graph.nodes.len(), untouched, "nobody writes to `y`");
        copy_overwritten_taps(&mut sketch.graph, &[layer]);
        let operators: Vec<_> = sketch.graph.nodes.iter().map(Node::operator).collect();
        assert_eq!(operators, ["conv2d", "clone", "slice", "fill_", "relu"]);
        let copy = sketch.graph.nodes[1].defines().next();
        assert_eq!((sketch.graph.nodes[2].first_value(), sketch.graph.nodes[4].first_value()), (copy, copy));
    }
}
