//! Second phase: the JSON as a checked graph. Names are resolved, subgraphs of `torch.no_grad()` blocks are inlined, and module
//! paths lead to the values that their modules return.

mod arguments;
mod modules;
mod signature;

use std::collections::HashMap;

use super::{
    graph::{Graph, Node, Operation, ValueId},
    operators,
    schema::{self, Argument},
    symbolic::SymbolicOp,
};
use arguments::value_name;
use modules::{add_modules_from_stacks, module_stack};
use signature::batch_symbol;

/// Why there is no graph.
#[derive(Debug)]
pub(super) struct Refused {
    /// Everything that is wrong, one text each.
    pub problems: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Builds the graph.
///
/// # Errors
/// Something is wrong with it.
pub(super) fn graph(program: &schema::ExportedProgram) -> Result<Graph, Refused> {
    let module = &program.graph_module;
    let mut builder = Builder { batch_symbol: batch_symbol(module), ..Builder::default() };
    let mut scope = Scope::default();
    builder.signature_inputs(module, &mut scope);
    builder.nodes(&module.graph.nodes, &mut scope, false);
    builder.tensors(&module.graph, &scope);
    builder.signature_outputs(module, &scope);
    builder.module_signatures(&module.module_call_graph, &scope);
    if !builder.problems.is_empty() {
        let hint = builder.refused_operators.then(|| operators::HINT.to_owned());
        return Err(Refused { problems: builder.problems, hint });
    }
    let mut graph = builder.graph;
    add_modules_from_stacks(&mut graph);
    Ok(graph)
}

/// Names of one (sub)graph; subgraphs have a namespace of their own.
type Scope = HashMap<String, ValueId>;

#[derive(Default)]
struct Builder {
    graph: Graph,
    /// What the exporter calls the batch size, where it is free.
    batch_symbol: Option<String>,
    problems: Vec<String>,
    refused_operators: bool,
}

/// Far more than any network has: some passes take time by the square of it.
const MAX_NODES: usize = 50_000;

/// Longer names make every message long.
const MAX_NAME_BYTES: usize = 1000;

/// More are not collected: a graph that is nonsense throughout would have one for each word.
const MAX_PROBLEMS: usize = 1000;

impl Builder {
    fn problem(&mut self, text: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(text);
        }
    }

    fn define(&mut self, name: &str, scope: &mut Scope) -> ValueId {
        let id = self.graph.add_value(name.to_owned());
        if scope.insert(name.to_owned(), id).is_some() {
            self.problem(format!("value `{name}` is defined twice"));
        }
        id
    }

    fn lookup(&mut self, name: &str, scope: &Scope, user: &str) -> Option<ValueId> {
        let found = scope.get(name).copied();
        if found.is_none() {
            self.problem(format!("{user} uses value `{name}`, which nothing before it defines"));
        }
        found
    }

    fn nodes(&mut self, nodes: &[schema::Node], scope: &mut Scope, no_grad: bool) {
        for node in nodes {
            let name = node.name.clone().unwrap_or_else(|| node.target.clone());
            if self.graph.nodes.len() >= MAX_NODES {
                return self.problem(format!("it has more than {MAX_NODES} nodes"));
            }
            if name.len() > MAX_NAME_BYTES {
                return self.problem(format!("the name of a node has {} bytes; at most {MAX_NAME_BYTES} are read", name.len()));
            }
            if let Some(kind) = node.target.strip_prefix("torch.ops.higher_order.") {
                if kind == "_export_tracepoint" {
                    self.pass_through(node, &name, scope);
                } else {
                    self.inline(node, &name, kind, scope, no_grad);
                }
                continue;
            }
            if is_identity(node) {
                self.pass_through(node, &name, scope);
                continue;
            }
            let Some(operation) = operation(&node.target) else {
                self.problem(format!("node `{name}`: operator `{}` is not one that camflow runs", node.target));
                self.refused_operators = true;
                self.undefined(node, &name, scope);
                continue;
            };
            let args =
                node.inputs.iter().filter_map(|input| Some((input.name.clone(), self.arg(&input.arg, &name, scope)?))).collect();
            let outputs = self.outputs(&node.outputs, &name, scope);
            let stack = node.metadata.get("nn_module_stack").and_then(|stack| stack.as_str()).unwrap_or_default();
            self.graph.nodes.push(Node { name, operation, args, outputs, no_grad, modules: module_stack(stack) });
        }
    }

    /// Defines the outputs of a node that is refused, so that one problem is not reported as many.
    fn undefined(&mut self, node: &schema::Node, name: &str, scope: &mut Scope) {
        self.outputs(&node.outputs, name, scope);
    }

    /// What comes out is what went in: dropout, and marks that torch.export sets at the borders of modules, and forgets to remove in
    /// `torch.no_grad()` blocks.
    fn pass_through(&mut self, node: &schema::Node, name: &str, scope: &mut Scope) {
        let tensors = |argument: &Argument| match argument {
            Argument::AsTensor(named) => vec![named.name.clone()],
            Argument::AsTensors(list) => list.iter().map(|named| named.name.clone()).collect(),
            _ => Vec::new(),
        };
        let inputs = node.inputs.iter().flat_map(|input| tensors(&input.arg));
        for (input, output) in inputs.zip(node.outputs.iter().flat_map(tensors)) {
            if let Some(id) = self.lookup(&input, scope, &format!("node `{name}`")) {
                scope.insert(output, id);
            }
        }
    }

    /// `torch.no_grad()` blocks (and autocast blocks that change nothing) become part of the outer graph.
    fn inline(&mut self, node: &schema::Node, name: &str, kind: &str, scope: &mut Scope, no_grad: bool) {
        let graph_at = node.inputs.iter().position(|input| matches!(input.arg, Argument::AsGraph(_)));
        let Some((at, Argument::AsGraph(subgraph))) = graph_at.map(|at| (at, &node.inputs[at].arg)) else {
            self.problem(format!("node `{name}`: higher-order operator `{kind}` is not supported"));
            return self.undefined(node, name, scope);
        };
        let before = &node.inputs[..at];
        let inner_no_grad = match kind {
            // The innermost word counts: `enable_grad` within `no_grad` records again.
            "wrap_with_set_grad_enabled" => matches!(before.first().map(|input| &input.arg), Some(Argument::AsBool(false))),
            "wrap_with_autocast" if autocast_is_off(before) => no_grad,
            "wrap_with_autocast" => {
                self.problem(format!(
                    "node `{name}`: the model turns autocast on; export it without, precision is chosen at run time"
                ));
                return self.undefined(node, name, scope);
            }
            _ => {
                self.problem(format!("node `{name}`: higher-order operator `{kind}` is not supported; export a model without data-dependent control flow"));
                return self.undefined(node, name, scope);
            }
        };
        let mut inner = Scope::default();
        for (formal, actual) in subgraph.graph.inputs.iter().zip(&node.inputs[at + 1..]) {
            if let (Some(formal), Some(actual)) = (value_name(formal), value_name(&actual.arg))
                && let Some(id) = self.lookup(actual, scope, &format!("node `{name}`"))
            {
                inner.insert(formal.to_owned(), id);
            }
        }
        self.nodes(&subgraph.graph.nodes, &mut inner, inner_no_grad);
        self.tensors(&subgraph.graph, &inner);
        let outer = node.outputs.iter().flat_map(|output| match output {
            Argument::AsTensors(list) => list.iter().map(|named| named.name.as_str()).collect(),
            other => value_name(other).into_iter().collect::<Vec<_>>(),
        });
        for (result, outer) in subgraph.graph.outputs.iter().zip(outer) {
            let id = value_name(result).and_then(|result| self.lookup(result, &inner, &format!("node `{name}`")));
            if let Some(id) = id {
                scope.insert(outer.to_owned(), id);
            }
        }
    }
}

/// Whether a node gives the very tensor that it takes. As in PyTorch, a layer of that value has the gradient of all that reads it.
fn is_identity(node: &schema::Node) -> bool {
    let dropouts = ["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"];
    let name = node.target.strip_prefix("torch.ops.aten.").and_then(|name| name.strip_suffix(".default"));
    let is_off = |input: &schema::NamedArgument| input.name == "train" && matches!(input.arg, Argument::AsBool(false));
    name.is_some_and(|name| dropouts.contains(&name)) && node.inputs.iter().any(is_off)
}

fn operation(target: &str) -> Option<Operation> {
    if let Some(symbolic) = SymbolicOp::from_target(target) {
        return Some(Operation::Symbolic(symbolic));
    }
    let mut parts = target.strip_prefix("torch.ops.")?.split('.');
    let (namespace, name, overload) = (parts.next()?, parts.next()?, parts.next()?);
    if namespace != "aten" || !operators::is_admitted(name) {
        return None;
    }
    let overload = if overload == "default" { "" } else { overload };
    Some(Operation::Operator { name: format!("{namespace}::{name}"), overload: overload.to_owned() })
}

fn autocast_is_off(arguments: &[schema::NamedArgument]) -> bool {
    arguments.iter().any(|input| matches!(input.arg, Argument::AsBool(false)) && input.name.contains("enabled"))
        || matches!(arguments.get(2).map(|input| &input.arg), Some(Argument::AsBool(false)))
}
