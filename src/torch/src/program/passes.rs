//! Third phase: what the graph allows. Which in-place writes may become functional, which nodes are needed, which depend on a
//! tap, and which batch norms can be folded into the convolution before them.

use std::collections::{HashMap, HashSet};

use tch::{Kind, Tensor};

use super::graph::{Arg, Binding, Graph, Node, Operation, Output, ValueId};

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

/// How an in-place operator is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
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
pub struct Aliases {
    roots: HashMap<ValueId, ValueId>,
    /// One per node.
    pub in_place: Vec<InPlace>,
    /// Weights and constants that some node writes to: each run needs its own copy.
    pub written_constants: HashSet<ValueId>,
}

impl Aliases {
    /// The value whose memory `value` may share.
    pub fn root(&self, value: ValueId) -> ValueId {
        self.roots.get(&value).copied().unwrap_or(value)
    }
}

/// Finds out which in-place writes another value could see.
pub fn aliases(graph: &Graph) -> Aliases {
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

/// Lets those in-place operators that may be functional write into the memory of their argument where that is of no other use: a
/// fresh result of an operator whose gradient does not depend on its result, read by nothing else and not `protected`.
pub fn reuse_memory(graph: &Graph, modes: &mut [InPlace], protected: &HashSet<ValueId>) {
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

/// Which nodes are needed for `wanted`, walking backwards; unused branches (auxiliary heads) and checks drop out.
pub fn needed(graph: &Graph, aliases: &Aliases, wanted: &[ValueId]) -> Vec<bool> {
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
pub fn dependents(graph: &Graph, aliases: &Aliases, seeds: &[ValueId]) -> HashSet<ValueId> {
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

/// Lets the nodes after a tap work on a copy where they would overwrite it: a tap is what a hook on its module sees, and
/// libtorch does not write into the leaf of a gradient.
pub fn copy_overwritten_taps(graph: &mut Graph, taps: &[ValueId]) {
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

/// Whether the node passes data on, as opposed to shapes only.
pub fn carries_data(node: &Node) -> bool {
    !SHAPE_ONLY.contains(&node.operator())
}

/// The weight `[O, I, H, W]` of a convolution over images.
pub fn convolution_weight(node: &Node) -> Option<ValueId> {
    match (node.operator(), node.arg("weight")) {
        ("conv2d", Some(Arg::Value(weight))) => Some(*weight),
        _ => None,
    }
}

/// The weights of an operator that autocast runs in its lower precision.
pub fn autocast_weights(node: &Node) -> impl Iterator<Item = ValueId> + '_ {
    let names: &[&str] = if matches!(node.operator(), "conv2d" | "linear") { &["weight", "bias"] } else { &[] };
    names.iter().filter_map(|name| match node.arg(name) {
        Some(Arg::Value(weight)) => Some(*weight),
        _ => None,
    })
}

/// Folds each batch norm in evaluation mode into the convolution before it, where nothing else reads the convolution's output:
/// `W' = W * s` and `b' = (b - mean) * s + beta` with `s = gamma / sqrt(var + eps)`, computed in f64.
///
/// `constant` supplies weights by value. The batch norm's node becomes the identity, so a tap on it still works; a convolution
/// that is tapped itself is left alone. Returns the new constants and the number of folded nodes.
pub fn fold_batch_norms(
    graph: &mut Graph,
    taps: &[ValueId],
    constant: &dyn Fn(ValueId) -> Option<Tensor>,
) -> Result<(Vec<(ValueId, Tensor)>, usize), tch::TchError> {
    let mut producer: HashMap<ValueId, usize> = HashMap::new();
    let mut num_uses: HashMap<ValueId, usize> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        producer.extend(node.defines().map(|value| (value, index)));
        for value in node.uses() {
            *num_uses.entry(value).or_default() += 1;
        }
    }
    let protected: HashSet<ValueId> = taps.iter().copied().chain(graph.outputs.iter().flatten().copied()).collect();

    let mut constants = Vec::new();
    let mut folded = 0;
    for index in 0..graph.nodes.len() {
        let Some((conv, fold)) = batch_norm_after_conv(graph, index, &producer) else { continue };
        if num_uses.get(&fold.between) != Some(&1) || protected.contains(&fold.between) {
            continue;
        }
        let double = |value: Option<ValueId>| -> Result<Option<Tensor>, tch::TchError> {
            value.and_then(constant).map(|tensor| tensor.f_to_kind(Kind::Double)).transpose()
        };
        let Some(weight) = constant(fold.weight) else { continue };
        let (Some(mean), Some(variance)) = (double(Some(fold.mean))?, double(Some(fold.variance))?) else { continue };
        let mut scale = variance.f_add_scalar(fold.eps)?.f_rsqrt()?;
        if let Some(gamma) = double(fold.gamma)? {
            scale = scale.f_mul(&gamma)?;
        }
        let mut shape = vec![1; weight.dim()];
        shape[0] = -1;
        let new_weight = weight.f_to_kind(Kind::Double)?.f_mul(&scale.f_view(&shape[..])?)?.f_to_kind(weight.kind())?;
        let bias = double(fold.bias)?.map_or_else(|| mean.f_zeros_like(), Ok)?;
        let mut new_bias = bias.f_sub(&mean)?.f_mul(&scale)?;
        if let Some(beta) = double(fold.beta)? {
            new_bias = new_bias.f_add(&beta)?;
        }
        let weight_id = graph.add_value(format!("{}_folded_weight", graph.nodes[conv].name));
        let bias_id = graph.add_value(format!("{}_folded_bias", graph.nodes[conv].name));
        constants.push((weight_id, new_weight.f_contiguous()?));
        constants.push((bias_id, new_bias.f_to_kind(weight.kind())?));
        graph.nodes[conv].set_arg("weight", Arg::Value(weight_id));
        graph.nodes[conv].set_arg("bias", Arg::Value(bias_id));
        let norm = &mut graph.nodes[index];
        norm.operation = Operation::Identity;
        norm.args = vec![("input".into(), Arg::Value(fold.between))];
        norm.outputs.truncate(1);
        folded += 1;
    }
    Ok((constants, folded))
}

struct Fold {
    between: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
    mean: ValueId,
    variance: ValueId,
    gamma: Option<ValueId>,
    beta: Option<ValueId>,
    eps: f64,
}

fn batch_norm_after_conv(graph: &Graph, index: usize, producer: &HashMap<ValueId, usize>) -> Option<(usize, Fold)> {
    let norm = &graph.nodes[index];
    let value = |node: &Node, name: &str| match node.arg(name) {
        Some(Arg::Value(id)) => Some(*id),
        _ => None,
    };
    if norm.operator() != "batch_norm" || norm.arg("training") != Some(&Arg::Bool(false)) {
        return None;
    }
    let between = value(norm, "input")?;
    let conv = *producer.get(&between)?;
    let node = &graph.nodes[conv];
    if node.operator() != "conv2d" || !matches!(node.outputs[..], [Output::Value(_)]) {
        return None;
    }
    let eps = match norm.arg("eps") {
        Some(Arg::Float(eps)) => *eps,
        _ => return None,
    };
    let weight = value(node, "weight")?;
    // Only a parameter can be replaced; a computed weight (weight standardisation) stays.
    graph.bindings.iter().find(|(id, binding)| *id == weight && matches!(binding, Binding::Weight(_)))?;
    let fold = Fold {
        between,
        weight,
        bias: value(node, "bias"),
        mean: value(norm, "running_mean")?,
        variance: value(norm, "running_var")?,
        gamma: value(norm, "weight"),
        beta: value(norm, "bias"),
        eps,
    };
    Some((conv, fold))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::graph::Graph;

    /// A graph written as `output = operator(arguments)`; a name that nothing defines is a weight.
    struct Sketch {
        graph: Graph,
        ids: HashMap<String, ValueId>,
    }

    impl Sketch {
        fn new(input: &str) -> Sketch {
            let mut sketch = Sketch { graph: Graph::default(), ids: HashMap::new() };
            let id = sketch.value(input);
            sketch.graph.bindings.clear();
            sketch.graph.inputs.push(id);
            sketch
        }

        fn value(&mut self, name: &str) -> ValueId {
            if let Some(id) = self.ids.get(name) {
                return *id;
            }
            let id = self.graph.add_value(name.to_owned());
            self.ids.insert(name.to_owned(), id);
            self.graph.bindings.push((id, Binding::Weight(name.to_owned())));
            id
        }

        fn node(&mut self, output: &str, operator: &str, args: &[(&str, &str)]) {
            let mut bound: Vec<(String, Arg)> =
                args.iter().map(|(name, value)| ((*name).to_owned(), Arg::Value(self.value(value)))).collect();
            if operator == "batch_norm" {
                bound.push(("training".into(), Arg::Bool(false)));
                bound.push(("eps".into(), Arg::Float(1e-5)));
            }
            let id = self.graph.add_value(output.to_owned());
            self.ids.insert(output.to_owned(), id);
            let operation = Operation::Operator { name: format!("aten::{operator}"), overload: String::new() };
            self.graph.nodes.push(Node::new(output.to_owned(), operation, bound, vec![Output::Value(id)]));
        }

        fn id(&self, name: &str) -> ValueId {
            self.ids[name]
        }

        fn output(&mut self, name: &str) {
            let id = self.id(name);
            self.graph.outputs.push(Some(id));
        }
    }

    #[test]
    fn a_write_that_nobody_else_sees_becomes_functional() {
        let mut sketch = Sketch::new("x");
        sketch.node("conv", "conv2d", &[("input", "x"), ("weight", "w")]);
        sketch.node("relu", "relu_", &[("self", "conv")]);
        sketch.output("relu");
        assert_eq!(aliases(&sketch.graph).in_place, [InPlace::No, InPlace::Rebind]);
    }

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
    fn a_write_to_a_weight_asks_for_a_private_copy() {
        let mut sketch = Sketch::new("x");
        sketch.node("flat", "view", &[("self", "w")]);
        sketch.node("scaled", "mul_", &[("self", "flat"), ("other", "x")]);
        sketch.output("scaled");
        let aliases = aliases(&sketch.graph);
        assert_eq!(aliases.in_place[1], InPlace::Write);
        assert_eq!(aliases.written_constants, HashSet::from([sketch.id("w")]));
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

    fn conv_norm() -> Sketch {
        let mut sketch = Sketch::new("x");
        sketch.node("conv", "conv2d", &[("input", "x"), ("weight", "w")]);
        let norm = [("input", "conv"), ("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "var")];
        sketch.node("norm", "batch_norm", &norm);
        sketch.output("norm");
        sketch
    }

    #[test]
    fn a_folded_convolution_computes_what_both_did() {
        tch::manual_seed(0);
        let options = (Kind::Float, tch::Device::Cpu);
        let x = Tensor::randn([2, 3, 5, 6], options);
        let w = Tensor::randn([4, 3, 3, 3], options);
        let [gamma, beta, mean] = [0; 3].map(|_| Tensor::randn([4], options));
        let var = Tensor::rand([4], options) + 0.1;
        let unfolded = x.conv2d(&w, None::<Tensor>, 1, 0, 1, 1).batch_norm(
            Some(&gamma),
            Some(&beta),
            Some(&mean),
            Some(&var),
            false,
            0.1,
            1e-5,
            false,
        );

        let mut sketch = conv_norm();
        let weights: HashMap<ValueId, &Tensor> = [("w", &w), ("gamma", &gamma), ("beta", &beta), ("mean", &mean), ("var", &var)]
            .map(|(n, t)| (sketch.id(n), t))
            .into();
        let constant = |id: ValueId| weights.get(&id).map(|tensor| tensor.shallow_clone());
        let (constants, num_folded) = fold_batch_norms(&mut sketch.graph, &[], &constant).expect("folded");
        assert_eq!((num_folded, constants.len()), (1, 2));
        assert_eq!(sketch.graph.nodes[1].operation, Operation::Identity);
        let folded = x.conv2d(&constants[0].1, Some(&constants[1].1), 1, 0, 1, 1);
        let difference = (unfolded - folded).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn a_tapped_convolution_is_not_folded() {
        let mut sketch = conv_norm();
        let tap = sketch.id("conv");
        let constant = |_: ValueId| Some(Tensor::ones([4], tch::kind::FLOAT_CPU));
        assert_eq!(fold_batch_norms(&mut sketch.graph, &[tap], &constant).expect("nothing folded").1, 0);
    }
}
