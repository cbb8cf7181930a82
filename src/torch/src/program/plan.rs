//! What a [`Plan`] is: a model made ready for one device, one output and one set of taps. `compile.rs` makes it, `exec.rs` runs
//! it, `resume.rs` runs the end of it again.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use tch::{Device, Kind, Tensor};

use super::{
    dispatch::Operator,
    graph::{Arg, BatchDim, Output, ValueId},
    similarity::Comparison,
    symbolic::SymbolicOp,
};
use camflow_names::Choice;

/// What a plan is to compute.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// The output that is explained.
    pub output: ValueId,
    /// A detector's boxes, which are captured without a gradient.
    pub boxes: Option<ValueId>,
    /// Values to capture, and to take gradients of.
    pub taps: Vec<ValueId>,
    /// Those of the taps from which the graph is to be run on with another activation ([`Plan::resume`]).
    pub resume_from: Vec<ValueId>,
    /// Whether ReLUs let positive gradients back alone, as guided backpropagation has it.
    pub guided: bool,
    /// Whether gradients of single predictions will be asked for (`Plan::patches`), where that is less work.
    pub patches: bool,
}

impl Demand {
    /// Of an output, and no taps yet.
    pub fn of(output: ValueId) -> Demand {
        Demand { output, ..Demand::default() }
    }

    /// Asks for a value to be captured, too.
    pub fn tap(&mut self, value: ValueId) -> Tap {
        self.taps.push(value);
        Tap(self.taps.len() - 1)
    }
}

/// A value that is captured: its place among the taps of a [`Demand`], and of all that is computed for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap(pub(super) usize);

impl Tap {
    /// What belongs to it, of one for each tap.
    pub fn of(self, tensors: &[Tensor]) -> &Tensor {
        &tensors[self.0]
    }

    /// Its place.
    pub(crate) fn place(self) -> usize {
        self.0
    }

    /// What belongs to it, taken from where not all are.
    pub fn take(self, tensors: &mut [Option<Tensor>]) -> Option<Tensor> {
        tensors[self.0].take()
    }
}

/// How precisely a plan computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    Fp32,
    /// 32-bit floats, whose mantissa GPUs may shorten to 10 bits in matrix products and convolutions.
    Tf32,
    /// bfloat16 (8 bits of mantissa) in those operators for which `torch.autocast` uses it: convolutions, matrix products.
    Bf16,
    /// 64-bit floats: what the others are measured against. Nobody can ask for it.
    Fp64,
}

impl Choice for Precision {
    const ALL: &'static [Self] = &[Precision::Fp32, Precision::Tf32, Precision::Bf16];

    fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::Fp64 => "fp64",
        }
    }
}

/// How a plan is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Where.
    pub device: Device,
    /// The same operators as eager PyTorch, on contiguous memory. Otherwise batch norms are folded into convolutions, images lie
    /// channels-last where that is faster, GPUs multiply matrices for the gradient of upsampling, and CPUs take no zeros back to the levels
    /// of a detector: sums move in the last bit.
    pub exact: bool,
    /// How precisely.
    pub precision: Precision,
}

impl PlanOptions {
    /// Whether images and the weights of convolutions lie channels-last. Not for cuDNN's fp32 without TensorFloat-32: so laid out, a
    /// segmentation network had not done 224 images in a minute on a GPU that does 62 a second in bf16 (`benches/RESULTS.md`).
    pub(super) fn is_channels_last(&self) -> bool {
        !self.exact && (self.is_reduced() || !self.device.is_cuda())
    }

    /// Whether gradients of upsampling are made of matrix products.
    pub(super) fn multiplies(&self) -> bool {
        !self.exact && self.device.is_cuda()
    }

    /// Whether no gradient is taken back where it is zero everywhere: for a detector, whose scores come from one level of its head each.
    /// A GPU would have to wait to know it.
    pub(super) fn leaves_out_zeros(&self, boxes: Option<ValueId>) -> bool {
        !self.exact && boxes.is_some() && !self.device.is_cuda()
    }

    fn is_reduced(&self) -> bool {
        matches!(self.precision, Precision::Tf32 | Precision::Bf16)
    }
}

/// What a step does.
pub(super) enum Action {
    Call {
        operator: Arc<Operator>,
        clone_first: bool,
    },
    Symbolic(SymbolicOp),
    Identity,
    /// Of query, key, mask and scale.
    Probabilities,
}

/// One node of the graph, ready to be run.
pub(super) struct Step {
    pub(super) node: String,
    pub(super) operator: String,
    pub(super) action: Action,
    /// One per schema argument; `None` is the schema's default.
    pub(super) args: Vec<Option<Arg>>,
    pub(super) outputs: Vec<Output>,
    pub(super) grad: bool,
    /// After a functional twin: the old name means the new value from here on.
    pub(super) rebind: Option<ValueId>,
    pub(super) free: Vec<ValueId>,
}

impl Step {
    /// The tensors and numbers that it is called with, in order.
    pub(super) fn reads(&self) -> Vec<ValueId> {
        let of = |arg: &Option<Arg>| match arg {
            Some(Arg::Value(value)) => vec![*value],
            Some(Arg::Values(values)) => values.iter().flatten().copied().collect(),
            _ => Vec::new(),
        };
        self.args.iter().flat_map(of).collect()
    }

    /// What it gives, in order.
    pub(super) fn gives(&self) -> Vec<ValueId> {
        let of = |output: &Output| match output {
            Output::None => Vec::new(),
            Output::Value(value) => vec![*value],
            Output::Values(values) => values.clone(),
        };
        self.outputs.iter().flat_map(of).collect()
    }
}

/// The way from a tap to the output.
#[derive(Clone, Debug, Default)]
pub(super) struct Suffix {
    /// Which of the plan's steps, in order.
    pub(super) steps: Vec<usize>,
    /// Values from before the tap that they read.
    pub(super) boundary: Vec<ValueId>,
    /// Those of the boundary that a step writes to in place: each run needs its own copy.
    pub(super) written: HashSet<ValueId>,
}

/// How a step takes a gradient back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// As it is.
    AsItIs,
    /// To each of the two that are added.
    Sum,
    /// To each part of what is concatenated.
    Concatenation,
    /// A convolution.
    Convolution,
    /// By its derivative at the same places.
    Silu,
    /// By running the operator again, at the same places.
    Again,
}

/// A map that logits are moved from.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) value: ValueId,
    /// The steps from the taps to it, in order; `None` where one of them looks further than a convolution does.
    pub(super) way: Option<Vec<usize>>,
}

/// Where logits come from.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) maps: Vec<Map>,
    /// The steps from the maps to the logits.
    pub(super) moves: Vec<usize>,
    /// What those read from before.
    pub(super) boundary: Vec<ValueId>,
    /// How each step on the way to a map takes a gradient back.
    pub(super) back: HashMap<usize, Back>,
    /// Values whose numbers that takes.
    pub(super) read: HashSet<ValueId>,
}

/// What a step read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) value: ValueId,
    pub(super) size: Vec<i64>,
    /// Whether it depends on a tap.
    pub(super) depends: bool,
    /// Where its numbers are needed.
    pub(super) tensor: Option<Tensor>,
}

/// Where each logit `[K, Q]` comes from, as the number of a value of the maps, counted through all of them; for maps of these sizes.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) sizes: Vec<Vec<i64>>,
    pub(super) labels: Tensor,
}

/// A model made ready for one device, one output and one set of taps.
pub struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) constants: HashMap<ValueId, Tensor>,
    pub(super) written_constants: HashSet<ValueId>,
    pub(super) num_values: usize,
    pub(super) input: ValueId,
    pub(super) output: ValueId,
    pub(super) boxes: Option<ValueId>,
    /// How many dimensions the output has, as the exporter saw it.
    pub(super) output_dimensions: Option<usize>,
    /// Whether none of them is of channels, so that it has one.
    pub(super) lacks_channels: bool,
    /// What the output is compared with, where that is what counts.
    pub(super) comparison: Option<Comparison>,
    pub(super) taps: Vec<ValueId>,
    /// The way from each tap to the output, where it was asked for.
    pub(super) suffixes: HashMap<ValueId, Suffix>,
    /// Which predictions have gradients in patches, where that was asked for.
    pub(super) local: Option<Local>,
    /// By step, the weight with which a convolution takes gradients back (`patches.rs`).
    pub(super) turned: HashMap<usize, Tensor>,
    /// Of the last images, where logits come from.
    pub(super) places: Mutex<Option<Places>>,
    /// What a run has to keep for both.
    pub(super) kept: HashSet<ValueId>,
    pub(super) batch_dims: HashMap<ValueId, BatchDim>,
    pub(super) options: PlanOptions,
    pub(super) device_name: String,
    /// Images and the weights of convolutions lie channels-last.
    pub(super) channels_last: bool,
    /// Batch norms folded into convolutions.
    pub num_folded: usize,
    // Declared last, so that it is dropped after the tensors that point into it.
    pub(super) _weights: Arc<memmap2::MmapMut>,
}

// SAFETY: tensors may move between threads; a plan is owned by one thread at a time.
unsafe impl Send for Plan {}

impl Plan {
    /// Where it runs.
    pub fn device(&self) -> Device {
        self.options.device
    }

    /// The type of its input and output.
    pub fn kind(&self) -> Kind {
        if self.options.precision == Precision::Fp64 { Kind::Double } else { Kind::Float }
    }

    /// Whether a gradient that is zero everywhere may not be there.
    pub(crate) fn leaves_out_zeros(&self) -> bool {
        self.options.leaves_out_zeros(self.boxes)
    }
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
