//! Last phase: runs a [`Plan`] node by node through libtorch's dispatcher and captures the taps.

use std::collections::HashMap;

use tch::{Kind, Tensor};
use torch_sys::C_tensor;

use super::{
    counts::{self, Passes},
    dispatch::{self, Autocast, DispatchError, Input, Output as Result_},
    graph::{Arg, IntArg, Output, ValueId},
    memory::says_out_of_memory,
    plan::{Action, Back, Plan, Precision, Read, Step},
    symbolic::Scalar,
};

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
    /// A detector's boxes, where they were asked for.
    pub boxes: Option<Tensor>,
    /// The activations, in the order of the taps; each requires a gradient.
    pub taps: Vec<Tensor>,
    /// The input as the device has it, `[N, 3, H, W]`.
    pub input: Tensor,
    /// What [`Plan::resume`] needs, and [`Plan::patches`].
    pub(super) kept: HashMap<ValueId, Value>,
    /// What steps read, where the latter needs it.
    pub(super) tape: HashMap<usize, Vec<Read>>,
}

#[derive(Debug)]
pub(super) enum Value {
    Tensor(Tensor),
    Scalar(Scalar),
}

impl Value {
    pub(super) fn share(&self) -> Value {
        match self {
            Value::Tensor(tensor) => Value::Tensor(tensor.shallow_clone()),
            Value::Scalar(scalar) => Value::Scalar(*scalar),
        }
    }
}

/// The values of a run so far.
pub(super) struct Frame {
    values: Vec<Option<Value>>,
    /// One per tap of the plan; empty where nothing is captured.
    taps: Vec<Option<Tensor>>,
    /// A value that is given, and stays although a step computes it.
    given: Option<ValueId>,
}

impl Frame {
    /// A tensor that was computed or given.
    pub(super) fn tensor(&self, id: ValueId) -> Option<&Tensor> {
        match &self.values[id.index()] {
            Some(Value::Tensor(tensor)) => Some(tensor),
            _ => None,
        }
    }

    /// What was captured.
    pub(super) fn take_taps(&mut self) -> Vec<Option<Tensor>> {
        self.taps.iter_mut().map(Option::take).collect()
    }
}

impl Plan {
    /// Runs the graph on `[N, 3, H, W]`. The earliest taps become leaves: gradients stop there.
    ///
    /// # Errors
    /// A node fails; the error names it, and says whether memory ran out.
    pub fn run(&self, input: &Tensor) -> Result<Execution, ExecError> {
        let _precision = self.reduced_precision();
        counts::add(Passes { whole: images_in(input), ..Passes::default() });
        let mut frame = self.frame(None)?;
        self.capture(&mut frame);
        let input = self.feed(input, &mut frame)?;
        let mut tape = HashMap::new();
        for (index, step) in self.steps.iter().enumerate() {
            self.record(index, &frame, &mut tape);
            self.advance(step, &mut frame)?;
        }
        let output = self.take_output(&mut frame)?;
        let boxes = self.boxes.and_then(|boxes| self.tensor(boxes, &frame.values)).map(Tensor::f_detach).transpose();
        let boxes = boxes.map_err(|error| outside_error(&error))?;
        let taps = frame.take_taps().into_iter().collect::<Option<Vec<_>>>();
        let taps = taps.ok_or_else(|| bug("a tap", "was not computed"))?;
        let kept = self.kept.iter().filter_map(|id| Some((*id, frame.values[id.index()].take()?))).collect();
        Ok(Execution { output, boxes, taps, input, kept, tape })
    }

    /// The output alone, without gradients: for masked inputs and the like.
    ///
    /// # Errors
    /// As for [`Plan::run`].
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ExecError> {
        let _no_grad = tch::no_grad_guard();
        let _precision = self.reduced_precision();
        counts::add(Passes { whole: images_in(input), ..Passes::default() });
        let mut frame = self.frame(None)?;
        let _ = self.feed(input, &mut frame)?;
        for step in &self.steps {
            self.advance(step, &mut frame)?;
        }
        self.take_output(&mut frame)
    }

    /// While the guard lives, operators run as the precision allows.
    pub(super) fn reduced_precision(&self) -> Option<Autocast> {
        (self.options.precision == Precision::Bf16).then(|| Autocast::bf16(&self.device_name))
    }

    /// No value yet but the weights and, where one is given, that.
    pub(super) fn frame(&self, given: Option<(ValueId, Value)>) -> Result<Frame, ExecError> {
        let mut values: Vec<Option<Value>> = (0..self.num_values).map(|_| None).collect();
        for id in &self.written_constants {
            if let Some(constant) = self.constants.get(id) {
                values[id.index()] = Some(Value::Tensor(clone(constant).map_err(|error| outside_error(&error))?));
            }
        }
        let given = given.map(|(id, value)| {
            values[id.index()] = Some(value);
            id
        });
        Ok(Frame { values, taps: Vec::new(), given })
    }

    /// Brings the input to the device, where it is not there yet, and binds it; as it was bound, it is returned.
    fn feed(&self, input: &Tensor, frame: &mut Frame) -> Result<Tensor, ExecError> {
        let outside = |error: tch::TchError| outside_error(&error);
        #[expect(
            clippy::disallowed_methods,
            reason = "batches are there; others are single images, and the host waits for them anyway"
        )]
        let mut input = input.f_to_device(self.options.device).and_then(|x| x.f_to_kind(self.kind())).map_err(outside)?;
        if self.channels_last {
            let failed = |source| ExecError { node: "input".into(), operator: "contiguous".into(), source };
            input = dispatch::channels_last(&input).map_err(failed)?;
        }
        self.bind(self.input, Value::Tensor(input), frame).map_err(outside)?;
        match &frame.values[self.input.index()] {
            Some(Value::Tensor(bound)) => Ok(bound.shallow_clone()),
            _ => Err(bug("the input", "was not bound")),
        }
    }

    /// Has the taps captured.
    pub(super) fn capture(&self, frame: &mut Frame) {
        frame.taps = self.taps.iter().map(|_| None).collect();
    }

    /// Binds a value that the run does not compute.
    pub(super) fn supply(&self, id: ValueId, value: Value, frame: &mut Frame) {
        frame.values[id.index()] = Some(value);
    }

    /// Runs one step.
    pub(super) fn advance(&self, step: &Step, frame: &mut Frame) -> Result<(), ExecError> {
        let at = |source: DispatchError| ExecError { node: step.node.clone(), operator: step.operator.clone(), source };
        let results = {
            let _no_grad = (!step.grad).then(tch::no_grad_guard);
            self.results(step, frame)?
        };
        self.bind_results(step, results, frame).map_err(|error| at(from_tch(&error)))?;
        for value in &step.free {
            frame.values[value.index()] = None;
        }
        Ok(())
    }

    /// Before a step is run: what it reads, where its gradients will be asked for in patches.
    fn record(&self, index: usize, frame: &Frame, tape: &mut HashMap<usize, Vec<Read>>) {
        let Some((local, back)) = self.local.as_ref().and_then(|local| Some((local, local.back.get(&index)?))) else { return };
        let is_read = matches!(back, Back::Silu | Back::Again);
        let read = self.steps[index].reads().into_iter().filter_map(|value| {
            let tensor = frame.tensor(value)?;
            let kept = (is_read && local.read.contains(&value)).then(|| tensor.shallow_clone());
            Some(Read { value, size: tensor.size(), depends: tensor.requires_grad(), tensor: kept })
        });
        tape.insert(index, read.collect());
    }

    /// What one step gives, bound to nothing.
    pub(super) fn results(&self, step: &Step, frame: &Frame) -> Result<Vec<Result_>, ExecError> {
        let at = |source: DispatchError| ExecError { node: step.node.clone(), operator: step.operator.clone(), source };
        self.execute(step, &frame.values).map_err(at)
    }

    /// The output in the plan's type, when all steps are done: `[N, K, ...]`, whatever the model leaves out of it, or what it is
    /// compared to.
    pub(super) fn take_output(&self, frame: &mut Frame) -> Result<Tensor, ExecError> {
        let Some(Value::Tensor(output)) = frame.values[self.output.index()].take() else {
            return Err(bug("the output", "was not computed"));
        };
        let whole = || {
            let mut output = output.f_to_kind(self.kind())?;
            // A `squeeze()` takes away the dimension of the batch, too, where that is one image.
            if output.dim() == 0 || self.output_dimensions.is_some_and(|dimensions| output.dim() + 1 == dimensions) {
                output = output.f_unsqueeze(0)?;
            }
            if self.lacks_channels {
                output = output.f_unsqueeze(1)?;
            }
            self.comparison.as_ref().map_or_else(|| Ok(output.shallow_clone()), |comparison| comparison.of(&output))
        };
        whole().map_err(|error| outside_error(&error))
    }

    fn bind(&self, id: ValueId, value: Value, frame: &mut Frame) -> Result<(), tch::TchError> {
        if frame.given == Some(id) {
            return Ok(());
        }
        let value = match value {
            Value::Tensor(tensor) if !frame.taps.is_empty() && self.taps.contains(&id) => {
                // A tap that depends on another tap already has a gradient graph behind it, which must stay.
                let tensor = if tensor.requires_grad() { tensor } else { tensor.f_detach()?.f_set_requires_grad(true)? };
                for (tap, place) in self.taps.iter().zip(&mut frame.taps) {
                    if *tap == id {
                        *place = Some(tensor.shallow_clone());
                    }
                }
                Value::Tensor(tensor)
            }
            value => value,
        };
        frame.values[id.index()] = Some(value);
        Ok(())
    }

    fn bind_results(&self, step: &Step, results: Vec<Result_>, frame: &mut Frame) -> Result<(), tch::TchError> {
        for (output, result) in step.outputs.iter().zip(results) {
            match (output, result) {
                (Output::Values(ids), Result_::Tensors(tensors)) => {
                    for (id, tensor) in ids.iter().zip(tensors) {
                        self.bind(*id, Value::Tensor(tensor), frame)?;
                    }
                }
                (Output::Value(id), Result_::Tensor(tensor)) => {
                    if let Some(old) = step.rebind {
                        frame.values[old.index()] = Some(Value::Tensor(tensor.shallow_clone()));
                    }
                    self.bind(*id, Value::Tensor(tensor), frame)?;
                }
                (Output::Value(id), Result_::Int(i)) => frame.values[id.index()] = Some(Value::Scalar(Scalar::Int(i))),
                (Output::Value(id), Result_::Float(f)) => frame.values[id.index()] = Some(Value::Scalar(Scalar::Float(f))),
                (Output::Value(id), Result_::Bool(b)) => frame.values[id.index()] = Some(Value::Scalar(Scalar::Bool(b))),
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
            Action::Probabilities => {
                let value = |at: usize| match step.args.get(at) {
                    Some(Some(Arg::Value(id))) => self.tensor(*id, values),
                    _ => None,
                };
                let scale = match step.args.get(3) {
                    Some(Some(Arg::Float(scale))) => Some(*scale),
                    Some(Some(Arg::Int(scale))) => Some(*scale as f64),
                    Some(Some(Arg::Value(id))) => Some(Self::scalar(*id, values).ok_or_else(missing)?.float()),
                    _ => None,
                };
                let (query, key) = value(0).zip(value(1)).ok_or_else(missing)?;
                let found = probabilities(query, key, value(2), scale);
                Ok(vec![Result_::Tensor(found.map_err(|error| from_tch(&error))?)])
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

/// `softmax(query key^T * scale + mask)` `[..., L, S]`, of one over the root of the queries' length without a scale. As libtorch's own
/// `scaled_dot_product_attention`, a mask of truth values says where to look, and a row that looks nowhere is zero.
fn probabilities(query: &Tensor, key: &Tensor, mask: Option<&Tensor>, scale: Option<f64>) -> Result<Tensor, tch::TchError> {
    let length = query.size().last().copied().unwrap_or(1);
    let scale = scale.unwrap_or_else(|| 1.0 / (length as f64).sqrt());
    let scores = query.f_mul_scalar(scale)?.f_matmul(&key.f_transpose(-2, -1)?)?;
    let scores = match mask {
        Some(mask) if mask.kind() == Kind::Bool => scores.f_masked_fill(&mask.f_logical_not()?, f64::NEG_INFINITY)?,
        Some(mask) => scores.f_add(mask)?,
        None => return scores.f_softmax(-1, None::<Kind>),
    };
    scores.f_internal_safe_softmax(-1, None::<Kind>)
}

/// How many images a batch holds.
fn images_in(batch: &Tensor) -> u64 {
    batch.size().first().map_or(0, |images| *images as u64)
}

/// A copy with its own memory; tch's `f_clone` is the out= form.
fn clone(tensor: &Tensor) -> Result<Tensor, tch::TchError> {
    tensor.f_to_dtype(tensor.kind(), false, true)
}

/// tch's error in the form of the dispatcher's.
pub fn from_tch(error: &tch::TchError) -> DispatchError {
    let text = error.to_string();
    let out_of_memory = says_out_of_memory(&text);
    DispatchError { message: text.lines().next().unwrap_or_default().to_owned(), out_of_memory }
}

fn outside_error(error: &tch::TchError) -> ExecError {
    ExecError { node: "input".into(), operator: "to".into(), source: from_tch(error) }
}

fn bug(node: &str, what: &str) -> ExecError {
    let source = DispatchError { message: format!("{what}; this is a bug in camflow"), out_of_memory: false };
    ExecError { node: node.into(), operator: "none".into(), source }
}
