//! The ledger of a run: every sample that is read is written off exactly once.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use super::{Event, MaxFailures, RunError, SampleFailure, SampleRef, Skip, Summary};

/// What the stages share: the counts, the first fault, and whom to tell.
pub(super) struct Ledger<'a> {
    summary: Mutex<Summary>,
    fault: Mutex<Option<RunError>>,
    aborted: AtomicBool,
    max_failures: Option<MaxFailures>,
    tell: &'a (dyn Fn(Event) + Sync),
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A stage that panicked is reported as a fault of its own; the counts are still right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Ledger<'a> {
    pub(super) fn new(max_failures: Option<MaxFailures>, tell: &'a (dyn Fn(Event) + Sync)) -> Self {
        Ledger { summary: Mutex::default(), fault: Mutex::default(), aborted: AtomicBool::new(false), max_failures, tell }
    }

    /// To be called before the sample is sent on: it may end before that returns.
    pub(super) fn read(&self) {
        lock(&self.summary).num_read += 1;
    }

    pub(super) fn draining(&self) {
        (self.tell)(Event::Draining);
    }

    pub(super) fn skipped(&self, skip: Skip) {
        *lock(&self.summary).skipped.entry(skip.reason).or_default() += 1;
        (self.tell)(Event::SampleSkipped(skip));
    }

    /// The sample goes on all the same.
    pub(super) fn moved(&self, sample: &SampleRef) {
        lock(&self.summary).num_moved += 1;
        (self.tell)(Event::SampleMoved { sample: sample.clone() });
    }

    /// The levels of a sample's image were cut to 255, or not.
    pub(super) fn clipped(&self, is_clipped: bool) {
        lock(&self.summary).num_clipped += u64::from(is_clipped);
    }

    pub(super) fn failed(&self, failure: SampleFailure) {
        /// Failures kept in full for the summary; all of them are told as they happen.
        const NUM_KEPT: usize = 100;
        let too_many = {
            let mut summary = lock(&self.summary);
            summary.num_failed += 1;
            if summary.failures.len() < NUM_KEPT {
                summary.failures.push(failure.clone());
            }
            too_many_failures(&summary, self.max_failures, MaxFailures::is_exceeded)
        };
        (self.tell)(Event::SampleFailed(failure));
        too_many.into_iter().for_each(|fault| self.abort(fault));
    }

    pub(super) fn committed(&self, sample: SampleRef, num_heatmaps: usize, num_withdrawn: usize) {
        let mut summary = lock(&self.summary);
        summary.num_committed += 1;
        summary.num_heatmaps += num_heatmaps as u64;
        summary.num_withdrawn += num_withdrawn as u64;
        drop(summary);
        (self.tell)(Event::SampleCommitted { sample, num_heatmaps, num_withdrawn });
    }

    /// Only the first fault counts; the others are its consequences.
    pub(super) fn abort(&self, fault: RunError) {
        lock(&self.fault).get_or_insert(fault);
        self.aborted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Whether the run was aborted because files cannot be written.
    pub(super) fn cannot_write(&self) -> bool {
        matches!(*lock(&self.fault), Some(RunError::Output { .. }))
    }

    /// What the run came to, when all stages have ended.
    pub(super) fn close(&self, interrupted: bool) -> (Summary, Option<RunError>) {
        let mut summary = std::mem::take(&mut *lock(&self.summary));
        summary.interrupted = interrupted;
        // A share of a run that was cut short says nothing.
        let judged = self.max_failures.filter(|_| !interrupted);
        let too_many = || too_many_failures(&summary, judged, MaxFailures::is_exceeded_at_end);
        let fault = lock(&self.fault).take().or_else(too_many);
        summary.num_abandoned = summary.num_read - summary.num_committed - summary.num_skipped() - summary.num_failed;
        (summary, fault)
    }
}

/// The fault that more samples failed than are allowed, if `is_exceeded` says so.
fn too_many_failures(
    summary: &Summary,
    allowed: Option<MaxFailures>,
    is_exceeded: fn(MaxFailures, u64, u64) -> bool,
) -> Option<RunError> {
    let (failed, due) = (summary.num_failed, summary.num_read - summary.num_skipped());
    let allowed = allowed.filter(|allowed| is_exceeded(*allowed, failed, due))?;
    let first = summary.failures.first().map(|failure| failure.error.clone()).unwrap_or_default();
    Some(RunError::TooManyFailures { failed, due, allowed, first })
}
