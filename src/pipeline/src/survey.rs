//! The survey: what a run would do, and why, without doing it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::{
    cancellation::Cancellation,
    decoding::{Decoder, check, count_targets},
    error::RunError,
    event::Event,
    fingerprint::{Change, Fingerprint},
    known::{FailureCause, KnownFailures},
    message::{SampleRef, SelectedSample, SkipReason, Step},
    pool::thread_pool,
    seams::Source,
    stage::Stage,
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
    /// Samples whose predictions would be stored.
    pub num_predicted: u64,
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

/// What a run would do with a sample.
struct Surveyed {
    /// What the sample is made of, if that could be looked at.
    inputs: Option<Fingerprint>,
    step: Step<Stale>,
}

struct Stale {
    sample: SampleRef,
    changes: BTreeSet<Change>,
    /// None where it only loses heatmaps, or has its predictions stored.
    num_targets: usize,
    is_predicted: bool,
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
    let stale = match check(decoder, selected) {
        Step::Next(stale) => stale,
        Step::Skip(skip) => return Surveyed { inputs: None, step: Step::Skip(skip) },
        Step::Fail(failure) => return Surveyed { inputs: None, step: Step::Fail(failure) },
    };
    let step = match count_targets(decoder, &stale) {
        Step::Next(num_targets) => {
            let is_predicted = stale.envelope.predictions.is_some();
            Step::Next(Stale { sample: stale.envelope.sample, changes: stale.changes, num_targets, is_predicted })
        }
        Step::Skip(skip) => Step::Skip(skip),
        Step::Fail(failure) => Step::Fail(failure),
    };
    Surveyed { inputs: Some(stale.envelope.fingerprint.whole()), step }
}

impl Survey {
    fn count(&mut self, surveyed: Surveyed, decoder: &Decoder, known: &KnownFailures, tell: &(dyn Fn(Event) + Sync)) {
        match surveyed.step {
            Step::Next(Stale { sample, changes, num_targets, is_predicted }) => {
                *self.stale.entry(changes.clone()).or_default() += 1;
                self.num_targets += num_targets as u64;
                self.num_predicted += u64::from(is_predicted);
                self.num_withdrawn += u64::from(num_targets == 0 && !is_predicted);
                tell(Event::SampleStale { sample, changes });
            }
            Step::Skip(skip) => {
                *self.skipped.entry(skip.reason).or_default() += 1;
                tell(Event::SampleSkipped(skip));
            }
            Step::Fail(failure) => {
                let cause = FailureCause::of(&failure, &decoder.fields, decoder.fingerprint, surveyed.inputs);
                let is_known = known.is_known(&failure.sample.id, cause);
                self.num_failed += 1;
                tell(Event::SampleFailed { failure, is_known });
            }
        }
    }
}
