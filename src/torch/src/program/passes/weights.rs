//! Which values are the weights of what operators.

use crate::program::graph::{Arg, Node, ValueId};

/// The weight `[O, I, H, W]` of a convolution over images.
pub(crate) fn convolution_weight(node: &Node) -> Option<ValueId> {
    match (node.operator(), node.arg("weight")) {
        ("conv2d", Some(Arg::Value(weight))) => Some(*weight),
        _ => None,
    }
}

/// The weights of an operator that autocast runs in its lower precision.
pub(crate) fn autocast_weights(node: &Node) -> impl Iterator<Item = ValueId> + '_ {
    let names: &[&str] = if matches!(node.operator(), "conv2d" | "linear") { &["weight", "bias"] } else { &[] };
    names.iter().filter_map(|name| match node.arg(name) {
        Some(Arg::Value(weight)) => Some(*weight),
        _ => None,
    })
}
