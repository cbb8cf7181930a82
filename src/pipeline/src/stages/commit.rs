//! Commit: one bulk update for the samples that are ready, then a note of the files that nothing refers to any more.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::{CommitOutcome, RunError, SampleFailure, SampleRef, SampleUpdate, Sink, Skip, SkipReason, Stage};
use camflow_media::sync_names;
use camflow_storage::Journal;

/// Updates in one bulk write. With maps in the documents the sink cuts further, by size.
const MAX_UPDATES: usize = 128;

/// How long the first update of a bulk may wait for company: results go out as they are ready, and a run that is killed has
/// lost little.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Collects what is ready; `None` at the end of the stream.
pub fn next_bulk(updates: &Receiver<SampleUpdate>) -> Option<Vec<SampleUpdate>> {
    let mut bulk = vec![updates.recv().ok()?];
    let deadline = Instant::now() + MAX_DELAY;
    while bulk.len() < MAX_UPDATES {
        match updates.recv_deadline(deadline) {
            Ok(update) => bulk.push(update),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    Some(bulk)
}

/// How an update ended.
pub enum Committed {
    /// With so many heatmaps, and so many less.
    Done { sample: SampleRef, num_heatmaps: usize, num_withdrawn: usize },
    /// The sample is gone.
    Skipped(Skip),
    /// The sink refused it.
    Failed(SampleFailure),
}

/// Makes the updates, and notes what they leave over; nothing is removed.
///
/// # Errors
/// The sink is lost, or the files' folders are.
pub fn commit(
    sink: &mut dyn Sink,
    mut orphans: Option<&mut Journal>,
    bulk: Vec<SampleUpdate>,
) -> Result<Vec<Committed>, RunError> {
    // Once for many files: the names of all of them reach the disk together.
    sync_names(bulk.iter().flat_map(SampleUpdate::files)).map_err(|(path, source)| RunError::Output { path, source })?;
    let outcomes = sink.commit(&bulk)?;
    debug_assert_eq!(outcomes.len(), bulk.len(), "one outcome per update");
    let failed = |sample, error| Committed::Failed(SampleFailure { sample, stage: Stage::Commit, error });
    let ended = bulk.into_iter().zip(outcomes).map(|(update, outcome)| match outcome {
        CommitOutcome::Committed => {
            if let Some(orphans) = &mut orphans {
                orphans.note(update.superseded.iter().map(PathBuf::as_path));
            }
            let (num_heatmaps, num_withdrawn) = (update.heatmaps.len(), update.withdrawn.len());
            Committed::Done { sample: update.sample, num_heatmaps, num_withdrawn }
        }
        // The new files belong to nothing.
        CommitOutcome::SampleGone | CommitOutcome::Abandoned(_) => {
            if let Some(orphans) = &mut orphans {
                orphans.note(update.files());
            }
            match outcome {
                CommitOutcome::Abandoned(error) => failed(update.sample, error),
                _ => Committed::Skipped(Skip { sample: update.sample, reason: SkipReason::SampleGone }),
            }
        }
        // Made again from the same things they have the names that the sample refers to already.
        CommitOutcome::Refused(error) => failed(update.sample, error),
    });
    Ok(ended.collect())
}
