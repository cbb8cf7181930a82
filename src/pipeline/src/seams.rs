//! The three seams to the outside world: where samples come from, what makes heatmaps of them, and where these go.

use crate::{
    error::RunError,
    message::{ClassPart, HeatmapBatch, InputBatch, SampleUpdate, SelectedSample},
};

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

    /// What either of two limits allows.
    pub fn or(self, other: BatchLimit) -> Self {
        BatchLimit { samples: self.samples.max(other.samples), pixels: self.pixels.max(other.pixels) }
    }

    /// How many samples of `height` x `width` make a full batch.
    pub fn of_shape(self, height: usize, width: usize) -> usize {
        self.samples.min(self.pixels / (height * width).max(1)).max(1)
    }
}

/// Computes heatmaps. One thread owns it; no tensor leaves it.
pub trait Explainer: Send {
    /// Takes a batch, and gives what is done: samples of this batch, or of those before, which a device may have computed while
    /// this one was brought to it. Every sample of all batches is in one result exactly once.
    ///
    /// # Errors
    /// Only what makes going on pointless; a fault of one sample is part of the result.
    fn explain(&mut self, batch: InputBatch) -> Result<HeatmapBatch, RunError>;

    /// The rest of what it has taken, which it waits for.
    ///
    /// # Errors
    /// As for [`Explainer::explain`].
    fn finish(&mut self) -> Result<HeatmapBatch, RunError> {
        Ok(HeatmapBatch::default())
    }

    /// The next part of what the last batch is not done with: a sample may have more heatmaps than are to be in memory at once. To be
    /// asked until there is none, before anything else is.
    ///
    /// # Errors
    /// As for [`Explainer::explain`].
    fn next_part(&mut self) -> Result<Option<HeatmapBatch>, RunError> {
        Ok(None)
    }

    /// A batch alone, when nothing else is taken, with samples as a whole.
    ///
    /// # Errors
    /// As for [`Explainer::explain`].
    fn explain_now(&mut self, batch: InputBatch) -> Result<HeatmapBatch, RunError> {
        let mut all = self.explain(batch)?;
        let mut add = |made: HeatmapBatch| {
            all.failed.extend(made.failed);
            for explained in made.explained {
                let seq = explained.envelope.sample.seq;
                match all.explained.iter_mut().find(|known| known.envelope.sample.seq == seq && explained.part.number > 0) {
                    Some(known) => known.classes.extend(explained.classes),
                    None => all.explained.push(explained),
                }
            }
        };
        while let Some(part) = self.next_part()? {
            add(part);
        }
        add(self.finish()?);
        let HeatmapBatch { explained, failed } = &mut all;
        explained.retain(|explained| failed.iter().all(|failure| failure.sample.seq != explained.envelope.sample.seq));
        explained.iter_mut().for_each(|explained| explained.part = ClassPart::WHOLE);
        Ok(all)
    }

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
