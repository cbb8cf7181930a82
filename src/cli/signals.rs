//! Ctrl-C and SIGTERM. Handlers belong to the process, so there is one, whatever is run how often.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use super::Exit;
use crate::{diagnostic::Diagnostic, pipeline::Cancellation};

/// What the first Ctrl-C or SIGTERM cancels; the second one stops at once. The same for all who ask.
pub(super) fn cancel_on_signals() -> Result<Cancellation, Diagnostic> {
    static CANCELLATION: OnceLock<Cancellation> = OnceLock::new();
    static ASKED: AtomicBool = AtomicBool::new(false);
    if let Some(cancellation) = CANCELLATION.get() {
        return Ok(cancellation.clone());
    }
    let cancellation = CANCELLATION.get_or_init(Cancellation::default).clone();
    let handle = cancellation.clone();
    ctrlc::set_handler(move || {
        if ASKED.swap(true, Ordering::Relaxed) {
            // `exit` would run libtorch's destructors beside its threads, which are at work: a crash instead of an exit code.
            // SAFETY: it ends the process and does nothing else.
            unsafe { libc::_exit(Exit::Interrupted.code().into()) };
        }
        handle.cancel();
    })
    .map_err(|error| Diagnostic::aborted("signals cannot be handled").because(&error))?;
    Ok(cancellation)
}
