//! A sample of very many classes: the model sees it once, and its heatmaps are drawn part by part, so that no more of them are in memory
//! than are worked on.

use tch::Tensor;
use typed_index_collections::TiSlice;

use super::{
    ExplainError, TorchExplainer,
    drawing::pixels_of,
    grid::SampleIndex,
    launch::{Seen, failure},
    saliency::Saliencies,
    smoothing::PLAIN,
};
use camflow_pipeline::{ClassPart, DecodedSample, HeatmapBatch, RunError};

/// Pixels of heatmaps that are in memory at once: 80 MiB with their levels.
const AT_ONCE: usize = 1 << 24;

/// Classes that are always drawn at once: a device that is asked for part after part computes nothing ahead.
const FEW: usize = 64;

/// A sample that was seen, and of whose heatmaps some are still to be drawn.
pub(super) struct Unfinished {
    sample: DecodedSample,
    /// `[1, C, H, W]`, as the model takes it.
    input: Tensor,
    shape: (usize, usize),
    /// What is not drawn yet.
    found: Saliencies,
    /// How many classes a part has.
    at_once: usize,
    part: ClassPart,
}

impl TorchExplainer {
    /// How many classes of a sample, the only one of its batch, are drawn at once, if it has more than these.
    pub(super) fn classes_at_once(&self, samples: &[DecodedSample], shape: (usize, usize)) -> Option<usize> {
        let [sample] = samples else { return None };
        let pixels = pixels_of(sample, self.options.size, shape) * self.columns.len();
        let at_once = (AT_ONCE / pixels.max(1)).max(FEW);
        // Variants are drawn one after the other, and detections are told from each other when all are there.
        let is_plain = !self.options.aug_smooth && sample.targets.iter().all(|target| target.detection.is_none());
        (sample.targets.len() > at_once && is_plain).then_some(at_once)
    }

    /// Has the model see a sample of which so many classes are drawn at once. `None` where that fails: it is to be explained as any other,
    /// with all that is tried then.
    pub(super) fn see_for_parts(&self, samples: &[DecodedSample], shape: (usize, usize), at_once: usize) -> Option<Unfinished> {
        let sample = samples.first()?.clone();
        let Seen { input, found, .. } = self.see(samples, shape).ok()?;
        // Few of its classes may be there.
        let count = found.passes.len().div_ceil(at_once).max(1);
        Some(Unfinished { sample, input, shape, found, at_once, part: ClassPart { number: 0, count } })
    }

    /// The next part of the sample that is not finished, if there is one.
    pub(super) fn draw_part(&mut self) -> Result<Option<HeatmapBatch>, RunError> {
        let Some(mut unfinished) = self.unfinished.take() else { return Ok(None) };
        let mut result = HeatmapBatch::default();
        let Unfinished { sample, at_once, part, .. } = &unfinished;
        let (sample, part, at_once) = (sample.clone(), *part, *at_once);
        let found = unfinished.found.take_first(at_once);
        match self.part_of(&unfinished, found, &mut result) {
            Ok(()) => {
                for explained in &mut result.explained {
                    explained.part = part;
                }
                // Of a sample that has failed nothing else is wanted.
                if result.failed.is_empty() && part.number + 1 < part.count {
                    unfinished.part.number += 1;
                    self.unfinished = Some(unfinished);
                }
            }
            Err(error) => {
                if !error.is_out_of_memory() {
                    self.check_device(&error)?;
                }
                result.failed.push(failure(sample, error.text()));
            }
        }
        Ok(Some(result))
    }

    /// All parts of it, where nobody has asked for the next one.
    pub(super) fn rest_of_parts(&mut self) -> Result<HeatmapBatch, RunError> {
        let mut result = HeatmapBatch::default();
        while let Some(HeatmapBatch { explained, failed }) = self.draw_part()? {
            result.explained.extend(explained);
            result.failed.extend(failed);
        }
        Ok(result)
    }

    fn part_of(&self, unfinished: &Unfinished, found: Saliencies, result: &mut HeatmapBatch) -> Result<(), ExplainError> {
        let samples = std::slice::from_ref(&unfinished.sample);
        let of_batch: &TiSlice<SampleIndex, DecodedSample> = TiSlice::from_ref(samples);
        let maps = self.heatmaps(&found.passes, PLAIN, of_batch, unfinished.shape)?;
        let results = self.results(of_batch, &unfinished.input, found, &maps)?;
        drop(maps);
        for found in results.read(samples, self.columns.len())? {
            self.add(unfinished.sample.clone(), found, result);
        }
        Ok(())
    }
}
