//! Which of a detector's predictions depend on a small part of each layer alone, told by the graph.
//!
//! The logits of a convolutional head are moved (viewed, permuted, concatenated) from maps `[N, C, h, w]`, one for each of its levels. Where
//! all operators from the tapped layers to a map are convolutions and operators of one place at a time, a value of the map depends on a
//! rectangle of each layer, and its gradient is zero elsewhere. `patches.rs` computes it there.

use std::collections::{HashMap, HashSet};

use super::{
    graph::{Arg, Graph, Node, Operation, ValueId},
    passes::{self, Aliases, InPlace},
    plan::{Back, Local, Map},
    suffix::suffix,
};

/// Operators that move numbers and change none.
const MOVING: &[&str] = &[
    "alias",
    "cat",
    "chunk",
    "clone",
    "contiguous",
    "flatten",
    "narrow",
    "permute",
    "reshape",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "transpose",
    "unsqueeze",
    "view",
    "_unsafe_view",
];

/// Operators whose result at a place of a map depends on that place of their arguments alone.
const OF_ONE_PLACE: &[&str] = &[
    "add",
    "alias",
    "clamp",
    "clamp_min",
    "clone",
    "contiguous",
    "div",
    "elu",
    "exp",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "mish",
    "mul",
    "neg",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softplus",
    "sub",
    "tanh",
];

/// Likewise, where their dimension is that of the channels.
const OF_CHANNELS: &[&str] = &["cat", "chunk", "narrow", "slice", "split", "split_with_sizes"];

/// Looks for it, among the nodes that are kept (of which the plan makes its steps, in order). `None`: no map depends on its own places of
/// the taps alone.
pub(super) fn local(graph: &Graph, aliases: &Aliases, keep: &[bool], taps: &[ValueId], output: ValueId) -> Option<Local> {
    if taps.is_empty() || has_names_of_two_values(graph, aliases) {
        return None;
    }
    let values = maps(graph, aliases, output)?;
    let step_of: HashMap<usize, usize> =
        (0..graph.nodes.len()).filter(|index| keep[*index]).enumerate().map(|(step, index)| (index, step)).collect();
    let dependent = passes::dependents(graph, aliases, taps);
    let (mut back, mut read) = (HashMap::new(), HashSet::new());
    let mut way_to = |value: ValueId| {
        let needed = passes::needed(graph, aliases, &[value]);
        let mut way = Vec::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            let is_between = needed[index] && passes::carries_data(node) && node.uses().any(|value| dependent.contains(&value));
            if !is_between {
                continue;
            }
            let step = *step_of.get(&index)?;
            let how = (!node.no_grad && aliases.in_place[index] != InPlace::Write).then(|| back_of(node)).flatten()?;
            if matches!(how, Back::Silu | Back::Again) {
                read.extend(node.uses());
            }
            back.insert(step, how);
            way.push(step);
        }
        Some(way)
    };
    let maps: Vec<Map> = values.iter().map(|value| Map { value: *value, way: way_to(*value) }).collect();
    if maps.iter().all(|map| map.way.is_none()) {
        return None;
    }
    let end = suffix(graph, aliases, keep, &values, output);
    let kept: Vec<&Node> = graph.nodes.iter().zip(keep).filter(|(_, keep)| **keep).map(|(node, _)| node).collect();
    if !end.steps.iter().all(|step| moves(kept[*step])) {
        return None;
    }
    Some(Local { maps, moves: end.steps, boundary: end.boundary, back, read })
}

/// Whether a value is read by its name after it was written over: the name means two values then.
fn has_names_of_two_values(graph: &Graph, aliases: &Aliases) -> bool {
    let mut overwritten = HashSet::new();
    for (node, mode) in graph.nodes.iter().zip(&aliases.in_place) {
        if node.uses().any(|value| overwritten.contains(&value)) {
            return true;
        }
        if *mode != InPlace::No {
            overwritten.extend(node.first_value());
        }
    }
    false
}

/// The values that the output is moved from.
fn maps(graph: &Graph, aliases: &Aliases, output: ValueId) -> Option<Vec<ValueId>> {
    let producer: HashMap<ValueId, usize> =
        graph.nodes.iter().enumerate().flat_map(|(index, node)| node.defines().map(move |value| (value, index))).collect();
    let (mut open, mut seen, mut found) = (vec![output], HashSet::new(), Vec::new());
    while let Some(value) = open.pop() {
        if !seen.insert(value) {
            continue;
        }
        let node = producer.get(&value).map(|index| (&graph.nodes[*index], aliases.in_place[*index]));
        match node {
            Some((node, InPlace::No)) if MOVING.contains(&node.operator()) || node.operation == Operation::Identity => {
                open.extend(moved(node)?);
            }
            Some((node, InPlace::No | InPlace::Rebind | InPlace::Reuse)) if node.operator() != "" => found.push(value),
            _ => return None,
        }
    }
    found.sort_unstable();
    (!found.contains(&output)).then_some(found)
}

/// Whether a node moves numbers, or says sizes.
fn moves(node: &Node) -> bool {
    let is_symbolic = matches!(node.operation, Operation::Symbolic(_) | Operation::Identity);
    is_symbolic || MOVING.contains(&node.operator()) || node.operator().starts_with("sym_")
}

/// What a moving node moves.
fn moved(node: &Node) -> Option<Vec<ValueId>> {
    match node.args.first() {
        Some((_, Arg::Value(value))) => Some(vec![*value]),
        Some((_, Arg::Values(values))) => values.iter().copied().collect(),
        _ => None,
    }
}

fn back_of(node: &Node) -> Option<Back> {
    if node.operation == Operation::Identity {
        return Some(Back::AsItIs);
    }
    let Operation::Operator { overload, .. } = &node.operation else { return None };
    let operator = node.operator();
    let operator = if node.is_in_place() { operator.trim_end_matches('_') } else { operator };
    let is_tensor = |name: &str| matches!(node.arg(name), Some(Arg::Value(_)));
    match operator {
        "conv2d" => (overload.is_empty() && is_tensor("weight")).then_some(Back::Convolution),
        "silu" => Some(Back::Silu),
        "alias" | "clone" | "contiguous" => Some(Back::AsItIs),
        "dropout" | "feature_dropout" => (node.arg("train") == Some(&Arg::Bool(false))).then_some(Back::AsItIs),
        "add" if overload == "Tensor" && is_tensor("other") && node.arg("alpha").is_none() => Some(Back::Sum),
        "cat" => is_of_channels(node).then_some(Back::Concatenation),
        "batch_norm" => (node.arg("training") == Some(&Arg::Bool(false))).then_some(Back::Again),
        _ if OF_ONE_PLACE.contains(&operator) => Some(Back::Again),
        _ if OF_CHANNELS.contains(&operator) => is_of_channels(node).then_some(Back::Again),
        _ => None,
    }
}

fn is_of_channels(node: &Node) -> bool {
    matches!(node.arg("dim"), Some(Arg::Int(1 | -3)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::graph::{Binding, Output};

    /// A graph written as `output = operator(arguments)`; the first value is the image, and what nothing defines is a weight.
    struct Sketch {
        graph: Graph,
        ids: HashMap<&'static str, ValueId>,
    }

    impl Sketch {
        fn new() -> Self {
            let mut sketch = Sketch { graph: Graph::default(), ids: HashMap::new() };
            let image = sketch.graph.add_value("image".into());
            sketch.ids.insert("image", image);
            sketch.graph.inputs.push(image);
            sketch
        }

        fn value(&mut self, name: &'static str) -> ValueId {
            if let Some(id) = self.ids.get(name) {
                return *id;
            }
            let id = self.graph.add_value(name.into());
            self.graph.bindings.push((id, Binding::Weight(name.into())));
            self.ids.insert(name, id);
            id
        }

        fn node(&mut self, output: &'static str, operator: &str, args: &[(&str, &[&'static str])]) {
            let mut bound = Vec::new();
            for (name, values) in args {
                let values: Vec<ValueId> = values.iter().map(|value| self.value(value)).collect();
                let arg = match *name {
                    "tensors" => Arg::Values(values.into_iter().map(Some).collect()),
                    _ => Arg::Value(values[0]),
                };
                bound.push(((*name).to_owned(), arg));
            }
            if operator == "cat" {
                bound.push(("dim".into(), Arg::Int(if output == "logits" { 2 } else { 1 })));
            }
            let id = self.graph.add_value(output.into());
            self.ids.insert(output, id);
            let (name, overload) = operator.split_once('.').unwrap_or((operator, ""));
            let operation = Operation::Operator { name: format!("aten::{name}"), overload: overload.into() };
            self.graph.nodes.push(Node::new(output.into(), operation, bound, vec![Output::Value(id)]));
        }

        fn conv(&mut self, output: &'static str, input: &'static str) {
            self.node(output, "conv2d", &[("input", &[input]), ("weight", &["w"])]);
        }

        /// Of two levels, the second of which is made of the first.
        fn detector(second: &[(&'static str, &str, &'static str)]) -> Self {
            let mut sketch = Sketch::new();
            sketch.conv("first", "image");
            sketch.conv("down", "first");
            let mut last = "down";
            for (output, operator, input) in second {
                sketch.node(output, operator, &[("self", &[*input])]);
                last = output;
            }
            sketch.node("both", "cat", &[("tensors", &["down", last])]);
            sketch.conv("second", "both");
            for (map, flat, level) in [("map1", "flat1", "first"), ("map2", "flat2", "second")] {
                sketch.conv(map, level);
                sketch.node(flat, "flatten", &[("self", &[map])]);
            }
            sketch.node("logits", "cat", &[("tensors", &["flat1", "flat2"])]);
            let id = sketch.ids["logits"];
            sketch.graph.outputs.push(Some(id));
            sketch
        }

        fn local(&self) -> Option<Local> {
            let aliases = passes::aliases(&self.graph);
            let of = |name: &str| self.ids[name];
            let (taps, output) = ([of("first"), of("second")], of("logits"));
            let keep = passes::needed(&self.graph, &aliases, &[taps[0], taps[1], output]);
            local(&self.graph, &aliases, &keep, &taps, output)
        }

        fn names(&self, local: &Local) -> Vec<(&str, Option<Vec<&str>>)> {
            let of = |steps: &Vec<usize>| steps.iter().map(|step| &*self.graph.nodes[*step].name).collect();
            local.maps.iter().map(|map| (&*self.graph.values[map.value.index()], map.way.as_ref().map(of))).collect()
        }
    }

    #[test]
    fn maps_are_found_with_the_way_to_them() {
        let sketch = Sketch::detector(&[]);
        let local = sketch.local().expect("convolutions alone");
        let wanted = [("map1", Some(vec!["map1"])), ("map2", Some(vec!["down", "both", "second", "map2"]))];
        assert_eq!(sketch.names(&local), wanted);
        let moves: Vec<&str> = local.moves.iter().map(|step| &*sketch.graph.nodes[*step].name).collect();
        assert_eq!(moves, ["flat1", "flat2", "logits"]);
        assert!(local.read.is_empty() && local.boundary.is_empty());
    }

    #[test]
    fn what_looks_at_the_whole_layer_is_no_way() {
        let sketch = Sketch::detector(&[("mean", "mean", "down")]);
        let local = sketch.local().expect("the first level");
        assert_eq!(sketch.names(&local), [("map1", Some(vec!["map1"])), ("map2", None)]);
    }

    #[test]
    fn what_a_derivative_reads_is_kept() {
        let sketch = Sketch::detector(&[("bent", "silu", "down")]);
        let local = sketch.local().expect("operators of one place");
        assert_eq!(local.read, HashSet::from([sketch.ids["down"]]));
        let backs: HashSet<String> = local.back.values().map(|back| format!("{back:?}")).collect();
        assert_eq!(backs, ["Convolution", "Silu", "Concatenation"].map(str::to_owned).into());
    }

    #[test]
    fn a_name_of_two_values_is_none() {
        // `down` is written over, and read as what it has become.
        assert!(Sketch::detector(&[("bent", "silu_", "down")]).local().is_none());
    }

    #[test]
    fn logits_that_are_computed_are_a_map() {
        let mut sketch = Sketch::detector(&[]);
        sketch.node("chances", "sigmoid", &[("self", &["logits"])]);
        let (taps, output) = ([sketch.ids["first"]], sketch.ids["chances"]);
        let aliases = passes::aliases(&sketch.graph);
        let keep = vec![true; sketch.graph.nodes.len()];
        assert!(local(&sketch.graph, &aliases, &keep, &taps, output).is_none());
    }
}
