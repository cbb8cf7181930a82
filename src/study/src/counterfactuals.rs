//! What confidences become in images with something replaced, series by series.

use super::{Example, attention::sign_test};
use camflow_measure::{Measure, MeasuredHeatmap, MeasuredSample, Measures, context_reliance};

/// Samples of a series that are kept: those where the model leans on context most.
const NUM_SAMPLES: usize = 3;

/// The mean confidences of the heatmaps of one series.
#[derive(Clone, Debug, Default)]
pub struct Confidences {
    /// How many say what the confidence is without the object and without its background.
    pub num_heatmaps: u64,
    /// How many of them also say what it is without the most attended region outside of the object.
    pub num_attended: u64,
    /// Those that lose more by the background than by the object.
    pub num_background: u64,
    /// Those that lose less by it.
    pub num_object: u64,
    sums: [f64; 3],
    /// Over those of `num_attended`: what is lost.
    sum_lost: f64,
    sum_attended: f64,
    /// The reliance on context of heatmaps, and which; the most first.
    most: Vec<(f64, Example)>,
}

/// What the sums are of.
const ALL_KNOW: [Measure; 3] = [Measure::Confidence, Measure::ConfidenceWithoutObject, Measure::ConfidenceWithoutBackground];

fn known(measures: &Measures) -> Option<[f64; 3]> {
    let [confidence, without_object, without_background] = ALL_KNOW.map(|measure| measures.get(measure));
    Some([confidence?, without_object?, without_background?])
}

impl Confidences {
    /// Whether a heatmap says them.
    pub(crate) fn are_known(measures: &Measures) -> bool {
        known(measures).is_some()
    }

    /// Adds what was measured of a heatmap.
    pub(crate) fn add(&mut self, sample: &MeasuredSample, heatmap: &MeasuredHeatmap) {
        let Some(values) = known(&heatmap.measures) else { return };
        self.num_heatmaps += 1;
        self.sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        let [confidence, without_object, without_background] = values;
        self.num_background += u64::from(without_background < without_object);
        self.num_object += u64::from(without_background > without_object);
        if let Some(attended) = heatmap.measures.get(Measure::ConfidenceWithoutAttended) {
            self.num_attended += 1;
            self.sum_attended += attended;
            self.sum_lost += confidence - attended;
        }
        let Some(reliance) = heatmap.measures.get(Measure::ContextReliance) else { return };
        let place = self.most.iter().position(|(other, _)| reliance > *other).unwrap_or(self.most.len());
        if place < NUM_SAMPLES {
            self.most.insert(place, (reliance, Example::of(sample, Some(heatmap))));
            self.most.truncate(NUM_SAMPLES);
        }
    }

    /// The mean confidences in the images as they are, without the object, and without the background.
    pub fn means(&self) -> [f64; 3] {
        self.sums.map(|sum| sum / self.num_heatmaps.max(1) as f64)
    }

    /// The mean confidence without the most attended region outside of the object, over the heatmaps that have one.
    pub fn mean_attended(&self) -> Option<f64> {
        (self.num_attended > 0).then(|| self.sum_attended / self.num_attended as f64)
    }

    /// What replacing that region costs in the mean, over the same.
    pub fn mean_lost(&self) -> Option<f64> {
        (self.num_attended > 0).then(|| self.sum_lost / self.num_attended as f64)
    }

    /// [`context_reliance`] of the mean confidences.
    pub fn reliance(&self) -> Option<f64> {
        let [confidence, without_object, without_background] = self.means();
        context_reliance(confidence, without_object, without_background)
    }

    /// How probable it is that so unequal numbers of heatmaps lose more by the one and by the other, if both were as likely.
    pub fn sign_test(&self) -> f64 {
        sign_test(self.num_background, self.num_object)
    }

    /// The samples where the model leans on context most, the most first.
    pub fn examples(&self) -> Vec<Example> {
        self.most.iter().map(|(_, example)| example.clone()).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tests::sample;

    /// A sample with one heatmap, of which the model was asked.
    pub(crate) fn asked(id: u32, [confidence, object, background, attended]: [f64; 4]) -> MeasuredSample {
        let mut sample = sample(id, &[], &[2.0]);
        let measures = sample.heatmaps[0].measures;
        sample.heatmaps[0].measures = measures
            .with(Measure::Confidence, confidence)
            .with(Measure::ConfidenceWithoutObject, object)
            .with(Measure::ConfidenceWithoutBackground, background)
            .with(Measure::ConfidenceWithoutAttended, attended)
            .with(Measure::ContextReliance, context_reliance(confidence, object, background));
        sample
    }

    #[test]
    fn means_are_of_those_who_know() {
        let mut study = crate::Study::new(1);
        study.observe(&asked(1, [0.9, 0.1, 0.7, 0.8]));
        study.observe(&asked(2, [0.7, 0.3, 0.1, 0.4]));
        study.observe(&sample(3, &[], &[2.0]));
        let mut unattended = asked(4, [0.8, 0.2, 0.4, 0.0]);
        unattended.heatmaps[0].measures = unattended.heatmaps[0].measures.with(Measure::ConfidenceWithoutAttended, None);
        study.observe(&unattended);
        let found = study.counterfactuals.values().next().expect("a series");
        let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        assert_eq!((found.num_heatmaps, found.num_attended, found.num_background, found.num_object), (3, 2, 1, 2));
        found.means().into_iter().zip([0.8, 0.2, 0.4]).for_each(|(found, wanted)| close(found, wanted));
        close(found.mean_attended().expect("known"), 0.6);
        close(found.mean_lost().expect("known"), 0.2);
        close(found.reliance().expect("known"), 0.4);
        let samples: Vec<String> = found.examples().into_iter().map(|example| example.sample).collect();
        assert_eq!(samples, [2, 4, 1].map(|id| format!("{id:024x}")));
    }
}
