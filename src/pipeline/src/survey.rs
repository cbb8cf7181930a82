//! The survey: what a run would do, and why, without doing it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::{
    Cancellation, Change, Decoder, Event, FailureCause, Fingerprint, KnownFailures, RunError, SampleFailure, SelectedSample,
    Skip, SkipReason, Source, Stage, StaleSample, run::thread_pool, stages::check::Checked,
};

/// What a run would do. `num_read` is the sum of the samples stale, skipped and failed.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Samples that the source gave.
    pub num_read: u64,
    /// Samples that would get heatmaps (or lose them), by why.
    pub stale: BTreeMap<BTreeSet<Change>, u64>,
    /// Classes of these samples, whose heatmaps would be computed.
    pub num_targets: u64,
    /// Samples that would lose heatmaps and get none, because what they explain is not there any more.
    pub num_withdrawn: u64,
    /// Samples that would be passed over, by reason.
    pub skipped: BTreeMap<SkipReason, u64>,
    /// Samples that would fail.
    pub num_failed: u64,
    /// From first to last.
    pub elapsed: Duration,
    /// Whether it was asked to stop before the end.
    pub interrupted: bool,
}

impl Survey {
    /// Samples that a run would change.
    pub fn num_stale(&self) -> u64 {
        self.stale.values().sum()
    }

    /// Samples that would be passed over.
    pub fn num_skipped(&self) -> u64 {
        self.skipped.values().sum()
    }
}

/// How the survey of a sample ended.
enum Surveyed {
    Stale(Box<StaleSample>, usize),
    Skipped(Skip),
    Failed(SampleFailure, Option<Fingerprint>),
}

/// Checks every sample of the source, and of those with something to do the label; images are not read, so what only an image
/// shows (that it is broken, that the model does not predict the class) is not known.
///
/// # Errors
/// The source is lost.
pub fn survey(
    source: &mut dyn Source,
    decoder: &Decoder,
    known: &KnownFailures,
    workers: usize,
    cancellation: &Cancellation,
    tell: &(dyn Fn(Event) + Sync),
) -> Result<Survey, RunError> {
    let started = Instant::now();
    let pool = thread_pool(Stage::Read, workers.max(1))?;
    let mut survey = Survey::default();
    while !cancellation.is_cancelled() {
        let samples = source.next_samples()?;
        if samples.is_empty() {
            break;
        }
        survey.num_read += samples.len() as u64;
        let surveyed: Vec<_> = pool.install(|| samples.into_par_iter().map(|selected| look(decoder, selected)).collect());
        for surveyed in surveyed {
            survey.count(surveyed, decoder, known, tell);
        }
    }
    survey.elapsed = started.elapsed();
    survey.interrupted = cancellation.is_cancelled();
    Ok(survey)
}

fn look(decoder: &Decoder, selected: SelectedSample) -> Surveyed {
    match decoder.check(selected) {
        Checked::Stale(stale) => match decoder.count_targets(&stale) {
            Ok(Ok(num_targets)) => Surveyed::Stale(stale, num_targets),
            Ok(Err(_)) if decoder.withdraws(&stale) => Surveyed::Stale(stale, 0),
            Ok(Err(reason)) => Surveyed::Skipped(Skip { sample: stale.selected.sample, reason }),
            Err(failure) => Surveyed::Failed(failure, Some(stale.fingerprint.whole())),
        },
        Checked::Skipped(skip) => Surveyed::Skipped(skip),
        Checked::Failed(failure) => Surveyed::Failed(failure, None),
    }
}

impl Survey {
    fn count(&mut self, surveyed: Surveyed, decoder: &Decoder, known: &KnownFailures, tell: &(dyn Fn(Event) + Sync)) {
        match surveyed {
            Surveyed::Stale(stale, num_targets) => {
                let StaleSample { selected, changes, .. } = *stale;
                *self.stale.entry(changes.clone()).or_default() += 1;
                self.num_targets += num_targets as u64;
                self.num_withdrawn += u64::from(num_targets == 0);
                tell(Event::SampleStale { sample: selected.sample, changes });
            }
            Surveyed::Skipped(skip) => {
                *self.skipped.entry(skip.reason).or_default() += 1;
                tell(Event::SampleSkipped(skip));
            }
            Surveyed::Failed(failure, inputs) => {
                let cause = FailureCause::of(&failure, &decoder.fields, decoder.fingerprint, inputs);
                let is_known = known.is_known(&failure.sample.id, cause);
                self.num_failed += 1;
                tell(Event::SampleFailed { failure, is_known });
            }
        }
    }
}
