//! A class of an image with its heatmaps by the model itself, beside those of changed runs.

use camflow_pipeline::{ClassHeatmaps, ClassTarget, DecodedSample, ExplainedSample, Heatmap};
use camflow_study::sanity::{Compared, Similarity};

/// What an explainer gives of a sample.
pub(super) struct Seen {
    pub(super) classes: Vec<ClassHeatmaps>,
    /// The class that a classifier puts first.
    pub(super) prediction: Option<i64>,
}

impl Seen {
    fn of(&self, class: &ClassTarget) -> Option<&ClassHeatmaps> {
        self.classes.iter().find(|found| found.class == class.class)
    }
}

/// A class of a sample, with its heatmaps by the model itself.
pub(super) struct Case {
    /// The sample with this target alone, which stays the same whatever the model decides.
    pub(super) fixed: DecodedSample,
    /// The same where the model of the changed image decides which of its predictions are meant.
    pub(super) decided: DecodedSample,
    pub(super) original: ClassHeatmaps,
    pub(super) prediction: Option<i64>,
}

impl Case {
    pub(super) fn size(&self) -> (usize, usize) {
        (self.fixed.height, self.fixed.width)
    }

    /// The heatmaps of the case in a changed run, or why there are none.
    pub(super) fn find<'a>(&self, seen: &'a Result<Seen, String>) -> Result<&'a ClassHeatmaps, String> {
        let seen = seen.as_ref().map_err(Clone::clone)?;
        let target = self.fixed.targets.first();
        target.and_then(|target| seen.of(target)).ok_or_else(|| "the model gives the class nowhere then".to_owned())
    }

    /// Whether the model's own answer is another one: a classifier's first class, or half of the confidence is lost.
    pub(super) fn is_moved(&self, seen: &Result<Seen, String>, confidence: Option<f64>) -> bool {
        let prediction = seen.as_ref().ok().and_then(|seen| seen.prediction);
        match (self.prediction, self.original.confidence, confidence) {
            (Some(before), ..) => prediction != Some(before),
            (None, Some(before), Some(after)) => after < before / 2.0,
            _ => false,
        }
    }

    /// By column the largest difference of any value.
    pub(super) fn differences(&self, seen: &Result<Seen, String>) -> Vec<f64> {
        let Ok(found) = self.find(seen) else { return Vec::new() };
        let largest = |one: &Heatmap, other: &Heatmap| {
            one.values.iter().zip(&other.values).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
        };
        self.original.heatmaps.iter().zip(&found.heatmaps).map(|(one, other)| largest(one, other)).collect()
    }

    /// By column the map of a changed run beside the original one.
    pub(super) fn compared(
        &self,
        seen: &Result<Seen, String>,
        may_move: bool,
        similarity: impl Fn(&[f32], &[f32]) -> Similarity,
    ) -> Vec<Compared> {
        let found = match self.find(seen) {
            Ok(found) => found,
            Err(reason) => {
                // A class that the model does not find any more is another answer.
                let is_moved = may_move && seen.is_ok();
                let missing = if is_moved { None } else { Some(reason) };
                return vec![Compared { missing, is_moved, ..Compared::default() }; self.original.heatmaps.len()];
            }
        };
        let is_moved = may_move && self.is_moved(seen, found.confidence);
        let maps = self.original.heatmaps.iter().zip(&found.heatmaps);
        maps.map(|(before, after)| Compared {
            similarity: similarity(&before.values, &after.values),
            is_constant: is_constant(&after.values),
            missing: None,
            confidence: found.confidence,
            is_moved,
        })
        .collect()
    }
}

pub(super) fn seen(explained: ExplainedSample) -> Seen {
    Seen { classes: explained.classes, prediction: explained.prediction.map(|prediction| prediction.channel) }
}

pub(super) fn is_constant(values: &[f32]) -> bool {
    values.iter().all(|value| Some(value) == values.first())
}
