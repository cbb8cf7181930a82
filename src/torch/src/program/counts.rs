//! What a piece of work asks of libtorch, in numbers that are the same on every machine: what the speed on a GPU hangs on, and
//! what a test can hold.

use std::cell::Cell;

use tch::{TchError, Tensor, kind::Element};

use super::{dispatch::empty_on_host, memory::metered};

unsafe extern "C" {
    fn cf_count_calls() -> u64;
    fn cf_counted_calls(handle: u64, calls: *mut u64, items: *mut u64);
}

thread_local! {
    static NUM_COPIES: Cell<u64> = const { Cell::new(0) };
}

/// What a piece of work asked of libtorch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of operators, with those that operators make themselves.
    pub calls: u64,
    /// Bytes of tensors that were allocated on the device, whether they were given back or not.
    pub bytes: u64,
    /// How often the host waited for the device: for one number, or for a copy ([`to_host`]).
    pub waits: u64,
}

/// Runs `work` and counts what it asks of libtorch on devices of this one's type (`cpu`, `cuda:0`). Calls are counted in all
/// threads, so that nothing else may use libtorch meanwhile. `None` where libtorch cannot tell.
pub fn counted<T>(device: &str, work: impl FnOnce() -> T) -> (T, Option<Counts>) {
    let copies = NUM_COPIES.get();
    // SAFETY: sets a callback, which is taken away below.
    let handle = unsafe { cf_count_calls() };
    let (result, bytes) = metered(device, work);
    let (mut calls, mut items) = (0, 0);
    // SAFETY: the handle is that of above, the others are places to write to.
    unsafe { cf_counted_calls(handle, &raw mut calls, &raw mut items) };
    let waits = items + NUM_COPIES.get() - copies;
    (result, bytes.map(|bytes| Counts { calls, bytes: bytes.allocated, waits }))
}

/// The elements of a tensor of that type, row by row, in host memory: the host waits until they are computed.
///
/// # Errors
/// libtorch fails, or the tensor is of another type.
pub fn to_host<T: Element + Copy>(tensor: &Tensor) -> Result<Vec<T>, TchError> {
    with_host(tensor, |values: &[T]| values.to_vec())
}

/// Likewise, for somebody who looks at them where they are.
///
/// # Errors
/// As for [`to_host`].
pub(crate) fn with_host<T: Element, R>(tensor: &Tensor, read: impl FnOnce(&[T]) -> R) -> Result<R, TchError> {
    if tensor.kind() != T::KIND {
        return Err(TchError::Kind(format!("{:?} where {:?} is wanted", tensor.kind(), T::KIND)));
    }
    NUM_COPIES.set(NUM_COPIES.get() + 1);
    let on_host = if tensor.device().is_cuda() { to_pinned(tensor)? } else { tensor.f_contiguous()? };
    if on_host.numel() == 0 {
        return Ok(read(&[]));
    }
    // SAFETY: so many elements of that type, one behind the other, which live as long as `on_host`.
    Ok(read(unsafe { std::slice::from_raw_parts(on_host.data_ptr().cast::<T>(), on_host.numel()) }))
}

/// A copy in memory of the host that does not move, so that a GPU reaches it itself and several times as fast. libtorch keeps
/// such memory for the next copies.
///
/// # Errors
/// No memory is left.
pub(super) fn to_pinned(tensor: &Tensor) -> Result<Tensor, TchError> {
    let mut pinned = empty_on_host(tensor, true)?;
    pinned.f_copy_(tensor)?;
    Ok(pinned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_come_row_by_row() {
        let tensor = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]).transpose(0, 1);
        assert_eq!(to_host::<f32>(&tensor).expect("copied"), [1.0, 3.0, 2.0, 4.0]);
        assert!(to_host::<i64>(&tensor).is_err());
        assert!(to_host::<f32>(&tensor.narrow(0, 0, 0)).expect("copied").is_empty());
    }
}
