//! Where the output is an affine function of a value whose coefficients no image changes: then its gradient is the same for all images.
//!
//! What is told is what the operators say: each that leads from the value to the output is affine in what depends on the value, with
//! factors that are weights. Terms may be of the image, as they have no part in the gradient. Of anything else, `false`.

use std::collections::HashSet;

use super::{Aliases, InPlace, carries_data, dependents, needed};
use crate::program::graph::{Arg, Graph, Node, Operation, ValueId};

/// Operators that are linear in their first argument, whatever the others are that say how.
const LINEAR: &[&str] = &[
    "_adaptive_avg_pool2d",
    "_to_copy",
    "_unsafe_view",
    "_upsample_nearest_exact2d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "alias",
    "avg_pool1d",
    "avg_pool2d",
    "clone",
    "constant_pad_nd",
    "contiguous",
    "expand",
    "flatten",
    "mean",
    "movedim",
    "narrow",
    "neg",
    "permute",
    "reshape",
    "select",
    "slice",
    "squeeze",
    "sum",
    "t",
    "to",
    "transpose",
    "unflatten",
    "unsqueeze",
    "upsample_bilinear2d",
    "upsample_nearest2d",
    "view",
];

/// Likewise where their argument `train` says that they do nothing.
const DROPOUT: &[&str] = &["alpha_dropout", "dropout", "feature_alpha_dropout", "feature_dropout"];

/// Operators that add their arguments, or put them beside each other.
const SUMS: &[&str] = &["add", "cat", "concat", "stack", "sub"];

/// Operators that are linear in either of their two arguments.
const PRODUCTS: &[&str] = &["bmm", "matmul", "mm", "mul", "multiply"];

/// Operators that are affine in their first argument, where the others are weights.
const OF_WEIGHTS: &[&str] = &["conv1d", "conv2d", "convolution", "div", "linear"];

/// Whether `output` is an affine function of `value` with coefficients that no image changes.
pub(crate) fn is_affine(graph: &Graph, aliases: &Aliases, value: ValueId, output: ValueId) -> bool {
    let on_the_way = needed(graph, aliases, &[output]);
    let dependent = dependents(graph, aliases, &[value]);
    if !dependent.contains(&output) {
        return false;
    }
    let of_image = dependents(graph, aliases, &graph.inputs);
    let kept = graph.nodes.iter().enumerate().filter(|(index, _)| on_the_way[*index]).map(|(index, node)| (node, index));
    kept.filter(|(node, _)| node.no_grad || carries_data(node)).all(|(node, index)| {
        // What is drawn by chance is a weight to the graph, and another one in each run.
        let is_by_chance = node.operator().starts_with("rand") || node.operator().starts_with("bernoulli");
        let is_behind = node.uses().any(|used| dependent.contains(&used));
        !is_by_chance
            && (!is_behind
                || !node.no_grad && aliases.in_place[index] != InPlace::Write && is_affine_node(node, &dependent, &of_image))
    })
}

fn is_affine_node(node: &Node, dependent: &HashSet<ValueId>, of_image: &HashSet<ValueId>) -> bool {
    if node.operation == Operation::Identity {
        return true;
    }
    let name = node.operator();
    let name = if node.is_in_place() { name.trim_end_matches('_') } else { name };
    let depends = |arg: &Arg| values(arg).any(|value| dependent.contains(&value));
    let varies = |arg: &Arg| values(arg).any(|value| of_image.contains(&value));
    let first = node.args.first().map(|(_, arg)| arg);
    let others = || node.args.iter().skip(1).map(|(_, arg)| arg);
    match name {
        _ if SUMS.contains(&name) => true,
        _ if LINEAR.contains(&name) => first.is_some_and(depends) && !others().any(varies),
        _ if DROPOUT.contains(&name) => node.arg("train") == Some(&Arg::Bool(false)),
        _ if PRODUCTS.contains(&name) => node.args.iter().filter(|(_, arg)| varies(arg)).count() == 1,
        _ if OF_WEIGHTS.contains(&name) => {
            first.is_some_and(depends) && !others().any(varies) && node.arg("rounding_mode").is_none_or(|mode| *mode == Arg::None)
        }
        "addmm" => node.arg("mat1").is_some_and(depends) && !node.arg("mat2").is_some_and(varies),
        "batch_norm" => node.arg("training") == Some(&Arg::Bool(false)) && first.is_some_and(depends) && !others().any(varies),
        _ => false,
    }
}

fn values(arg: &Arg) -> impl Iterator<Item = ValueId> + '_ {
    let (one, several): (Option<ValueId>, &[Option<ValueId>]) = match arg {
        Arg::Value(id) => (Some(*id), &[]),
        Arg::Values(ids) => (None, ids),
        _ => (None, &[]),
    };
    one.into_iter().chain(several.iter().flatten().copied())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{aliases, sketch::Sketch},
        *,
    };

    /// Output, operator and arguments.
    type Written = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

    /// Whether the last of some nodes is affine in `a`.
    fn affine(nodes: &[Written]) -> bool {
        let mut sketch = Sketch::new("x");
        sketch.node("a", "relu", &[("self", "x")]);
        for (output, operator, args) in nodes {
            sketch.node(output, operator, args);
        }
        sketch.output(nodes.last().expect("a node").0);
        let output = sketch.graph.outputs[0].expect("an output");
        is_affine(&sketch.graph, &aliases(&sketch.graph), sketch.id("a"), output)
    }

    const POOL: Written = ("pooled", "adaptive_avg_pool2d", &[("self", "a")]);
    const HEAD: Written = ("y", "linear", &[("input", "pooled"), ("weight", "w"), ("bias", "b")]);

    #[test]
    fn pooling_and_a_linear_layer_are_affine() {
        assert!(affine(&[POOL, HEAD]));
        assert!(affine(&[("n", "batch_norm", &[("input", "a"), ("weight", "s")]), ("pooled", "mean", &[("self", "n")]), HEAD]));
        assert!(affine(&[
            POOL,
            ("w", "t", &[("self", "v")]),
            ("y", "addmm", &[("self", "b"), ("mat1", "pooled"), ("mat2", "w")])
        ]));
    }

    #[test]
    fn what_is_added_may_be_of_the_image_and_factors_may_not() {
        assert!(affine(&[("s", "add", &[("self", "a"), ("other", "x")]), ("y", "mean", &[("self", "s")])]));
        assert!(affine(&[("s", "mul", &[("self", "w"), ("other", "a")]), ("y", "mean", &[("self", "s")])]));
        assert!(!affine(&[("s", "mul", &[("self", "a"), ("other", "x")]), ("y", "mean", &[("self", "s")])]));
        assert!(!affine(&[("s", "mul", &[("self", "a"), ("other", "a")]), ("y", "mean", &[("self", "s")])]));
        assert!(!affine(&[("s", "div", &[("self", "w"), ("other", "a")]), ("y", "mean", &[("self", "s")])]));
        assert!(!affine(&[POOL, ("g", "mean", &[("self", "x")]), ("y", "linear", &[("input", "pooled"), ("weight", "g")])]));
    }

    #[test]
    fn what_bends_is_not_affine() {
        assert!(!affine(&[("r", "relu", &[("self", "a")]), ("pooled", "mean", &[("self", "r")]), HEAD]));
        assert!(!affine(&[("pooled", "adaptive_max_pool2d", &[("self", "a")]), HEAD]));
        // Nothing comes back through it, so that no gradient is the same.
        assert!(!affine(&[("pooled", "detach", &[("self", "a")]), HEAD]));
        assert!(!affine(&[("pooled", "mean", &[("self", "x")]), HEAD]), "the output does not depend on it");
    }

    #[test]
    fn dropout_has_to_say_that_it_does_nothing() {
        let mut sketch = Sketch::new("x");
        sketch.node("a", "relu", &[("self", "x")]);
        sketch.node("y", "dropout", &[("input", "a")]);
        sketch.output("y");
        let found = |sketch: &Sketch| is_affine(&sketch.graph, &aliases(&sketch.graph), sketch.id("a"), sketch.id("y"));
        assert!(!found(&sketch));
        sketch.graph.nodes[1].args.push(("train".into(), Arg::Bool(false)));
        assert!(found(&sketch));
        sketch.graph.nodes[1].no_grad = true;
        assert!(!found(&sketch));
    }
}
