//! What operators are called with, and what they return.

use tch::Tensor;
use torch_sys::C_tensor;

/// libtorch refused a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DispatchError {
    /// The first line of libtorch's message.
    pub message: String,
    /// The device (or host) had no memory left; a smaller batch may work.
    pub out_of_memory: bool,
}

/// What an operator is called with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input<'a> {
    /// The schema's default.
    Default,
    /// None.
    None,
    /// One tensor.
    Tensor(&'a Tensor),
    /// A list of tensors, with holes where the schema allows them.
    Tensors(&'a [*const C_tensor]),
    /// An integer; also dtypes, layouts and memory formats by their C++ number.
    Int(i64),
    /// A float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    Str(&'a str),
    /// A list of integers.
    Ints(&'a [i64]),
    /// A list of floats.
    Floats(&'a [f64]),
    /// A list of booleans, one byte each.
    Bools(&'a [u8]),
    /// A device such as `cpu` or `cuda:0`.
    Device(&'a str),
}

/// What an operator returns.
#[derive(Debug)]
pub(super) enum Output {
    /// One tensor; may be undefined.
    Tensor(Tensor),
    /// A list of tensors.
    Tensors(Vec<Tensor>),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// None.
    None,
}

/// One argument of an operator's schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ArgumentSpec {
    /// Its name, by which values are bound.
    pub name: String,
    /// Whether it may be left out.
    pub has_default: bool,
    /// Whether it says where the result is to live.
    pub is_device: bool,
    /// Whether the result is written into it.
    pub is_out: bool,
}
