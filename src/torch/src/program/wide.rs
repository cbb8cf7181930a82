//! The same computation in 64-bit floats: what results in 32 bits are measured against.

use tch::{Kind, TchError, Tensor};

use super::graph::{Arg, Graph};

/// C++ numbers of the types of which there is a wider one, and that one: float and complex float.
const WIDER: [(i64, i64); 2] = [(6, 7), (9, 10)];

/// Lets nodes that ask for 32-bit floats give 64-bit ones.
pub(super) fn widen(graph: &mut Graph) {
    for (name, arg) in graph.nodes.iter_mut().flat_map(|node| &mut node.args) {
        if let (true, Arg::Int(kind)) = (name == "dtype", arg)
            && let Some((_, wide)) = WIDER.iter().find(|(narrow, _)| narrow == kind)
        {
            *kind = *wide;
        }
    }
}

/// A weight of 32-bit floats as one of 64; others stay what they are.
pub(super) fn widened(tensor: Tensor) -> Result<Tensor, TchError> {
    match tensor.kind() {
        Kind::Float => tensor.f_to_kind(Kind::Double),
        Kind::ComplexFloat => tensor.f_to_kind(Kind::ComplexDouble),
        _ => Ok(tensor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::graph::{Node, Operation};

    #[test]
    fn only_what_asks_for_floats_of_32_bits_is_widened() {
        let node = |args| {
            let operation = Operation::Operator { name: "aten::to".into(), overload: "dtype".into() };
            Node::new("to".into(), operation, args, Vec::new())
        };
        let mut graph = Graph::default();
        for kind in [6, 5, 4] {
            graph.nodes.push(node(vec![("dtype".into(), Arg::Int(kind)), ("dim".into(), Arg::Int(6))]));
        }
        widen(&mut graph);
        let kinds: Vec<_> = graph.nodes.iter().map(|node| node.arg("dtype").cloned()).collect();
        assert_eq!(kinds, [7, 5, 4].map(|kind| Some(Arg::Int(kind))));
        assert_eq!(graph.nodes[0].arg("dim"), Some(&Arg::Int(6)));
    }
}
