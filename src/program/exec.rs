//! Last phase: a [`Plan`] for one device and one set of taps, and its execution.
//!
//! Nothing before the shallowest tap records gradients, weights never require them, nodes that neither the output nor a tap
//! needs are dropped, and every value is freed after its last use.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::{
    Program, ProgramError,
    dispatch::{self, DispatchError, Input, Operator, Output as Result_},
    graph::{Arg, Graph, IntArg, Node, Operation, Output, ValueId},
    passes::{self, InPlace},
    symbolic::{Scalar, SymbolicOp},
};

/// How a plan is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Where.
    pub device: Device,
    /// The same operators as eager PyTorch. Otherwise batch norms are folded into convolutions, which is faster and moves sums
    /// in the last bit. Memory stays contiguous in both: channels-last convolutions were measured to end up about twice as far
    /// from fp64 as eager fp32 is (on a ResNet-50 with random weights), folding alone just as far.
    pub exact: bool,
    /// Type of weights and activations. `Float` in production; `Double` is the reference that both are judged by.
    pub kind: Kind,
}

/// A node of the graph failed at run time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node `{node}` ({operator}): {source}")]
pub struct ExecError {
    /// The node's name in the graph.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// libtorch's reason.
    pub source: DispatchError,
}

/// What a run gives.
#[derive(Debug)]
pub struct Execution {
    /// The wanted output, with a gradient graph from the taps.
    pub output: Tensor,
    /// The activations, in the order of the taps; each requires a gradient.
    pub taps: Vec<Tensor>,
}

enum Action {
    Call { operator: Arc<Operator>, clone_first: bool },
    Symbolic(SymbolicOp),
    Identity,
}

struct Step {
    node: String,
    operator: String,
    action: Action,
    /// One per schema argument; `None` is the schema's default.
    args: Vec<Option<Arg>>,
    outputs: Vec<Output>,
    grad: bool,
    /// After a functional twin: the old name means the new value from here on.
    rebind: Option<ValueId>,
    free: Vec<ValueId>,
}

/// A model made ready for one device, one output and one set of taps.
pub struct Plan {
    steps: Vec<Step>,
    constants: HashMap<ValueId, Tensor>,
    written_constants: HashSet<ValueId>,
    num_values: usize,
    input: ValueId,
    output: ValueId,
    taps: Vec<ValueId>,
    options: PlanOptions,
    device_name: String,
    /// Batch norms folded into convolutions.
    pub num_folded: usize,
    // Declared last, so that it is dropped after the tensors that point into it.
    _mapping: Arc<memmap2::MmapMut>,
}

// SAFETY: tensors may move between threads; a plan is owned by one thread at a time.
unsafe impl Send for Plan {}

enum Value {
    Tensor(Tensor),
    Scalar(Scalar),
}

impl Plan {
    /// Prunes, folds, moves weights to the device and resolves operators.
    ///
    /// # Errors
    /// An operator or weight is missing (already reported by [`Program::open`]), or the device has no memory for the weights.
    pub fn new(program: &Program, output: ValueId, taps: &[ValueId], options: PlanOptions) -> Result<Plan, ProgramError> {
        let _no_grad = tch::no_grad_guard();
        let torch = |error: tch::TchError| program.device_error(options.device, &error);
        let mut graph = program.graph.clone();
        let mut folded = (Vec::new(), 0);
        if !options.exact {
            folded = passes::fold_batch_norms(&mut graph, taps, &|id| program.constant(id)).map_err(torch)?;
        }
        let aliases = passes::aliases(&graph);
        let wanted: Vec<ValueId> = taps.iter().copied().chain([output]).collect();
        let keep = passes::needed(&graph, &aliases, &wanted);
        let dependent = passes::dependents(&graph, taps);

        let kept = || graph.nodes.iter().enumerate().filter(|(index, _)| keep[*index]);
        let mut last_use: HashMap<ValueId, usize> = HashMap::new();
        for (index, node) in kept() {
            for value in node.uses().chain(node.defines()) {
                last_use.insert(value, index);
            }
        }
        let mut constants = HashMap::new();
        let needed_constants: HashSet<ValueId> = kept().flat_map(|(_, node)| node.uses().collect::<Vec<_>>()).collect();
        let mut folded_constants: HashMap<ValueId, Tensor> = folded.0.into_iter().collect();
        for id in needed_constants {
            let Some(tensor) = folded_constants.remove(&id).or_else(|| program.constant(id)) else { continue };
            constants.insert(id, prepare(tensor, options).map_err(torch)?);
        }

        let mut steps = Vec::new();
        let mut problems = Vec::new();
        for (index, node) in kept() {
            let grad = !node.no_grad && passes::carries_data(node) && node.uses().any(|value| dependent.contains(&value));
            let free = node
                .uses()
                .chain(node.defines())
                .collect::<HashSet<_>>()
                .into_iter()
                .filter(|value| last_use[value] == index && *value != output && !constants.contains_key(value))
                .collect();
            match step(node, aliases.in_place[index], grad, free) {
                Ok(step) => steps.push(step),
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(program.invalid(problems));
        }
        Ok(Plan {
            steps,
            constants,
            written_constants: aliases.written_constants,
            num_values: graph.values.len(),
            input: program.input(),
            output,
            taps: taps.to_vec(),
            options,
            device_name: device_name(options.device),
            num_folded: folded.1,
            _mapping: program.archive.mapping(),
        })
    }

    /// How the plan runs.
    pub fn options(&self) -> PlanOptions {
        self.options
    }

    /// Runs the graph on `[N, 3, H, W]`. The earliest taps become leaves: gradients stop there.
    ///
    /// # Errors
    /// A node fails; the error names it, and says whether memory ran out.
    pub fn run(&self, input: &Tensor) -> Result<Execution, ExecError> {
        let outside = |error: tch::TchError| outside_error(&error);
        let mut values: Vec<Option<Value>> = (0..self.num_values).map(|_| None).collect();
        let input = input.f_to_device(self.options.device).and_then(|x| x.f_to_kind(self.options.kind)).map_err(outside)?;
        let mut taps: Vec<Option<Tensor>> = self.taps.iter().map(|_| None).collect();
        for id in &self.written_constants {
            if let Some(constant) = self.constants.get(id) {
                values[id.index()] = Some(Value::Tensor(clone(constant).map_err(outside)?));
            }
        }
        self.bind(self.input, Value::Tensor(input), &mut values, &mut taps).map_err(outside)?;

        for step in &self.steps {
            let results = {
                let _no_grad = (!step.grad).then(tch::no_grad_guard);
                self.execute(step, &values).map_err(|source| ExecError {
                    node: step.node.clone(),
                    operator: step.operator.clone(),
                    source,
                })?
            };
            let bound = self.bind_results(step, results, &mut values, &mut taps);
            bound.map_err(|error| ExecError {
                node: step.node.clone(),
                operator: step.operator.clone(),
                source: from_tch(&error),
            })?;
            for value in &step.free {
                values[value.index()] = None;
            }
        }
        let output = match values[self.output.index()].take() {
            Some(Value::Tensor(tensor)) => tensor,
            _ => return Err(bug("the output", "was not computed")),
        };
        let taps = taps.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| bug("a tap", "was not computed"))?;
        Ok(Execution { output, taps })
    }

    fn bind(
        &self,
        id: ValueId,
        value: Value,
        values: &mut [Option<Value>],
        taps: &mut [Option<Tensor>],
    ) -> Result<(), tch::TchError> {
        let value = match value {
            Value::Tensor(tensor) if self.taps.contains(&id) => {
                // A tap that depends on another tap already has a gradient graph behind it, which must stay.
                let tensor = if tensor.requires_grad() { tensor } else { tensor.f_detach()?.f_set_requires_grad(true)? };
                for (tap, place) in self.taps.iter().zip(taps.iter_mut()) {
                    if *tap == id {
                        *place = Some(tensor.shallow_clone());
                    }
                }
                Value::Tensor(tensor)
            }
            value => value,
        };
        values[id.index()] = Some(value);
        Ok(())
    }

    fn bind_results(
        &self,
        step: &Step,
        results: Vec<Result_>,
        values: &mut [Option<Value>],
        taps: &mut [Option<Tensor>],
    ) -> Result<(), tch::TchError> {
        for (output, result) in step.outputs.iter().zip(results) {
            match (output, result) {
                (Output::Values(ids), Result_::Tensors(tensors)) => {
                    for (id, tensor) in ids.iter().zip(tensors) {
                        self.bind(*id, Value::Tensor(tensor), values, taps)?;
                    }
                }
                (Output::Value(id), Result_::Tensor(tensor)) => {
                    if let Some(old) = step.rebind {
                        values[old.index()] = Some(Value::Tensor(tensor.shallow_clone()));
                    }
                    self.bind(*id, Value::Tensor(tensor), values, taps)?;
                }
                (Output::Value(id), Result_::Int(i)) => values[id.index()] = Some(Value::Scalar(Scalar::Int(i))),
                (Output::Value(id), Result_::Float(f)) => values[id.index()] = Some(Value::Scalar(Scalar::Float(f))),
                (Output::Value(id), Result_::Bool(b)) => values[id.index()] = Some(Value::Scalar(Scalar::Bool(b))),
                _ => {}
            }
        }
        Ok(())
    }

    fn tensor<'a>(&'a self, id: ValueId, values: &'a [Option<Value>]) -> Option<&'a Tensor> {
        match &values[id.index()] {
            Some(Value::Tensor(tensor)) => Some(tensor),
            Some(Value::Scalar(_)) => None,
            None => self.constants.get(&id),
        }
    }

    fn scalar(id: ValueId, values: &[Option<Value>]) -> Option<Scalar> {
        match &values[id.index()] {
            Some(Value::Scalar(scalar)) => Some(*scalar),
            _ => None,
        }
    }

    fn execute(&self, step: &Step, values: &[Option<Value>]) -> Result<Vec<Result_>, DispatchError> {
        let missing = || DispatchError {
            message: "a value that it needs was not computed; this is a bug in camflow".into(),
            out_of_memory: false,
        };
        match &step.action {
            Action::Identity => {
                let Some(Some(Arg::Value(id))) = step.args.first() else { return Err(missing()) };
                Ok(vec![Result_::Tensor(self.tensor(*id, values).ok_or_else(missing)?.shallow_clone())])
            }
            Action::Symbolic(op) => {
                let args = step.args.iter().map(|arg| match arg {
                    Some(Arg::Value(id)) => Self::scalar(*id, values),
                    Some(Arg::Int(i)) => Some(Scalar::Int(*i)),
                    Some(Arg::Float(f)) => Some(Scalar::Float(*f)),
                    Some(Arg::Bool(b)) => Some(Scalar::Bool(*b)),
                    _ => None,
                });
                let args: Vec<Scalar> = args.collect::<Option<_>>().ok_or_else(missing)?;
                let result = op.apply(&args).ok_or_else(|| DispatchError {
                    message: format!("{op:?} of {args:?} has no result"),
                    out_of_memory: false,
                })?;
                Ok(vec![match result {
                    Scalar::Int(i) => Result_::Int(i),
                    Scalar::Float(f) => Result_::Float(f),
                    Scalar::Bool(b) => Result_::Bool(b),
                }])
            }
            Action::Call { operator, clone_first } => {
                // Lists live here as long as the call.
                let mut pointers: Vec<Vec<*const C_tensor>> = Vec::new();
                let mut ints: Vec<Vec<i64>> = Vec::new();
                let mut bytes: Vec<Vec<u8>> = Vec::new();
                let mut copy = None;
                for (position, arg) in step.args.iter().enumerate() {
                    match arg {
                        Some(Arg::Values(ids)) => {
                            let list = ids.iter().map(|id| match id {
                                Some(id) => self.tensor(*id, values).map(Tensor::as_ptr),
                                None => Some(std::ptr::null()),
                            });
                            pointers.push(list.collect::<Option<_>>().ok_or_else(missing)?);
                        }
                        Some(Arg::SymInts(list)) => {
                            let list = list.iter().map(|int| match int {
                                IntArg::Constant(number) => Some(*number),
                                IntArg::Value(id) => match Self::scalar(*id, values)? {
                                    Scalar::Int(number) => Some(number),
                                    _ => None,
                                },
                            });
                            ints.push(list.collect::<Option<_>>().ok_or_else(missing)?);
                        }
                        Some(Arg::Bools(list)) => bytes.push(list.iter().map(|b| u8::from(*b)).collect()),
                        Some(Arg::Value(id)) if position == 0 && *clone_first => {
                            let tensor = self.tensor(*id, values).ok_or_else(missing)?;
                            copy = Some(clone(tensor).map_err(|error| from_tch(&error))?);
                        }
                        _ => {}
                    }
                }
                let (mut pointers_at, mut ints_at, mut bytes_at) = (pointers.iter(), ints.iter(), bytes.iter());
                let mut inputs = Vec::with_capacity(step.args.len());
                for arg in &step.args {
                    inputs.push(match arg {
                        None => Input::Default,
                        Some(Arg::None) => Input::None,
                        Some(Arg::Value(_)) if inputs.is_empty() && copy.is_some() => {
                            Input::Tensor(copy.as_ref().ok_or_else(missing)?)
                        }
                        Some(Arg::Value(id)) => match self.tensor(*id, values) {
                            Some(tensor) => Input::Tensor(tensor),
                            None => match Self::scalar(*id, values).ok_or_else(missing)? {
                                Scalar::Int(i) => Input::Int(i),
                                Scalar::Float(f) => Input::Float(f),
                                Scalar::Bool(b) => Input::Bool(b),
                            },
                        },
                        Some(Arg::Values(_)) => Input::Tensors(pointers_at.next().ok_or_else(missing)?),
                        Some(Arg::SymInts(_)) => Input::Ints(ints_at.next().ok_or_else(missing)?),
                        Some(Arg::Bools(_)) => Input::Bools(bytes_at.next().ok_or_else(missing)?),
                        Some(Arg::Int(i)) => Input::Int(*i),
                        Some(Arg::Float(f)) => Input::Float(*f),
                        Some(Arg::Bool(b)) => Input::Bool(*b),
                        Some(Arg::Str(s)) => Input::Str(s),
                        Some(Arg::Ints(list)) => Input::Ints(list),
                        Some(Arg::Floats(list)) => Input::Floats(list),
                        Some(Arg::Device) => Input::Device(&self.device_name),
                    });
                }
                operator.call(&inputs)
            }
        }
    }
}

/// A copy with its own memory; tch's `f_clone` is the out= form.
fn clone(tensor: &Tensor) -> Result<Tensor, tch::TchError> {
    tensor.f_to_dtype(tensor.kind(), false, true)
}

/// A weight as the device wants it.
fn prepare(tensor: Tensor, options: PlanOptions) -> Result<Tensor, tch::TchError> {
    let tensor = if tensor.is_floating_point() { tensor.f_to_kind(options.kind)? } else { tensor };
    tensor.f_to_device(options.device)
}

/// Checks that every node's operator exists here and is called as its schema wants; returns all problems.
pub(super) fn check(graph: &Graph) -> Vec<String> {
    let aliases = passes::aliases(graph);
    let nodes = graph.nodes.iter().zip(&aliases.in_place);
    nodes.filter_map(|(node, mode)| step(node, *mode, false, Vec::new()).err()).collect()
}

fn step(node: &Node, mode: InPlace, grad: bool, free: Vec<ValueId>) -> Result<Step, String> {
    let mut step = Step {
        node: node.name.clone(),
        operator: String::new(),
        action: Action::Identity,
        args: Vec::new(),
        outputs: node.outputs.clone(),
        grad,
        rebind: None,
        free,
    };
    match &node.operation {
        Operation::Identity => step.args = node.args.iter().map(|(_, arg)| Some(arg.clone())).collect(),
        Operation::Symbolic(op) => {
            step.action = Action::Symbolic(*op);
            step.operator = format!("{op:?}");
            step.args = node.args.iter().map(|(_, arg)| Some(arg.clone())).collect();
        }
        Operation::Operator { name, overload } => {
            step.operator = if overload.is_empty() { name.clone() } else { format!("{name}.{overload}") };
            let (operator, clone_first) = resolve(name, overload, mode)
                .ok_or_else(|| format!("node `{}`: this libtorch has no operator `{}`", node.name, step.operator))?;
            step.args =
                arrange(node, &operator).map_err(|problem| format!("node `{}` ({}): {problem}", node.name, step.operator))?;
            step.action = Action::Call { operator: Arc::new(operator), clone_first };
            if mode == InPlace::Rebind {
                step.rebind = node.first_value();
            }
        }
    }
    Ok(step)
}

fn resolve(name: &str, overload: &str, mode: InPlace) -> Option<(Operator, bool)> {
    if name == "aten::view" {
        // Strides at run time need not be those at export.
        return Operator::find("aten::reshape", "").map(|operator| (operator, false));
    }
    if mode == InPlace::Rebind {
        let twin = name.strip_suffix('_').and_then(|twin| Operator::find(twin, overload));
        return match twin {
            Some(operator) => Some((operator, false)),
            // No functional twin: write into a copy.
            None => Operator::find(name, overload).map(|operator| (operator, true)),
        };
    }
    Operator::find(name, overload).map(|operator| (operator, false))
}

fn arrange(node: &Node, operator: &Operator) -> Result<Vec<Option<Arg>>, String> {
    let mut args: Vec<Option<Arg>> = vec![None; operator.arguments.len()];
    let renamed = |name: &str| if node.operator() == "view" && name == "size" { "shape".to_owned() } else { name.to_owned() };
    for (name, arg) in &node.args {
        let name = renamed(name);
        let position = operator.arguments.iter().position(|argument| argument.name == name);
        let position = position.ok_or_else(|| format!("this libtorch's operator has no argument `{name}`"))?;
        args[position] = Some(arg.clone());
    }
    // An operator that creates a tensor from nothing would put it on the CPU; others follow their first argument.
    let creates = operator.arguments.first().is_none_or(|first| first.name != "self" && first.name != "input");
    for (argument, arg) in operator.arguments.iter().zip(&mut args) {
        match arg {
            None if argument.is_device && creates => *arg = Some(Arg::Device),
            Some(Arg::None) if argument.is_device => *arg = Some(Arg::Device),
            None if !argument.has_default => return Err(format!("argument `{}` is missing", argument.name)),
            _ => {}
        }
    }
    Ok(args)
}

/// A device as libtorch spells it.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".into(),
        Device::Cuda(index) => format!("cuda:{index}"),
        Device::Mps => "mps".into(),
        Device::Vulkan => "vulkan".into(),
    }
}

/// tch's error in the form of the dispatcher's.
pub fn from_tch(error: &tch::TchError) -> DispatchError {
    let text = error.to_string();
    let out_of_memory = dispatch::is_out_of_memory(&text);
    DispatchError { message: text.lines().next().unwrap_or_default().to_owned(), out_of_memory }
}

fn outside_error(error: &tch::TchError) -> ExecError {
    ExecError { node: "input".into(), operator: "to".into(), source: from_tch(error) }
}

fn bug(node: &str, what: &str) -> ExecError {
    let source = DispatchError { message: format!("{what}; this is a bug in camflow"), out_of_memory: false };
    ExecError { node: node.into(), operator: "none".into(), source }
}
