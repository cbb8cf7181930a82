//! What a piece of work asks of libtorch, in numbers that are the same on every machine: what the speed on a GPU hangs on, and
//! what a test can hold.

use std::cell::Cell;

use super::memory::metered;

unsafe extern "C" {
    fn cf_count_calls() -> u64;
    fn cf_counted_calls(handle: u64, calls: *mut u64, items: *mut u64);
}

thread_local! {
    static NUM_COPIES: Cell<u64> = const { Cell::new(0) };
    static PASSES: Cell<Passes> = const { Cell::new(Passes { whole: 0, resumed: 0, backward: 0 }) };
}

/// How often the network was run, on this thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passes {
    /// Images that went through all of it.
    pub whole: u64,
    /// Activations from which it was run on ([`Plan::resume`](super::Plan::resume)).
    pub resumed: u64,
    /// Passes back, of a batch each.
    pub backward: u64,
}

/// Counts them.
pub(super) fn add(more: Passes) {
    let Passes { whole, resumed, backward } = PASSES.get();
    PASSES.set(Passes { whole: whole + more.whole, resumed: resumed + more.resumed, backward: backward + more.backward });
}

/// What a piece of work asked of libtorch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of operators, with those that operators make themselves.
    pub calls: u64,
    /// Bytes of tensors that were allocated on the device, whether they were given back or not.
    pub bytes: u64,
    /// How often the host waited for the device: for one number, or for a copy ([`to_host`](super::to_host)).
    pub waits: u64,
    /// How often it ran the network.
    pub passes: Passes,
}

/// Runs `work` and counts what it asks of libtorch on devices of this one's type (`cpu`, `cuda:0`). Calls are counted in all
/// threads, so that nothing else may use libtorch meanwhile. `None` where libtorch cannot tell.
pub fn counted<T>(device: &str, work: impl FnOnce() -> T) -> (T, Option<Counts>) {
    let (copies, before) = (NUM_COPIES.get(), PASSES.get());
    // SAFETY: sets a callback, which is taken away below.
    let handle = unsafe { cf_count_calls() };
    let (result, bytes) = metered(device, work);
    let (mut calls, mut items) = (0, 0);
    // SAFETY: the handle is that of above, the others are places to write to.
    unsafe { cf_counted_calls(handle, &raw mut calls, &raw mut items) };
    let waits = items + NUM_COPIES.get() - copies;
    let after = PASSES.get();
    let passes = Passes {
        whole: after.whole - before.whole,
        resumed: after.resumed - before.resumed,
        backward: after.backward - before.backward,
    };
    (result, bytes.map(|bytes| Counts { calls, bytes: bytes.allocated, waits, passes }))
}

/// The host waits for a copy from the device.
pub(super) fn count_wait() {
    NUM_COPIES.set(NUM_COPIES.get() + 1);
}
