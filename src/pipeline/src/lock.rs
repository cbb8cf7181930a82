//! Locks of what stages share.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A stage that panicked is reported as a fault of its own; what it shared is still right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
