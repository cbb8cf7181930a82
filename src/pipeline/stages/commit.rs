//! Commit: one bulk update for the samples that are ready, then the files that nothing refers to any more.

use std::{
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::{
    media::sync_names,
    pipeline::{CommitOutcome, RunError, SampleFailure, SampleRef, SampleUpdate, Sink, Skip, SkipReason, Stage},
};

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

/// Makes the updates, and removes superseded files as far as they lie in the folder `removable`.
///
/// # Errors
/// The sink is lost, or the files' folders are.
pub fn commit(sink: &mut dyn Sink, removable: Option<&Path>, bulk: Vec<SampleUpdate>) -> Result<Vec<Committed>, RunError> {
    // Once for many files: the names of all of them reach the disk together.
    sync_names(bulk.iter().flat_map(SampleUpdate::files)).map_err(|(path, source)| RunError::Output { path, source })?;
    let outcomes = sink.commit(&bulk)?;
    debug_assert_eq!(outcomes.len(), bulk.len(), "one outcome per update");
    let ended = bulk.into_iter().zip(outcomes).map(|(update, outcome)| match outcome {
        CommitOutcome::Committed => {
            let is_removable = |file: &&Path| removable.is_some_and(|folder| is_below(file, folder));
            remove(update.superseded.iter().map(PathBuf::as_path).filter(is_removable));
            let (num_heatmaps, num_withdrawn) = (update.heatmaps.len(), update.withdrawn.len());
            Committed::Done { sample: update.sample, num_heatmaps, num_withdrawn }
        }
        // The new files belong to nothing.
        CommitOutcome::SampleGone => {
            remove(update.files());
            Committed::Skipped(Skip { sample: update.sample, reason: SkipReason::SampleGone })
        }
        // The files stay: made again from the same things they have the names that the sample refers to already.
        CommitOutcome::Refused(error) => Committed::Failed(SampleFailure { sample: update.sample, stage: Stage::Commit, error }),
    });
    Ok(ended.collect())
}

/// Whether a path from the database leads below the folder, by its words alone: with `..` in it, it might lead anywhere.
fn is_below(path: &Path, folder: &Path) -> bool {
    path.strip_prefix(folder).is_ok_and(|rest| rest.components().all(|part| matches!(part, Component::Normal(_))))
}

/// A file that cannot be removed costs space and nothing else.
fn remove<'a>(paths: impl Iterator<Item = &'a Path>) {
    for path in paths {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_below_the_folder_is_ours_to_remove() {
        let is_ours = |path: &str| is_below(Path::new(path), Path::new("/out"));
        assert!(is_ours("/out/field/56/id.png"));
        for path in
            ["/out/../home/thesis.npy", "/out/field/../../home/thesis.npy", "/outside/id.png", "field/id.png", "../out/x", ""]
        {
            assert!(!is_ours(path), "{path}");
        }
    }
}
