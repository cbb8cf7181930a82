//! Which steps of a plan lead from values to the output, and what they read from before them.

use std::collections::{HashMap, HashSet};

use super::{
    graph::{Graph, Node, Operation, ValueId},
    passes::{self, Aliases, InPlace},
    plan::Suffix,
};

/// The suffix of values, among the nodes that are kept (of which the plan makes its steps, in order).
pub(super) fn suffix(graph: &Graph, aliases: &Aliases, keep: &[bool], from: &[ValueId], output: ValueId) -> Suffix {
    let producer: HashMap<ValueId, usize> =
        graph.nodes.iter().enumerate().flat_map(|(index, node)| node.defines().map(move |value| (value, index))).collect();
    let dependent = passes::dependents(graph, aliases, from);
    let on_the_way = passes::needed(graph, aliases, &[output]);
    let reached = |index: usize, node: &Node| {
        keep[index] && on_the_way[index] && node.defines().any(|value| !from.contains(&value) && dependent.contains(&value))
    };
    let mut wanted: HashSet<usize> =
        graph.nodes.iter().enumerate().filter(|(index, node)| reached(*index, node)).map(|(index, _)| index).collect();
    // Scalars are computed anew, as they may depend on the size of the batch.
    let mut open: Vec<usize> = wanted.iter().copied().collect();
    while let Some(index) = open.pop() {
        for value in graph.nodes[index].uses() {
            if let Some(&before) = producer.get(&value)
                && gives_scalar(&graph.nodes[before])
                && wanted.insert(before)
            {
                open.push(before);
            }
        }
    }
    let constants: HashSet<ValueId> = graph.bindings.iter().map(|(id, _)| *id).collect();
    let inside: HashSet<ValueId> = wanted.iter().flat_map(|index| graph.nodes[*index].defines()).collect();
    let mut boundary: Vec<ValueId> = wanted.iter().flat_map(|index| graph.nodes[*index].uses().collect::<Vec<_>>()).collect();
    boundary.retain(|value| !from.contains(value) && !inside.contains(value) && !constants.contains(value));
    boundary.sort_unstable();
    boundary.dedup();
    let written_roots: HashSet<ValueId> = wanted
        .iter()
        .filter(|index| aliases.in_place[**index] == InPlace::Write)
        .filter_map(|index| graph.nodes[*index].first_value().map(|first| aliases.root(first)))
        .collect();
    let written = boundary.iter().copied().filter(|value| written_roots.contains(&aliases.root(*value))).collect();
    let steps = (0..graph.nodes.len()).filter(|index| keep[*index]).enumerate();
    let steps = steps.filter(|(_, index)| wanted.contains(index)).map(|(step, _)| step).collect();
    Suffix { steps, boundary, written }
}

fn gives_scalar(node: &Node) -> bool {
    matches!(node.operation, Operation::Symbolic(_)) || node.operator().starts_with("sym_")
}
