//! The safe side of `dispatch.cpp`: an [`Operator`] of libtorch, found by name and called with values matched to its schema.

use std::{
    ffi::{CStr, CString, c_char, c_void},
    marker::PhantomData,
    ptr::{self, NonNull},
    sync::OnceLock,
};

use tch::{TchError, Tensor};

pub use super::value::DispatchError;
pub(super) use super::value::{ArgumentSpec, Input, Output};
use super::{
    guard::{Call, Guard},
    memory::says_out_of_memory,
};
use torch_sys::C_tensor;

/// Mirrors `cf_value`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawValue {
    tag: i32,
    i: i64,
    f: f64,
    data: *const c_void,
    len: usize,
}

// Mirrors `cf_tag`.
const DEFAULT: i32 = 0;
const NONE: i32 = 1;
const TENSOR: i32 = 2;
const TENSORS: i32 = 3;
const INT: i32 = 4;
const FLOAT: i32 = 5;
const BOOL: i32 = 6;
const STRING: i32 = 7;
const INTS: i32 = 8;
const FLOATS: i32 = 9;
const BOOLS: i32 = 10;
const DEVICE: i32 = 11;

const OUT_OF_MEMORY: i32 = 2;

#[repr(C)]
struct RawOperator {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn cf_free(pointer: *mut c_void);
    fn cf_operator_find(name: *const c_char, overload: *const c_char, error: *mut *mut c_char) -> *mut RawOperator;
    fn cf_operator_num_arguments(op: *const RawOperator) -> usize;
    fn cf_operator_num_returns(op: *const RawOperator) -> usize;
    fn cf_operator_argument_name(op: *const RawOperator, k: usize) -> *const c_char;
    fn cf_operator_argument_has_default(op: *const RawOperator, k: usize) -> bool;
    fn cf_operator_argument_is_device(op: *const RawOperator, k: usize) -> bool;
    fn cf_operator_argument_is_out(op: *const RawOperator, k: usize) -> bool;
    fn cf_operator_call(op: *const RawOperator, values: *const RawValue, results: *mut RawValue, error: *mut *mut c_char) -> i32;
    fn cf_autocast_bf16(device: *const c_char, enable: i32);
}

fn to_raw(input: Input<'_>) -> RawValue {
    let mut raw = RawValue { tag: DEFAULT, i: 0, f: 0.0, data: ptr::null(), len: 0 };
    match input {
        Input::Default => {}
        Input::None => raw.tag = NONE,
        Input::Tensor(tensor) => {
            raw.tag = TENSOR;
            raw.data = tensor.as_ptr().cast();
        }
        Input::Tensors(list) => (raw.tag, raw.data, raw.len) = (TENSORS, list.as_ptr().cast(), list.len()),
        Input::Int(i) => (raw.tag, raw.i) = (INT, i),
        Input::Float(f) => (raw.tag, raw.f) = (FLOAT, f),
        Input::Bool(b) => (raw.tag, raw.i) = (BOOL, i64::from(b)),
        Input::Str(s) => (raw.tag, raw.data, raw.len) = (STRING, s.as_ptr().cast(), s.len()),
        Input::Ints(list) => (raw.tag, raw.data, raw.len) = (INTS, list.as_ptr().cast(), list.len()),
        Input::Floats(list) => (raw.tag, raw.data, raw.len) = (FLOATS, list.as_ptr().cast(), list.len()),
        Input::Bools(list) => (raw.tag, raw.data, raw.len) = (BOOLS, list.as_ptr().cast(), list.len()),
        Input::Device(s) => (raw.tag, raw.data, raw.len) = (DEVICE, s.as_ptr().cast(), s.len()),
    }
    raw
}

/// A resolved operator.
#[derive(Debug)]
pub(super) struct Operator {
    raw: NonNull<RawOperator>,
    /// In the order of the schema.
    pub arguments: Vec<ArgumentSpec>,
    num_returns: usize,
    guard: Guard,
}

// SAFETY: the handle is read-only after it was found, and the dispatcher may be called from any thread.
unsafe impl Send for Operator {}
// SAFETY: as above.
unsafe impl Sync for Operator {}

impl Operator {
    /// Finds `aten::conv2d` and the like; an empty overload is the default one.
    ///
    /// `None` when this libtorch has no such operator.
    pub(super) fn find(name: &str, overload: &str) -> Option<Operator> {
        let operator = name.to_owned();
        let (name, overload) = (CString::new(name).ok()?, CString::new(overload).ok()?);
        let mut error = ptr::null_mut();
        // SAFETY: both strings live through the call.
        let raw = unsafe { cf_operator_find(name.as_ptr(), overload.as_ptr(), &mut error) };
        drop(take_text(error));
        let raw = NonNull::new(raw)?;
        // SAFETY: `raw` is a live handle, `k` is below the number of arguments, and the names live as long as libtorch.
        let arguments = unsafe {
            (0..cf_operator_num_arguments(raw.as_ptr()))
                .map(|k| ArgumentSpec {
                    name: CStr::from_ptr(cf_operator_argument_name(raw.as_ptr(), k)).to_string_lossy().into_owned(),
                    has_default: cf_operator_argument_has_default(raw.as_ptr(), k),
                    is_device: cf_operator_argument_is_device(raw.as_ptr(), k),
                    is_out: cf_operator_argument_is_out(raw.as_ptr(), k),
                })
                .collect()
        };
        // SAFETY: as above.
        let num_returns = unsafe { cf_operator_num_returns(raw.as_ptr()) };
        Some(Operator { raw, arguments, num_returns, guard: Guard::of(&operator) })
    }

    /// Calls the operator with one input per schema argument.
    ///
    /// # Errors
    /// Whatever libtorch objects to.
    ///
    /// # Panics
    /// If the number of inputs is not the number of arguments.
    pub(super) fn call(&self, inputs: &[Input<'_>]) -> Result<Vec<Output>, DispatchError> {
        assert_eq!(inputs.len(), self.arguments.len(), "one input per schema argument");
        let refused = |message: String| DispatchError { message, out_of_memory: false };
        self.guard.check(Call { arguments: &self.arguments, inputs }).map_err(refused)?;
        let values: Vec<RawValue> = inputs.iter().map(|input| to_raw(*input)).collect();
        let mut results = vec![RawValue { tag: NONE, i: 0, f: 0.0, data: ptr::null(), len: 0 }; self.num_returns];
        let mut error = ptr::null_mut();
        // SAFETY: one value per argument, room for every result, and all that the values point to outlives the call.
        let status = unsafe { cf_operator_call(self.raw.as_ptr(), values.as_ptr(), results.as_mut_ptr(), &mut error) };
        if status != 0 {
            return Err(failure(status, error));
        }
        let outputs: Vec<Output> = results.into_iter().map(take_output).collect();
        self.guard.finish(&outputs)?;
        Ok(outputs)
    }
}

fn take_output(raw: RawValue) -> Output {
    match raw.tag {
        // SAFETY: the shim hands over a tensor made with `new`, which tch deletes.
        TENSOR => Output::Tensor(unsafe { Tensor::from_ptr(raw.data.cast_mut().cast()) }),
        TENSORS => {
            let list = raw.data.cast_mut().cast::<*mut C_tensor>();
            // SAFETY: `len` pointers to tensors made with `new`; the array itself was made with `malloc`.
            let tensors = unsafe { (0..raw.len).map(|k| Tensor::from_ptr(*list.add(k))).collect() };
            // SAFETY: as above, and nothing refers to the array any more.
            unsafe { cf_free(list.cast()) };
            Output::Tensors(tensors)
        }
        INT => Output::Int(raw.i),
        FLOAT => Output::Float(raw.f),
        BOOL => Output::Bool(raw.i != 0),
        _ => Output::None,
    }
}

/// Takes over a text that the shim made; `None` where there is none.
pub(super) fn take_text(text: *mut c_char) -> Option<String> {
    let text = NonNull::new(text)?;
    // SAFETY: a NUL-terminated string made with `malloc`, handed over to us.
    let copy = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned();
    // SAFETY: as above.
    unsafe { cf_free(text.as_ptr().cast()) };
    Some(copy)
}

/// Operators of the shim's own, in the namespace `camflow`, that stand in for some of libtorch's.
pub(super) struct OwnOperators {
    /// Has libtorch's dispatcher know them.
    define: unsafe extern "C" fn(*mut *mut c_char) -> i32,
    are_defined: OnceLock<bool>,
}

impl OwnOperators {
    pub(super) const fn new(define: unsafe extern "C" fn(*mut *mut c_char) -> i32) -> Self {
        OwnOperators { define, are_defined: OnceLock::new() }
    }

    /// Whether they can be called; they are defined when this is asked first.
    pub(super) fn are_defined(&self) -> bool {
        *self.are_defined.get_or_init(|| {
            let mut error = ptr::null_mut();
            // SAFETY: a function of the shim, for which the error is a place to write to.
            let status = unsafe { (self.define)(&raw mut error) };
            drop(take_text(error));
            status == 0
        })
    }
}

fn failure(status: i32, error: *mut c_char) -> DispatchError {
    let text = take_text(error).unwrap_or_default();
    // libtorch appends where it was raised; the first line says what.
    let message = text.lines().next().unwrap_or("libtorch gave no reason").to_owned();
    let out_of_memory = status == OUT_OF_MEMORY || says_out_of_memory(&text);
    DispatchError { message, out_of_memory }
}

/// The tensor `[N, C, H, W]` with its memory in the order N, H, W, C.
///
/// # Errors
/// No memory is left, or the tensor has not four dimensions.
pub(super) fn channels_last(tensor: &Tensor) -> Result<Tensor, DispatchError> {
    /// `c10::MemoryFormat::ChannelsLast`.
    const CHANNELS_LAST: i64 = 2;
    static CONTIGUOUS: OnceLock<Option<Operator>> = OnceLock::new();
    let absent = || DispatchError { message: "this libtorch has no `aten::contiguous`".into(), out_of_memory: false };
    let operator = CONTIGUOUS.get_or_init(|| Operator::find("aten::contiguous", "")).as_ref().ok_or_else(absent)?;
    match operator.call(&[Input::Tensor(tensor), Input::Int(CHANNELS_LAST)])?.pop() {
        Some(Output::Tensor(tensor)) => Ok(tensor),
        _ => Err(absent()),
    }
}

/// A tensor in the host's memory, of this one's size and type; pinned, a GPU can reach it.
///
/// # Errors
/// No memory is left; there is no GPU.
pub(super) fn empty_on_host(like: &Tensor, pinned: bool) -> Result<Tensor, TchError> {
    static EMPTY_LIKE: OnceLock<Option<Operator>> = OnceLock::new();
    let absent = || TchError::Torch("this libtorch has no `aten::empty_like`".into());
    let operator = EMPTY_LIKE.get_or_init(|| Operator::find("aten::empty_like", "")).as_ref().ok_or_else(absent)?;
    // dtype, layout, device, pin_memory, memory_format; row by row.
    let contiguous = Input::Int(0);
    let inputs = [Input::Tensor(like), Input::Default, Input::Default, Input::Device("cpu"), Input::Bool(pinned), contiguous];
    match operator.call(&inputs).map_err(|error| TchError::Torch(error.message))?.pop() {
        Some(Output::Tensor(tensor)) => Ok(tensor),
        _ => Err(absent()),
    }
}

/// While it lives, this thread runs those operators in bfloat16 that it is good enough for, as `torch.autocast` does.
#[derive(Debug)]
pub(super) struct Autocast {
    device: CString,
    // It belongs to the thread that made it.
    _not_send: PhantomData<*const ()>,
}

impl Autocast {
    /// On devices of this one's type; `device` as libtorch spells it.
    pub(super) fn bf16(device: &str) -> Autocast {
        let device = CString::new(device).unwrap_or_default();
        // SAFETY: the string ends in a zero; sets flags of the thread.
        unsafe { cf_autocast_bf16(device.as_ptr(), 1) };
        Autocast { device, _not_send: PhantomData }
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { cf_autocast_bf16(self.device.as_ptr(), 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn defaults_are_filled_in_from_the_schema() {
        let relu = Operator::find("aten::leaky_relu", "").expect("leaky_relu");
        assert_eq!(relu.arguments[1].name, "negative_slope");
        assert!(relu.arguments[1].has_default);
        let x = Tensor::from_slice(&[-1.0f32, 2.0]);
        let out = relu.call(&[Input::Tensor(&x), Input::Default]).expect("call");
        let [Output::Tensor(y)] = &out[..] else { panic!("{out:?}") };
        assert_eq!(Vec::<f32>::try_from(y).expect("values"), [-0.01, 2.0]);
    }

    #[test]
    fn a_number_for_a_tensor_does_not_promote() {
        let add = Operator::find("aten::add", "Tensor").expect("add");
        let x = Tensor::ones([2], (Kind::Half, Device::Cpu));
        let out = add.call(&[Input::Tensor(&x), Input::Float(0.5), Input::Default]).expect("call");
        let [Output::Tensor(y)] = &out[..] else { panic!("{out:?}") };
        assert_eq!(y.kind(), Kind::Half);
    }

    #[test]
    fn memory_of_the_host_is_row_by_row() {
        let like = Tensor::ones([2, 3], (Kind::Uint8, Device::Cpu)).transpose(0, 1);
        let empty = empty_on_host(&like, false).expect("memory");
        assert_eq!((empty.size(), empty.kind(), empty.is_contiguous()), (vec![3, 2], Kind::Uint8, true));
    }

    #[test]
    fn lists_come_back_and_gradients_flow() {
        let chunk = Operator::find("aten::chunk", "").expect("chunk");
        let x = Tensor::ones([4, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let out = chunk.call(&[Input::Tensor(&x), Input::Int(2), Input::Default]).expect("call");
        let [Output::Tensors(parts)] = &out[..] else { panic!("{out:?}") };
        assert_eq!(parts.len(), 2);
        assert!(parts[0].requires_grad());
    }

    #[test]
    fn errors_are_one_line_and_do_not_unwind() {
        let mm = Operator::find("aten::mm", "").expect("mm");
        let x = Tensor::ones([2, 3], (Kind::Float, Device::Cpu));
        let error = mm.call(&[Input::Tensor(&x), Input::Tensor(&x)]).expect_err("shapes do not fit");
        assert!(error.message.contains("mat1 and mat2 shapes"), "{error}");
        assert!(!error.out_of_memory);
        let error = mm.call(&[Input::Tensor(&x), Input::Str("x")]).expect_err("a string is no tensor");
        assert!(error.message.contains("`mat2`"), "{error}");
        assert!(Operator::find("aten::no_such_operator", "").is_none());
    }
}
