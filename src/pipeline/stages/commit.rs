//! Commit: one bulk update for the samples that are ready, then the files that nothing refers to any more.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::pipeline::{CommitOutcome, RunError, SampleFailure, SampleUpdate, Sink, Skip, SkipReason, Stage};

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
    /// With this many heatmaps.
    Done(usize),
    /// The sample is gone.
    Skipped(Skip),
    /// The sink refused it.
    Failed(SampleFailure),
}

/// Makes the updates and removes superseded files.
///
/// # Errors
/// The sink is lost.
pub fn commit(sink: &mut dyn Sink, bulk: Vec<SampleUpdate>) -> Result<Vec<Committed>, RunError> {
    let outcomes = sink.commit(&bulk)?;
    debug_assert_eq!(outcomes.len(), bulk.len(), "one outcome per update");
    let ended = bulk.into_iter().zip(outcomes).map(|(update, outcome)| match outcome {
        CommitOutcome::Committed => {
            remove(&update.superseded);
            Committed::Done(update.heatmaps.len())
        }
        // The new files belong to nothing.
        CommitOutcome::SampleGone => {
            let files: Vec<_> = update.files().map(ToOwned::to_owned).collect();
            remove(&files);
            Committed::Skipped(Skip { sample: update.sample, reason: SkipReason::SampleGone })
        }
        // The files stay: made again from the same things they have the names that the sample refers to already.
        CommitOutcome::Refused(error) => Committed::Failed(SampleFailure { sample: update.sample, stage: Stage::Commit, error }),
    });
    Ok(ended.collect())
}

/// A file that cannot be removed costs space and nothing else.
fn remove(paths: &[std::path::PathBuf]) {
    for path in paths {
        let _ = std::fs::remove_file(path);
    }
}
