//! Second phase: the JSON as a checked graph. Names are resolved, subgraphs of `torch.no_grad()` blocks are inlined, and module
//! paths lead to the values that their modules return.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    graph::{Arg, BatchDim, Binding, Graph, IntArg, Node, Operation, Output, ValueId},
    operators,
    schema::{self, Argument, InputSpec, OptionalTensor, OutputSpec, Symbolic},
    symbolic::SymbolicOp,
};

/// Why there is no graph.
#[derive(Debug)]
pub struct Refused {
    /// Everything that is wrong, one text each.
    pub problems: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Builds the graph.
///
/// # Errors
/// Something is wrong with it.
pub fn graph(program: &schema::ExportedProgram) -> Result<Graph, Refused> {
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

    fn signature_inputs(&mut self, module: &schema::GraphModule, scope: &mut Scope) {
        for spec in &module.signature.input_specs {
            match spec {
                InputSpec::Parameter { arg, parameter_name } => {
                    let id = self.define(&arg.name, scope);
                    self.graph.bindings.push((id, Binding::Weight(parameter_name.clone())));
                }
                InputSpec::Buffer { arg, buffer_name, persistent } => {
                    let id = self.define(&arg.name, scope);
                    let binding = if *persistent { Binding::Weight } else { Binding::Constant };
                    self.graph.bindings.push((id, binding(buffer_name.clone())));
                }
                InputSpec::TensorConstant { arg, tensor_constant_name } => {
                    let id = self.define(&arg.name, scope);
                    self.graph.bindings.push((id, Binding::Constant(tensor_constant_name.clone())));
                }
                InputSpec::UserInput { arg: Argument::AsTensor(named) } => {
                    let id = self.define(&named.name, scope);
                    self.graph.inputs.push(id);
                }
                InputSpec::UserInput { arg } => {
                    self.problem(format!("an input of the model is not a tensor but {}; wrap the model at export", kind_of(arg)));
                }
                InputSpec::ConstantInput(_) => {}
                InputSpec::Unknown(value) => {
                    self.problem(format!("an input of kind {} is not supported", first_key(value)));
                }
            }
        }
    }

    fn signature_outputs(&mut self, module: &schema::GraphModule, scope: &Scope) {
        for spec in &module.signature.output_specs {
            let OutputSpec::UserOutput { arg } = spec else { continue };
            let id = match arg {
                Argument::AsTensor(named) => self.lookup(&named.name, scope, "the model's output"),
                _ => None,
            };
            self.graph.outputs.push(id);
            let seen = match arg {
                Argument::AsTensor(named) => module.graph.tensor_values.get(&named.name),
                _ => None,
            };
            let size = |size: &schema::Size| match size {
                schema::Size::AsInt(size) => Some(*size),
                _ => None,
            };
            self.graph.output_sizes.push(seen.map(|meta| meta.sizes.iter().map(size).collect()));
        }
        if self.graph.outputs.iter().all(Option::is_none) {
            self.problem("the model returns no tensor".into());
        }
    }

    fn module_signatures(&mut self, calls: &[schema::ModuleCall], scope: &Scope) {
        for call in calls {
            let Some(signature) = call.signature.as_ref().filter(|_| !call.fqn.is_empty()) else { continue };
            let path = call.fqn.split('@').next().unwrap_or(&call.fqn);
            let outputs = signature
                .outputs
                .iter()
                .filter_map(|argument| match argument {
                    // A module inside a subgraph names values of that subgraph; they are found through the stacks instead.
                    Argument::AsTensor(named) => scope.get(&named.name).copied(),
                    _ => None,
                })
                .collect::<Vec<_>>();
            self.graph.modules.entry(path.to_owned()).or_default().push(outputs);
        }
        self.graph.modules.retain(|_, calls| calls.iter().any(|outputs| !outputs.is_empty()));
    }

    /// What the exporter saw of the tensors themselves.
    fn tensors(&mut self, graph: &schema::Graph, scope: &Scope) {
        let whole = graph.tensor_values.iter().filter(|(_, meta)| is_whole(meta.dtype));
        self.graph.whole_numbers.extend(whole.filter_map(|(name, _)| scope.get(name)));
        self.batch_dims(graph, scope);
    }

    fn batch_dims(&mut self, graph: &schema::Graph, scope: &Scope) {
        let Some(symbol) = &self.batch_symbol else { return };
        for (name, meta) in &graph.tensor_values {
            let Some(id) = scope.get(name) else { continue };
            let grows =
                |size: &schema::Size| matches!(size, schema::Size::AsExpr(size) if size.expr_str.contains(symbol.as_str()));
            let mut dims = (0..meta.sizes.len()).filter(|dim| grows(&meta.sizes[*dim]));
            let dim = match (dims.next(), dims.next()) {
                (None, _) => continue,
                (Some(dim), None) => BatchDim::At(dim),
                (Some(_), Some(_)) => BatchDim::Unclear,
            };
            self.graph.batch_dims.insert(*id, dim);
        }
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

    /// Marks that torch.export sets at the borders of modules, and forgets to remove in `torch.no_grad()` blocks: what comes out
    /// is what went in.
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

    fn outputs(&mut self, outputs: &[Argument], node: &str, scope: &mut Scope) -> Vec<Output> {
        outputs
            .iter()
            .map(|output| match output {
                Argument::AsTensors(list) => Output::Values(list.iter().map(|named| self.define(&named.name, scope)).collect()),
                Argument::AsNone(_) => Output::None,
                other => match value_name(other) {
                    Some(name) => Output::Value(self.define(name, scope)),
                    None => {
                        self.problem(format!("node `{node}`: a result of kind {} is not supported", kind_of(other)));
                        Output::None
                    }
                },
            })
            .collect()
    }

    fn arg(&mut self, argument: &Argument, node: &str, scope: &Scope) -> Option<Arg> {
        let user = format!("node `{node}`");
        let unsupported = |builder: &mut Self, what: String| {
            builder.problem(format!("{user}: {what} is not supported"));
            None
        };
        Some(match argument {
            Argument::AsTensor(named) => Arg::Value(self.lookup(&named.name, scope, &user)?),
            Argument::AsTensors(list) => {
                Arg::Values(list.iter().map(|named| self.lookup(&named.name, scope, &user).map(Some)).collect::<Option<_>>()?)
            }
            Argument::AsOptionalTensor(OptionalTensor::AsTensor(named)) => Arg::Value(self.lookup(&named.name, scope, &user)?),
            Argument::AsOptionalTensor(OptionalTensor::AsNone(_)) | Argument::AsNone(_) => Arg::None,
            Argument::AsOptionalTensors(list) => {
                let mut ids = Vec::with_capacity(list.len());
                for member in list {
                    ids.push(match member {
                        OptionalTensor::AsTensor(named) => Some(self.lookup(&named.name, scope, &user)?),
                        OptionalTensor::AsNone(_) => None,
                    });
                }
                Arg::Values(ids)
            }
            Argument::AsInt(number) => Arg::Int(*number),
            Argument::AsInts(list) => Arg::Ints(list.clone()),
            Argument::AsFloat(number) => match number.value() {
                Some(number) => Arg::Float(number),
                None => return unsupported(self, format!("the number {number:?}")),
            },
            Argument::AsFloats(list) => match list.iter().map(schema::Float::value).collect() {
                Some(list) => Arg::Floats(list),
                None => return unsupported(self, "a list of numbers with words in it".into()),
            },
            Argument::AsBool(truth) => Arg::Bool(*truth),
            Argument::AsBools(list) => Arg::Bools(list.clone()),
            Argument::AsString(text) => Arg::Str(text.clone()),
            Argument::AsSymInt(symbolic) | Argument::AsSymBool(symbolic) | Argument::AsSymFloat(symbolic) => match symbolic {
                Symbolic::AsName(name) => Arg::Value(self.lookup(name, scope, &user)?),
                Symbolic::AsInt(number) => Arg::Int(*number),
                Symbolic::AsBool(truth) => Arg::Bool(*truth),
                Symbolic::AsFloat(number) => Arg::Float(number.value().unwrap_or(f64::NAN)),
            },
            Argument::AsSymInts(list) => {
                let mut ints = Vec::with_capacity(list.len());
                for member in list {
                    ints.push(match member {
                        Symbolic::AsInt(number) => IntArg::Constant(*number),
                        Symbolic::AsName(name) => IntArg::Value(self.lookup(name, scope, &user)?),
                        other => return unsupported(self, format!("{other:?} in a list of integers")),
                    });
                }
                Arg::SymInts(ints)
            }
            Argument::AsScalarType(code) => match scalar_type_of_code(*code) {
                Some(number) => Arg::Int(number),
                None => return unsupported(self, format!("dtype code {code}")),
            },
            // contiguous, channels_last, channels_last_3d, preserve are 0, 2, 3, 1 in C++ (`c10/core/MemoryFormat.h`).
            Argument::AsMemoryFormat(code) => match code {
                1 => Arg::Int(0),
                2 => Arg::Int(2),
                3 => Arg::Int(3),
                _ => Arg::Int(1),
            },
            // Only strided tensors occur; leaving the layout to its default says so.
            Argument::AsLayout(7) => Arg::None,
            Argument::AsLayout(code) => return unsupported(self, format!("layout code {code}")),
            Argument::AsDevice(_) => Arg::Device,
            Argument::AsGraph(_) => return unsupported(self, "a subgraph as argument".into()),
            Argument::Unknown(value) => return unsupported(self, format!("an argument of kind {}", first_key(value))),
        })
    }
}

/// The symbol of the input's first size in its quotes: sizes are SymPy's `srepr`, `Mul(Integer(64), Symbol('s77', ...))`.
fn batch_symbol(module: &schema::GraphModule) -> Option<String> {
    let input = module.signature.input_specs.iter().find_map(|spec| match spec {
        InputSpec::UserInput { arg: Argument::AsTensor(named) } => Some(&named.name),
        _ => None,
    })?;
    match module.graph.tensor_values.get(input)?.sizes.first()? {
        schema::Size::AsExpr(size) => size.expr_str.split('\'').nth(1).map(|symbol| format!("'{symbol}'")),
        schema::Size::AsInt(_) => None,
    }
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

/// torch.export's dtype code -> C++ `ScalarType` (`c10/core/ScalarType.h`).
fn scalar_type_of_code(code: i64) -> Option<i64> {
    Some(match code {
        1..=5 => code - 1,
        6..=12 => code - 1,
        13 => 15,
        _ => return None,
    })
}

/// Whether the dtype of torch.export's code is one of whole numbers or truth values.
fn is_whole(code: i64) -> bool {
    const UINT16: i64 = 28;
    matches!(code, 1..=5 | 12 | UINT16)
}

fn autocast_is_off(arguments: &[schema::NamedArgument]) -> bool {
    arguments.iter().any(|input| matches!(input.arg, Argument::AsBool(false)) && input.name.contains("enabled"))
        || matches!(arguments.get(2).map(|input| &input.arg), Some(Argument::AsBool(false)))
}

fn value_name(argument: &Argument) -> Option<&str> {
    match argument {
        Argument::AsTensor(named) => Some(&named.name),
        Argument::AsSymInt(Symbolic::AsName(name))
        | Argument::AsSymBool(Symbolic::AsName(name))
        | Argument::AsSymFloat(Symbolic::AsName(name)) => Some(name),
        _ => None,
    }
}

fn first_key(value: &serde_json::Value) -> String {
    value.as_object().and_then(|object| object.keys().next()).map_or_else(|| "unknown".into(), |key| format!("`{key}`"))
}

fn kind_of(argument: &Argument) -> String {
    let text = format!("{argument:?}");
    format!("`{}`", text.split(['(', ' ']).next().unwrap_or("unknown"))
}

/// `key,path,type` triples joined by `;`, outermost first, as (path, key).
fn module_stack(stack: &str) -> Vec<(String, String)> {
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
fn add_modules_from_stacks(graph: &mut Graph) {
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
