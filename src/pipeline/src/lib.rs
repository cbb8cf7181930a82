//! The run: stages, the messages between them, and the three seams to the outside world.
//!
//! Nothing here knows torch, MongoDB or a terminal; [`Source`], [`Explainer`] and [`Sink`] have in-memory versions in the tests.
//! Start reading at [`run`].

mod event;
mod fields;
mod fingerprint;
mod grid;
mod known;
mod label_names;
mod ledger;
mod max_failures;
mod message;
mod run;
mod stages;
mod survey;
mod timing;

pub use event::{Event, StageTimes, Summary};
pub use fields::HeatmapFields;
pub use fingerprint::{Change, Fingerprint, Ingredient, SampleFingerprint};
pub use grid::{ClassIndex, ColumnIndex, Grid, GridIndex};
pub use known::{FailureCause, KnownFailures};
pub use label_names::LabelNames;
pub use max_failures::MaxFailures;
pub use message::*;
pub use run::{Cancellation, Parts, RunOptions, run};
pub use stages::{
    decode::{Decoder, Targets},
    encode::{Encoder, NpyFormat, Store},
    masks::{SeenMasks, listed},
};
pub use survey::{Survey, survey};

use camflow_diagnostic::{Class, Diagnose, Diagnostic};

/// A fault that ends the run. What was committed stays; the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The database went away or refused: what happened, to which dataset, and what to do.
    #[error("{0}")]
    Database(Diagnostic),
    /// Files cannot be written any more.
    #[error("cannot write to `{}`: {source}", camflow_media::shown(path))]
    Output {
        /// The folder or file.
        path: std::path::PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// The device cannot go on.
    #[error("{0}")]
    Device(String),
    /// More samples failed than the job allows.
    #[error(
        "{failed} of {num_samples} samples failed, more than the {} that `--max-failures {allowed}` allows; the first: {first}",
        allowed.most(*num_samples)
    )]
    TooManyFailures {
        /// Samples that failed, without known failures.
        failed: u64,
        /// Samples of the selection.
        num_samples: u64,
        /// The job's limit.
        allowed: MaxFailures,
        /// The first failure's text.
        first: String,
    },
    /// A stage panicked or could not be started.
    #[error("the {0} stage stopped unexpectedly; this is a bug in camflow")]
    Bug(Stage),
}

impl Diagnose for RunError {
    fn diagnose(&self) -> Diagnostic {
        let aborted = Diagnostic::aborted(self.to_string());
        match self {
            RunError::Database(error) => error.clone().of_class(Class::Aborted),
            RunError::Output { source, .. } => aborted.hint(format!("{}; run the same command again to go on", remedy(source))),
            RunError::TooManyFailures { .. } => aborted.hint(
                "look whether a disk is missing or the model is another one; repair or remove the samples, or raise `--max-failures`",
            ),
            RunError::Device(_) | RunError::Bug(_) => aborted,
        }
    }
}

/// Where samples come from.
pub trait Source: Send {
    /// How many samples the selection has, as far as is known, for progress.
    fn num_samples(&self) -> Option<u64>;

    /// The next samples of the selection in a stable order, at most about a thousand; an empty list ends the stream.
    ///
    /// # Errors
    /// The source is lost; the run ends.
    fn next_samples(&mut self) -> Result<Vec<SelectedSample>, RunError>;
}

/// How much one batch may hold; at least one sample always may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimit {
    /// Samples.
    pub samples: usize,
    /// Pixels of the model's input, over all samples.
    pub pixels: usize,
}

impl BatchLimit {
    /// So many samples of any size.
    pub const fn samples(samples: usize) -> Self {
        BatchLimit { samples, pixels: usize::MAX }
    }

    /// What keeps to both limits.
    pub fn and(self, other: BatchLimit) -> Self {
        BatchLimit { samples: self.samples.min(other.samples), pixels: self.pixels.min(other.pixels) }
    }

    /// How many samples of `height` x `width` make a full batch.
    pub fn of_shape(self, height: usize, width: usize) -> usize {
        self.samples.min(self.pixels / (height * width).max(1)).max(1)
    }
}

/// Computes heatmaps. One thread owns it; no tensor leaves it.
pub trait Explainer: Send {
    /// Whether it helps to know the batch after next. Otherwise another device may have it.
    fn prefetches(&self) -> bool {
        false
    }

    /// Says which batch comes after next: it may be brought to the device while the next one is computed.
    fn prefetch(&mut self, _batch: &InputBatch) {}

    /// The heatmaps of a batch. Every sample of the batch is in the result exactly once.
    ///
    /// # Errors
    /// Only what makes going on pointless; a fault of one sample is part of the result.
    fn explain(&mut self, batch: InputBatch) -> Result<HeatmapBatch, RunError>;

    /// How much the next batches may hold, by what those before took. Before the first it is little: that one is the trial.
    fn batch_limit(&self) -> BatchLimit {
        BatchLimit::samples(1)
    }
}

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The sample refers to the new heatmaps.
    Committed,
    /// The sample is not there any more.
    SampleGone,
    /// Somebody else changed one of its labels since it was read; the text says which. Nothing was written.
    Abandoned(String),
    /// The database refused this one update (too large, say); the text says why.
    Refused(String),
}

/// Where heatmaps go.
pub trait Sink: Send {
    /// Makes the updates, one outcome for each in order. Making the same update twice changes nothing more.
    ///
    /// # Errors
    /// The sink is lost; the run ends.
    fn commit(&mut self, updates: &[SampleUpdate]) -> Result<Vec<CommitOutcome>, RunError>;
}
/// What helps when files cannot be written.
fn remedy(cause: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match cause.kind() {
        ErrorKind::FileTooLarge => "the process may write no larger files: raise the limit (`ulimit -f`)",
        ErrorKind::PermissionDenied => "see to the folder's permissions, or choose another folder with `--out`",
        ErrorKind::InvalidFilename => "choose shorter names with `--field`, or another folder with `--out`",
        _ if cause.raw_os_error() == Some(libc::EMFILE) => "raise the limit on open files (`ulimit -n`)",
        _ => "free space or choose another folder with `--out`",
    }
}
