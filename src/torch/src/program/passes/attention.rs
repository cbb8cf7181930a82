//! Where a graph computes attention, `softmax(q k^T * scale + mask) v`, fused in one operator or written out, and how its
//! probabilities become a value of their own.

use std::collections::HashMap;

use crate::program::graph::{Arg, Graph, Node, Operation, Output, ValueId};

/// One attention of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttentionSite {
    /// The node that computes the probabilities, or all of it.
    pub node: String,
    /// `path` and call number of the modules around it, outermost first.
    pub modules: Vec<(String, String)>,
    /// The probabilities `[N, heads, L, S]` or `[N * heads, L, S]`. Of a fused operator nothing defines them, until a plan captures them.
    pub probabilities: ValueId,
    /// What they are computed from, where it could be told.
    pub queries: Option<Queries>,
    /// The values `[..., S, E]` that the probabilities weigh.
    pub value: ValueId,
    /// The weighted sums `[..., L, E]`.
    pub output: ValueId,
}

/// Queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queries {
    /// `[..., L, E]`
    pub query: ValueId,
    /// `[..., S, E]`, or `[..., E, S]`.
    pub key: ValueId,
    /// Whether it is the latter.
    pub is_transposed: bool,
}

/// All attention that a graph computes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attentions {
    /// In the order of the graph.
    pub sites: Vec<AttentionSite>,
    /// Nodes that compute probabilities in another way, and what is not known about them.
    pub others: Vec<(String, ValueId, &'static str)>,
}

const FUSED: &str = "scaled_dot_product_attention";
const SOFTMAX: [&str; 4] = ["softmax", "_softmax", "special_softmax", "_safe_softmax"];
const PRODUCTS: [&str; 2] = ["matmul", "bmm"];

/// What may stand between a softmax and the product with the values: in a network that is evaluated it changes no number.
const BEHIND: [&str; 12] = [
    "dropout",
    "dropout_",
    "native_dropout",
    "to",
    "_to_copy",
    "type_as",
    "clone",
    "contiguous",
    "expand",
    "view",
    "reshape",
    "alias",
];

/// What may stand between the product of queries and keys and the softmax.
const BEFORE: [&str; 16] = [
    "add",
    "add_",
    "sub",
    "mul",
    "mul_",
    "div",
    "div_",
    "masked_fill",
    "masked_fill_",
    "to",
    "_to_copy",
    "view",
    "reshape",
    "contiguous",
    "clone",
    "clamp",
];

/// Finds the attention of a graph. Each fused one gets a value for its probabilities, which nothing defines yet.
pub(crate) fn attentions(graph: &mut Graph) -> Attentions {
    let mut found = Attentions::default();
    let mut producer: HashMap<ValueId, usize> = HashMap::new();
    let mut readers: HashMap<ValueId, Vec<usize>> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        producer.extend(node.defines().map(|value| (value, index)));
        node.uses().for_each(|value| readers.entry(value).or_default().push(index));
    }
    let mut fused = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        let Some(result) = node.defines().next() else { continue };
        if node.operator() == FUSED {
            match why_not_written_out(node) {
                Some(why) => found.others.push((node.name.clone(), result, why)),
                None => fused.push((found.sites.len(), index)),
            }
            let (Some(query), Some(key), Some(value)) = (of(node, "query"), of(node, "key"), of(node, "value")) else { continue };
            if why_not_written_out(node).is_none() {
                found.sites.push(AttentionSite {
                    node: node.name.clone(),
                    modules: node.modules.clone(),
                    probabilities: result,
                    queries: Some(Queries { query, key, is_transposed: false }),
                    value,
                    output: result,
                });
            }
        } else if SOFTMAX.contains(&node.operator()) {
            match (is_over_last(node), product_with_values(graph, &readers, result)) {
                (true, Some((value, output))) => found.sites.push(AttentionSite {
                    node: node.name.clone(),
                    modules: node.modules.clone(),
                    probabilities: result,
                    queries: product_of_queries(graph, &producer, node),
                    value,
                    output,
                }),
                _ => found.others.push((node.name.clone(), result, "no product of matrices reads it directly")),
            }
        }
    }
    for (site, index) in fused {
        let probabilities = graph.add_value(format!("{}_probabilities", graph.nodes[index].name));
        if let Some(site) = found.sites.get_mut(site) {
            site.probabilities = probabilities;
            if let Some(dim) = graph.batch_dims.get(&site.output).copied() {
                graph.batch_dims.insert(probabilities, dim);
            }
        }
    }
    found
}

/// Lets those fused operators whose probabilities are tapped be two nodes: one that gives them, and their product with the values.
pub(crate) fn write_out_attention(graph: &mut Graph, sites: &[AttentionSite], taps: &[ValueId]) {
    for site in sites.iter().filter(|site| taps.contains(&site.probabilities)) {
        let fused =
            graph.nodes.iter().position(|node| node.operator() == FUSED && node.defines().any(|value| value == site.output));
        let Some(index) = fused else { continue };
        let node = &mut graph.nodes[index];
        let outputs = std::mem::replace(&mut node.outputs, vec![Output::Value(site.probabilities)]);
        let operation = Operation::Operator { name: "aten::matmul".into(), overload: String::new() };
        let args = vec![("self".into(), Arg::Value(site.probabilities)), ("other".into(), Arg::Value(site.value))];
        let mut product = Node::new(format!("{}_values", node.name), operation, args, outputs);
        (product.no_grad, product.modules) = (node.no_grad, node.modules.clone());
        let named = |name: &str| node.arg(name).cloned().unwrap_or(Arg::None);
        node.args = ["query", "key", "attn_mask", "scale"].map(|name| (name.to_owned(), named(name))).into();
        node.operation = Operation::Probabilities;
        graph.nodes.insert(index + 1, product);
    }
}

fn of(node: &Node, name: &str) -> Option<ValueId> {
    match node.arg(name) {
        Some(Arg::Value(value)) => Some(*value),
        _ => None,
    }
}

/// What a fused operator does beside the formula.
fn why_not_written_out(node: &Node) -> Option<&'static str> {
    let is_set = |name: &str| !matches!(node.arg(name), None | Some(Arg::Bool(false)) | Some(Arg::None));
    match () {
        () if is_set("is_causal") => Some("each token sees only those before it"),
        () if is_set("enable_gqa") => Some("several heads share their keys"),
        () => None,
    }
}

/// Whether a softmax is over the last of three or four dimensions.
fn is_over_last(node: &Node) -> bool {
    // A dimension that is counted from the front is the last one if the tensor has no more: a trial run looks at that.
    matches!(node.arg("dim"), Some(Arg::Int(-1 | 2 | 3)))
}

/// The values that a softmax is multiplied with, and the product.
fn product_with_values(
    graph: &Graph,
    readers: &HashMap<ValueId, Vec<usize>>,
    probabilities: ValueId,
) -> Option<(ValueId, ValueId)> {
    let mut open = vec![probabilities];
    let mut found = None;
    let mut num_seen = 0;
    while let Some(value) = open.pop() {
        num_seen += 1;
        if num_seen > graph.nodes.len() {
            return None;
        }
        for node in readers.get(&value).into_iter().flatten().map(|index| &graph.nodes[*index]) {
            if node.first_value() != Some(value) {
                continue;
            }
            if PRODUCTS.contains(&node.operator()) {
                let other = of(node, "other").or_else(|| of(node, "mat2"))?;
                let output = node.defines().next()?;
                if found.replace((other, output)).is_some() {
                    return None;
                }
            } else if BEHIND.contains(&node.operator()) {
                open.extend(node.defines().next());
            }
        }
    }
    found
}

/// Queries and keys of a softmax that is written out.
fn product_of_queries(graph: &Graph, producer: &HashMap<ValueId, usize>, softmax: &Node) -> Option<Queries> {
    let mut node = softmax;
    for _ in 0..graph.nodes.len() {
        node = &graph.nodes[*producer.get(&node.first_value()?)?];
        let (query, key) = match node.operator() {
            operator if PRODUCTS.contains(&operator) => (node.first_value()?, of(node, "other").or_else(|| of(node, "mat2"))?),
            "baddbmm" => (of(node, "batch1")?, of(node, "batch2")?),
            operator if BEFORE.contains(&operator) => continue,
            _ => return None,
        };
        return Some(Queries { query, key, is_transposed: true });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{super::sketch::Sketch, *};

    fn written_out() -> Sketch {
        let mut sketch = Sketch::new("x");
        sketch.node("q", "linear", &[("input", "x"), ("weight", "wq")]);
        sketch.node("k", "transpose", &[("self", "x")]);
        sketch.node("v", "linear", &[("input", "x"), ("weight", "wv")]);
        sketch.node("scores", "matmul", &[("self", "q"), ("other", "k")]);
        sketch.node("scaled", "mul", &[("self", "scores"), ("other", "scale")]);
        sketch.node("masked", "add", &[("self", "scaled"), ("other", "mask")]);
        sketch.node("softmax", "softmax", &[("self", "masked")]);
        sketch.graph.nodes.last_mut().expect("a node").args.push(("dim".into(), Arg::Int(-1)));
        sketch.node("dropped", "dropout", &[("input", "softmax")]);
        sketch.node("sums", "matmul", &[("self", "dropped"), ("other", "v")]);
        sketch.output("sums");
        sketch
    }

    #[test]
    fn what_is_written_out_is_found() {
        let mut sketch = written_out();
        let num_values = sketch.graph.values.len();
        let found = attentions(&mut sketch.graph);
        let [site] = &found.sites[..] else { panic!("{found:?}") };
        assert_eq!((site.probabilities, site.value, site.output), (sketch.id("softmax"), sketch.id("v"), sketch.id("sums")));
        let queries = Queries { query: sketch.id("q"), key: sketch.id("k"), is_transposed: true };
        assert_eq!((site.queries, found.others.len()), (Some(queries), 0));
        // There is nothing to write out.
        let before = sketch.graph.nodes.len();
        write_out_attention(&mut sketch.graph, &found.sites, &[site.probabilities]);
        assert_eq!((sketch.graph.values.len(), sketch.graph.nodes.len()), (num_values, before));
    }

    #[test]
    fn a_softmax_of_something_else_is_told_apart() {
        let mut sketch = Sketch::new("x");
        sketch.node("softmax", "softmax", &[("self", "x")]);
        sketch.graph.nodes.last_mut().expect("a node").args.push(("dim".into(), Arg::Int(-1)));
        sketch.node("gated", "mul", &[("self", "softmax"), ("other", "x")]);
        sketch.output("gated");
        let found = attentions(&mut sketch.graph);
        assert_eq!((found.sites.len(), found.others.len()), (0, 1));
    }

    #[test]
    fn a_fused_operator_is_written_out_where_it_is_tapped() {
        let mut sketch = Sketch::new("x");
        sketch.node("first", FUSED, &[("query", "x"), ("key", "x"), ("value", "x"), ("attn_mask", "bias")]);
        sketch.node("second", FUSED, &[("query", "first"), ("key", "first"), ("value", "first")]);
        sketch.output("second");
        let found = attentions(&mut sketch.graph);
        assert_eq!(found.sites.len(), 2);
        write_out_attention(&mut sketch.graph, &found.sites, &[found.sites[0].probabilities]);
        let operators: Vec<_> = sketch.graph.nodes.iter().map(Node::operator).collect();
        assert_eq!(operators, ["", "matmul", FUSED]);
        assert_eq!(sketch.graph.nodes[0].operation, Operation::Probabilities);
        assert_eq!(sketch.graph.nodes[0].defines().collect::<Vec<_>>(), [found.sites[0].probabilities]);
        assert_eq!(sketch.graph.nodes[1].defines().collect::<Vec<_>>(), [sketch.id("first")]);
    }

    #[test]
    fn causal_attention_is_not_taken_apart() {
        let mut sketch = Sketch::new("x");
        sketch.node("y", FUSED, &[("query", "x"), ("key", "x"), ("value", "x")]);
        sketch.graph.nodes.last_mut().expect("a node").args.push(("is_causal".into(), Arg::Bool(true)));
        sketch.output("y");
        let found = attentions(&mut sketch.graph);
        assert_eq!((found.sites.len(), found.others[0].2), (0, "each token sees only those before it"));
    }
}
