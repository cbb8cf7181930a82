//! The ledger of a run: every sample that is read is written off exactly once.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::{
    error::RunError,
    event::{Event, Summary},
    fields::HeatmapFields,
    fingerprint::Fingerprint,
    forecast::Forecaster,
    known::{FailureCause, KnownFailures},
    lock::lock,
    max_failures::MaxFailures,
    message::{Committed, DecodedSample, ExplainedSample, SampleFailure, SampleRef, Skip, StaleSample, Step},
};

/// What the stages share: the counts, the first fault, and whom to tell.
pub(crate) struct Ledger<'a> {
    fields: &'a HeatmapFields,
    /// Of the job's settings.
    job: Fingerprint,
    known: Mutex<&'a mut KnownFailures>,
    /// What the samples in flight are made of, by their position.
    in_flight: Mutex<HashMap<u64, Fingerprint>>,
    /// Samples of the selection, if that is known.
    num_samples: Option<u64>,
    summary: Mutex<Summary>,
    fault: Mutex<Option<RunError>>,
    aborted: AtomicBool,
    max_failures: Option<MaxFailures>,
    forecaster: Mutex<Forecaster<'a>>,
    tell: &'a (dyn Fn(Event) + Sync),
}

impl<'a> Ledger<'a> {
    pub(crate) fn new(
        fields: &'a HeatmapFields,
        job: Fingerprint,
        known: &'a mut KnownFailures,
        num_samples: Option<u64>,
        max_failures: Option<MaxFailures>,
        forecaster: Forecaster<'a>,
        tell: &'a (dyn Fn(Event) + Sync),
    ) -> Self {
        Ledger {
            fields,
            job,
            known: Mutex::new(known),
            in_flight: Mutex::default(),
            num_samples,
            summary: Mutex::default(),
            fault: Mutex::default(),
            aborted: AtomicBool::new(false),
            max_failures,
            forecaster: Mutex::new(forecaster),
            tell,
        }
    }

    /// A sample was read and checked. To be called before it is sent on: it may end before that returns.
    pub(crate) fn read(&self, checked: Step<StaleSample>) -> Option<StaleSample> {
        if let Step::Next(StaleSample { envelope, .. }) = &checked {
            lock(&self.in_flight).insert(envelope.sample.seq, envelope.fingerprint.whole());
        }
        lock(&self.summary).num_read += 1;
        self.next(checked)
    }

    /// What goes on to the next stage; samples that end here are written off.
    pub(crate) fn next<T>(&self, step: Step<T>) -> Option<T> {
        match step {
            Step::Next(message) => return Some(message),
            Step::Skip(skip) => self.skipped(skip),
            Step::Fail(failure) => self.failed(failure),
        }
        None
    }

    /// A sample ended without a fault.
    fn ended(&self, sample: &SampleRef) {
        lock(&self.in_flight).remove(&sample.seq);
        lock(&self.known).ended(&sample.id);
    }

    pub(crate) fn draining(&self) {
        (self.tell)(Event::Draining);
    }

    fn skipped(&self, skip: Skip) {
        self.ended(&skip.sample);
        *lock(&self.summary).skipped.entry(skip.reason).or_default() += 1;
        (self.tell)(Event::SampleSkipped(skip));
    }

    /// A sample goes on to the device, whatever is to be said of its files.
    pub(crate) fn decoded(&self, sample: &DecodedSample) {
        let mut summary = lock(&self.summary);
        summary.num_clipped += u64::from(sample.is_clipped);
        summary.num_moved += u64::from(sample.is_moved);
        drop(summary);
        if sample.is_moved {
            (self.tell)(Event::SampleMoved { sample: sample.envelope.sample.clone() });
        }
    }

    /// A sample comes from the device.
    pub(crate) fn explained(&self, sample: &ExplainedSample) {
        if sample.num_unmatched > 0 {
            lock(&self.summary).num_unmatched += sample.num_unmatched as u64;
        }
    }

    pub(crate) fn failed(&self, failure: SampleFailure) {
        /// Failures kept in full for the summary; all of them are told as they happen.
        const NUM_KEPT: usize = 100;
        /// From so many samples on a share of failures ends a run before its end.
        const MANY: u64 = 100;
        let inputs = lock(&self.in_flight).remove(&failure.sample.seq);
        let cause = FailureCause::of(&failure, self.fields, self.job, inputs);
        let is_known = lock(&self.known).failed(&failure.sample.id, cause);
        let too_many = {
            let mut summary = lock(&self.summary);
            summary.num_failed += 1;
            summary.num_known_failed += u64::from(is_known);
            let kept = if is_known { &mut summary.known_failures } else { &mut summary.failures };
            if kept.len() < NUM_KEPT {
                kept.push(failure.clone());
            }
            let num_samples = summary.num_read.max(self.num_samples.unwrap_or(0));
            let limit = match self.max_failures {
                // Of few samples one is a large share, and all others can be stored before that is judged.
                Some(MaxFailures::Share(_)) if num_samples < MANY || self.num_samples.is_none() => None,
                limit => limit,
            };
            too_many_failures(&summary, limit, num_samples)
        };
        (self.tell)(Event::SampleFailed { failure, is_known });
        too_many.into_iter().for_each(|fault| self.abort(fault));
    }

    pub(crate) fn committed(&self, committed: Committed) {
        let Committed { sample, num_heatmaps, num_empty, has_predictions, num_withdrawn, num_bytes } = committed;
        self.ended(&sample);
        let mut summary = lock(&self.summary);
        summary.num_committed += 1;
        summary.num_heatmaps += num_heatmaps as u64;
        summary.num_empty += num_empty as u64;
        summary.num_predicted += u64::from(has_predictions);
        summary.num_withdrawn += num_withdrawn as u64;
        summary.num_bytes += num_bytes;
        drop(summary);
        (self.tell)(Event::SampleCommitted { sample, num_heatmaps, num_withdrawn });
    }

    /// The files of a sample were written.
    pub(crate) fn wrote(&self, num_bytes: u64) {
        let fault = lock(&self.forecaster).wrote(num_bytes, &lock(&self.summary));
        fault.into_iter().for_each(|fault| self.abort(fault));
    }

    /// Some more samples are stored.
    pub(crate) fn look_ahead(&self) {
        let forecast = lock(&self.forecaster).stored(&lock(&self.summary), Instant::now());
        forecast.into_iter().for_each(|forecast| (self.tell)(Event::Forecast(forecast)));
    }

    /// Only the first fault counts; the others are its consequences.
    pub(crate) fn abort(&self, fault: RunError) {
        lock(&self.fault).get_or_insert(fault);
        self.aborted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Whether the run was aborted because files cannot be written.
    pub(crate) fn cannot_write(&self) -> bool {
        matches!(*lock(&self.fault), Some(RunError::Output { .. }))
    }

    /// What the run came to, when all stages have ended.
    pub(crate) fn close(&self, interrupted: bool) -> (Summary, Option<RunError>) {
        let mut summary = std::mem::take(&mut *lock(&self.summary));
        summary.interrupted = interrupted;
        // A share of a run that was cut short says nothing.
        let judged = self.max_failures.filter(|_| !interrupted);
        let too_many = || too_many_failures(&summary, judged, summary.num_read);
        let fault = lock(&self.fault).take().or_else(too_many);
        summary.num_abandoned = summary.num_read - summary.num_committed - summary.num_skipped() - summary.num_failed;
        (summary, fault)
    }
}

/// The fault that more of so many samples failed than are allowed. What is known does not count.
fn too_many_failures(summary: &Summary, allowed: Option<MaxFailures>, num_samples: u64) -> Option<RunError> {
    let failed = summary.num_newly_failed();
    let allowed = allowed.filter(|allowed| failed > allowed.most(num_samples))?;
    let first = summary.failures.first().map(|failure| failure.error.clone()).unwrap_or_default();
    Some(RunError::TooManyFailures { failed, num_samples, allowed, first })
}
