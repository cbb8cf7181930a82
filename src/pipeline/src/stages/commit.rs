//! Commit: one bulk update for the samples that are ready, then a note of the files that nothing refers to any more.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use super::{Context, StageLoop};
use crate::{
    error::RunError,
    message::{Committed, SampleFailure, SampleUpdate, Skip, SkipReason, Step, StoredHeatmap},
    seams::{CommitOutcome, Sink},
    stage::Stage,
    timing::Inlet,
};
use camflow_media::sync_names;
use camflow_storage::Journal;

/// Updates in one bulk write. With maps in the documents the sink cuts further, by size.
const MAX_UPDATES: usize = 128;

/// How long the first update of a bulk may wait for company: results go out as they are ready, and a run that is killed has
/// lost little.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Makes the updates of samples whose files are complete.
pub(crate) struct Commit<'a> {
    pub(crate) sink: &'a mut dyn Sink,
    /// Where the files are noted that are left over; `None` if nothing is written to disk.
    pub(crate) orphans: Option<&'a mut Journal>,
    pub(crate) input: Inlet<'a, SampleUpdate>,
}

impl StageLoop for Commit<'_> {
    const STAGE: Stage = Stage::Commit;

    fn run(mut self, context: Context<'_, '_>) {
        let Context { clock, ledger, .. } = context;
        while let Some(bulk) = self.next_bulk() {
            match clock.busy(|| self.commit(bulk)) {
                Ok(steps) => {
                    steps.into_iter().filter_map(|step| ledger.next(step)).for_each(|committed| ledger.committed(committed));
                    ledger.look_ahead();
                }
                Err(fault) => return ledger.abort(fault),
            }
        }
    }
}

impl Commit<'_> {
    /// Collects what is ready; `None` at the end of the stream.
    fn next_bulk(&self) -> Option<Vec<SampleUpdate>> {
        let mut bulk = vec![self.input.next()?];
        let deadline = Instant::now() + MAX_DELAY;
        while bulk.len() < MAX_UPDATES
            && let Some(update) = self.input.next_by(deadline)
        {
            bulk.push(update);
        }
        Some(bulk)
    }

    /// Makes the updates, and notes what they leave over; nothing is removed.
    fn commit(&mut self, bulk: Vec<SampleUpdate>) -> Result<Vec<Step<Committed>>, RunError> {
        // Once for many files: the names of all of them reach the disk together.
        sync_names(bulk.iter().flat_map(SampleUpdate::files)).map_err(|(path, source)| RunError::Output { path, source })?;
        let outcomes = self.sink.commit(&bulk)?;
        debug_assert_eq!(outcomes.len(), bulk.len(), "one outcome per update");
        Ok(bulk.into_iter().zip(outcomes).map(|(update, outcome)| self.ended(update, outcome)).collect())
    }

    fn ended(&mut self, update: SampleUpdate, outcome: CommitOutcome) -> Step<Committed> {
        let orphans = self.orphans.as_deref_mut();
        match (&outcome, orphans) {
            (CommitOutcome::Committed, Some(orphans)) => orphans.note(update.superseded.iter().map(PathBuf::as_path)),
            // The new files belong to nothing.
            (CommitOutcome::SampleGone | CommitOutcome::Abandoned(_), Some(orphans)) => orphans.note(update.files()),
            // Made again from the same things they have the names that the sample refers to already.
            (CommitOutcome::Refused(_), _) | (_, None) => {}
        }
        let withdrawn = update.existing.iter().filter(|old| update.withdrawn.contains(&old.field));
        let num_withdrawn = withdrawn.map(StoredHeatmap::num_heatmaps).sum();
        let (num_heatmaps, num_bytes) = (update.heatmaps.len(), update.num_new_bytes());
        let num_empty = update.heatmaps.iter().filter(|heatmap| heatmap.is_empty()).count();
        let (sample, has_predictions) = (update.sample, update.predictions.is_some());
        match outcome {
            CommitOutcome::Committed => {
                Step::Next(Committed { sample, num_heatmaps, num_empty, has_predictions, num_withdrawn, num_bytes })
            }
            CommitOutcome::SampleGone => Step::Skip(Skip { sample, reason: SkipReason::SampleGone }),
            CommitOutcome::Abandoned(error) | CommitOutcome::Refused(error) => {
                Step::Fail(SampleFailure { sample, stage: Self::STAGE, error })
            }
        }
    }
}
