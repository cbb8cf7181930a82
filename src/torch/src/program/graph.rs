//! The model's computation, checked: every name is resolved and every value is defined before it is used. Built by `build`,
//! changed by `passes`, run by `exec.rs`.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::symbolic::SymbolicOp;

/// Index into `Graph::values`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(super) u32);

impl ValueId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a node is called with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Arg {
    None,
    Value(ValueId),
    /// A list of tensors; `None` where the list has a hole.
    Values(Vec<Option<ValueId>>),
    /// Also dtypes, layouts and memory formats by their C++ number.
    Int(i64),
    Float(f64),
    Bool(bool),
    Str(String),
    Ints(Vec<i64>),
    /// A list in which some integers are known only at run time.
    SymInts(Vec<IntArg>),
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    /// The exporter's device: replaced by the one that runs.
    Device,
}

/// An integer, written out or computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IntArg {
    Constant(i64),
    Value(ValueId),
}

/// What a node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// An operator of libtorch, such as `aten::conv2d` with overload `default` (empty).
    Operator { name: String, overload: String },
    /// Arithmetic on shapes.
    Symbolic(SymbolicOp),
    /// Its output is its input; made by passes.
    Identity,
    /// The probabilities of an attention, `softmax(query key^T * scale + attn_mask)`; made by passes.
    Probabilities,
}

/// What a node gives: one entry per return of its operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    None,
    Value(ValueId),
    /// An operator that returns a list has one output, each member with its own name.
    Values(Vec<ValueId>),
}

/// One operation of the model.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// As torch.export named it; for messages.
    pub name: String,
    pub operation: Operation,
    /// Bound by the schema's argument names.
    pub args: Vec<(String, Arg)>,
    pub outputs: Vec<Output>,
    /// Inside a `torch.no_grad()` block.
    pub no_grad: bool,
    /// `path` and call number of the modules that it runs in, outermost first.
    pub(super) modules: Vec<(String, String)>,
}

impl Node {
    /// A node outside any module.
    pub(super) fn new(name: String, operation: Operation, args: Vec<(String, Arg)>, outputs: Vec<Output>) -> Node {
        Node { name, operation, args, outputs, no_grad: false, modules: Vec::new() }
    }

    /// The values that it reads.
    pub(super) fn uses(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.args.iter().flat_map(|(_, arg)| -> Vec<ValueId> {
            match arg {
                Arg::Value(id) => vec![*id],
                Arg::Values(ids) => ids.iter().flatten().copied().collect(),
                Arg::SymInts(ints) => ints
                    .iter()
                    .filter_map(|int| match int {
                        IntArg::Value(id) => Some(*id),
                        IntArg::Constant(_) => None,
                    })
                    .collect(),
                _ => Vec::new(),
            }
        })
    }

    /// The values that it defines.
    pub(super) fn defines(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.outputs.iter().flat_map(|output| -> Vec<ValueId> {
            match output {
                Output::None => Vec::new(),
                Output::Value(id) => vec![*id],
                Output::Values(ids) => ids.clone(),
            }
        })
    }

    /// The argument of that name, if given.
    pub(super) fn arg(&self, name: &str) -> Option<&Arg> {
        self.args.iter().find(|(given, _)| given == name).map(|(_, arg)| arg)
    }

    /// Replaces the argument of that name, or adds it.
    pub(super) fn set_arg(&mut self, name: &str, arg: Arg) {
        match self.args.iter_mut().find(|(given, _)| given == name) {
            Some((_, place)) => *place = arg,
            None => self.args.push((name.to_owned(), arg)),
        }
    }

    /// Reads another value wherever it reads `old`.
    pub(super) fn replace(&mut self, old: ValueId, new: ValueId) {
        let change = |id: &mut ValueId| {
            if *id == old {
                *id = new;
            }
        };
        for (_, arg) in &mut self.args {
            match arg {
                Arg::Value(id) => change(id),
                Arg::Values(ids) => ids.iter_mut().flatten().for_each(change),
                _ => {}
            }
        }
    }

    /// The operator's name without namespace, `conv2d`; empty for other operations.
    pub(super) fn operator(&self) -> &str {
        match &self.operation {
            Operation::Operator { name, .. } => name.split_once("::").map_or(name, |(_, name)| name),
            _ => "",
        }
    }

    /// Whether the operator writes to its first argument: its name ends in one underscore.
    pub(super) fn is_in_place(&self) -> bool {
        let name = self.operator();
        name.ends_with('_') && !name.ends_with("__")
    }

    /// The value of the first argument, which in-place operators overwrite and view operators share memory with.
    pub(super) fn first_value(&self) -> Option<ValueId> {
        match self.args.first() {
            Some((_, Arg::Value(id))) => Some(*id),
            _ => None,
        }
    }
}

/// Where a value that is not computed comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Binding {
    /// Parameter or persistent buffer, by state-dict name.
    Weight(String),
    /// Tensor constant or non-persistent buffer.
    Constant(String),
}

/// Which dimension of a tensor grows with the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchDim {
    /// This one: its length is the batch size or a multiple of it.
    At(usize),
    /// Several, or by a rule that is no multiple.
    Unclear,
}

/// A model's computation.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    /// Name of each value; for messages.
    pub values: Vec<String>,
    /// In execution order.
    pub nodes: Vec<Node>,
    /// The tensors that the caller supplies.
    pub inputs: Vec<ValueId>,
    /// The model's outputs in order; `None` for one that is no tensor.
    pub outputs: Vec<Option<ValueId>>,
    /// The sizes of each of them, as the exporter saw it; a size that may differ is `None`.
    pub output_sizes: Vec<Option<Vec<Option<i64>>>>,
    /// Tensors of whole numbers or of truth values: they have no gradients.
    pub whole_numbers: HashSet<ValueId>,
    /// Weights and constants.
    pub bindings: Vec<(ValueId, Binding)>,
    /// Of these the parameters: what was learnt by gradients.
    pub parameters: HashSet<ValueId>,
    /// Module path -> for each call the tensors that it returns.
    pub modules: BTreeMap<String, Vec<Vec<ValueId>>>,
    /// Tensors whose shape depends on the batch size, as the exporter saw it.
    pub batch_dims: HashMap<ValueId, BatchDim>,
}

impl Graph {
    /// A new value, defined by nothing yet.
    pub(super) fn add_value(&mut self, name: String) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).expect("fewer than 2^32 values"));
        self.values.push(name);
        id
    }
}
