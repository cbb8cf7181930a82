//! What a run tells while it goes on, and what it amounts to in the end. Only `report/` prints it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use crate::{
    fingerprint::Change,
    message::{SampleFailure, SampleRef, Skip, SkipReason},
    stage::Stage,
};

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The run begins.
    RunStarted(Outlook),
    /// What the samples so far say of the rest; once in a run, and not in a short one.
    Forecast(Forecast),
    /// A sample refers to its new heatmaps.
    SampleCommitted {
        /// Which sample.
        sample: SampleRef,
        /// How many heatmaps it got.
        num_heatmaps: usize,
        /// How many it lost, because what they explain is not there any more.
        num_withdrawn: usize,
    },
    /// In a survey: a run would compute heatmaps of this sample, or take them away.
    SampleStale {
        /// Which sample.
        sample: SampleRef,
        /// Why.
        changes: BTreeSet<Change>,
    },
    /// Somebody wrote a file of a sample since it was checked. Its heatmaps show what was read, and are not up to date.
    SampleMoved {
        /// Which sample.
        sample: SampleRef,
    },
    /// A sample was passed over.
    SampleSkipped(Skip),
    /// A sample was lost to a fault.
    SampleFailed {
        /// Which one, and why.
        failure: SampleFailure,
        /// Whether it failed with the same inputs in an earlier run.
        is_known: bool,
    },
    /// The run drains: no new samples are read.
    Draining,
}

/// What is known of a run before its first sample. What is up to date, or shows nothing of a class, takes less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// The fields that it writes.
    pub fields: Vec<String>,
    /// Samples in the selection, if known.
    pub num_samples: Option<u64>,
    /// Heatmaps that they get at most.
    pub num_heatmaps: Option<u64>,
    /// Bytes that the files of these take at most; `None` where the images' sizes decide.
    pub num_bytes: Option<u64>,
    /// Bytes that are free for them, and the folder; `None` where nothing is written to disk, or the system does not say.
    pub free: Option<(u64, PathBuf)>,
}

/// What is left of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Images that are still to be annotated.
    pub num_samples: u64,
    /// Heatmaps that they get.
    pub num_heatmaps: u64,
    /// Bytes that their files take on a disk; 0 where nothing is written to disk.
    pub num_bytes: u64,
    /// How long it takes.
    pub time: Duration,
    /// Bytes that are free for them, and the folder; `None` where nothing is written to disk, or the system does not say.
    pub free: Option<(u64, PathBuf)>,
}

/// Where a stage's time went, over all of its threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Working.
    pub busy: Duration,
    /// Waiting for the stage before it.
    pub starved: Duration,
    /// Waiting for the stage after it.
    pub blocked: Duration,
    /// Threads that share the work.
    pub num_threads: usize,
}

/// What a run amounts to. `num_read` is always the sum of the samples committed, skipped, failed and abandoned.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Samples that the source gave.
    pub num_read: u64,
    /// Samples that got their heatmaps.
    pub num_committed: u64,
    /// Heatmaps that they got.
    pub num_heatmaps: u64,
    /// Of these, those that are zero everywhere.
    pub num_empty: u64,
    /// Samples whose predictions were stored.
    pub num_predicted: u64,
    /// Bytes that their files take on a disk, without those that took the place of one of the same name.
    pub num_bytes: u64,
    /// Heatmaps that were taken away, because what they explain is not there any more.
    pub num_withdrawn: u64,
    /// Samples whose image or masks somebody wrote while they were read: the next run looks at them again.
    pub num_moved: u64,
    /// Samples whose image has levels outside of 0 to 255, which were cut to it as Pillow does: gray of more than 8 bits.
    pub num_clipped: u64,
    /// Detections that were to get heatmaps of their own, and that no prediction of the model overlaps enough.
    pub num_unmatched: u64,
    /// Samples passed over, by reason.
    pub skipped: BTreeMap<SkipReason, u64>,
    /// Samples lost to a fault.
    pub num_failed: u64,
    /// Of these, those that failed with the same inputs in an earlier run.
    pub num_known_failed: u64,
    /// Samples that were in flight when the run was aborted: neither changed nor lost, the next run takes them.
    pub num_abandoned: u64,
    /// The first failures that are new, for the report.
    pub failures: Vec<SampleFailure>,
    /// The first of those that are known.
    pub known_failures: Vec<SampleFailure>,
    /// From first to last.
    pub elapsed: Duration,
    /// Per stage.
    pub stages: BTreeMap<Stage, StageTimes>,
    /// Whether it was asked to stop before the end.
    pub interrupted: bool,
}

impl Summary {
    /// Samples passed over.
    pub fn num_skipped(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Samples that failed and did not before, with the same inputs.
    pub fn num_newly_failed(&self) -> u64 {
        self.num_failed - self.num_known_failed
    }

    /// The stage that set the pace: the one that worked for the largest share of its threads' time.
    pub fn bottleneck(&self) -> Option<(Stage, f64)> {
        let share = |times: &StageTimes| {
            times.busy.as_secs_f64() / (self.elapsed.as_secs_f64() * times.num_threads.max(1) as f64).max(f64::EPSILON)
        };
        let shares = self.stages.iter().map(|(stage, times)| (*stage, share(times)));
        shares.max_by(|a, b| a.1.total_cmp(&b.1))
    }
}
