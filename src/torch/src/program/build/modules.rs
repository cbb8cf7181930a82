//! Which values the modules of the model return, by the stacks of the nodes.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::program::graph::{Graph, Node, Operation, ValueId};

/// `key,path,type` triples joined by `;`, outermost first, as (path, key).
pub(super) fn module_stack(stack: &str) -> Vec<(String, String)> {
    stack
        .split(';')
        .filter_map(|part| {
            let mut fields = part.splitn(3, ',');
            let (key, path) = (fields.next()?, fields.next()?);
            (!path.is_empty()).then(|| (path.to_owned(), key.to_owned()))
        })
        .collect()
}

fn gives_tensors(node: &Node) -> bool {
    !matches!(node.operation, Operation::Symbolic(_)) && !node.operator().starts_with("sym_")
}

/// Fills in modules that the exporter recorded no signature for: what a call defines and something outside it uses.
pub(super) fn add_modules_from_stacks(graph: &mut Graph) {
    let mut calls: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
    let mut order = Vec::new();
    let mut users: HashMap<ValueId, Vec<usize>> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        for call in &node.modules {
            let members = calls.entry(call.clone()).or_insert_with(|| {
                order.push(call.clone());
                Vec::new()
            });
            members.push(index);
        }
        for value in node.uses() {
            users.entry(value).or_default().push(index);
        }
    }
    let of_model: HashSet<ValueId> = graph.outputs.iter().flatten().copied().collect();
    let mut found: BTreeMap<String, Vec<Vec<ValueId>>> = BTreeMap::new();
    for call in order {
        if graph.modules.contains_key(&call.0) {
            continue;
        }
        let members = &calls[&call];
        let leaves = |value: &ValueId| {
            of_model.contains(value)
                || users.get(value).is_some_and(|users| users.iter().any(|user| members.binary_search(user).is_err()))
        };
        // Sizes that a module read may be used after it, but no module returns them as its activation.
        let tensors = members.iter().map(|index| &graph.nodes[*index]).filter(|node| gives_tensors(node));
        let outputs: Vec<ValueId> = tensors.flat_map(Node::defines).filter(leaves).collect();
        if !outputs.is_empty() {
            found.entry(call.0).or_default().push(outputs);
        }
    }
    graph.modules.extend(found);
}
