//! Which samples a model most likely decides by something beside the object: errors, confidence, counterfactuals and attention joined in
//! one score, without any label that says what the model goes by.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Example, attention::is_own, findings::ENOUGH, mistakes::insert};
use camflow_measure::{Measure, MeasuredHeatmap, MeasuredSample};

/// How much each part counts in the mean: [`Parts::surroundings`], [`Parts::context_reliance`], [`Parts::uncertainty`],
/// [`Parts::off_object`].
const WEIGHTS: [f64; 4] = [2.0, 1.0, 1.0, 1.0];
/// What is left of the scores of a model to which surroundings tell nothing, so that its samples still have an order.
const LEAST_FACTOR: f64 = 0.1;
/// Samples of the ranking that are kept, and of the mistakes in each class.
const NUM_KEPT: usize = 50;
/// From this score on a sample that is wrong is worth a sentence.
pub const SUSPICIOUS: f64 = 0.25;

/// What is known of a heatmap that a shortcut would show in; each is `None` where it was not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Parts {
    /// Whether the model puts another class first than that of the label.
    pub is_wrong: Option<bool>,
    /// The confidence in the class without the object, in `[0, 1]`: what the surroundings alone say for it.
    pub surroundings: Option<f64>,
    /// What is lost with the background by what is lost with the object and with the background, in `[0, 1]`; of a sample that is right.
    pub context_reliance: Option<f64>,
    /// 1 minus the confidence in what is predicted, in `[0, 1]`.
    pub uncertainty: Option<f64>,
    /// `1 / (1 + energy_ratio)`, in `[0, 1]`: 0.5 is attention by chance, and above that the object has less.
    pub off_object: Option<f64>,
}

/// The samples of one model, ranked.
#[derive(Clone, Debug, Default)]
pub struct Shortcuts {
    /// How many heatmaps were ranked, one for each sample and class.
    pub num_ranked: u64,
    /// How many of them know each of: whether they are wrong, surroundings, uncertainty, off object.
    pub num_with: [u64; 4],
    classes: BTreeMap<String, OfClass>,
    /// Those that are right, by their scores.
    right: Vec<Candidate>,
}

#[derive(Clone, Debug, Default)]
struct OfClass {
    /// The confidences without the object over those that are right.
    sum: f64,
    count: u64,
    /// Those that are wrong, by which parts are known and then by their scores if the surroundings said nothing for the class elsewhere.
    /// What they do say there adds the same to all of a class that know the same parts, and leaves their order as it is.
    wrong: BTreeMap<[bool; 3], Vec<Candidate>>,
}

#[derive(Clone, Debug)]
struct Candidate {
    rank: f64,
    parts: Parts,
    class: String,
    example: Example,
}

/// A sample in the ranking.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspect {
    /// Its shortcut score, in `[0, 1]`.
    pub score: f64,
    /// What it is made of.
    pub parts: Parts,
    /// The class that the label says, or that was explained.
    pub class: String,
    /// The sample with the heatmap.
    pub example: Example,
}

impl Parts {
    /// Of a heatmap.
    pub(crate) fn of(heatmap: &MeasuredHeatmap) -> Self {
        let measure = |measure| heatmap.measures.get(measure).filter(|value| value.is_finite());
        let prediction = heatmap.prediction.as_ref();
        let is_other = |class: &String| class != &heatmap.series.class && !is_own(Some(class), &heatmap.series);
        let confidence = prediction.and_then(|prediction| prediction.confidence).or_else(|| measure(Measure::Confidence));
        let is_wrong = prediction.map(|found| found.is_correct.map_or_else(|| is_other(&found.class), |is_correct| !is_correct));
        // Of a class that the model does not see, there is nothing to lose.
        let context_reliance = measure(Measure::ContextReliance).filter(|_| is_wrong != Some(true));
        Parts {
            is_wrong,
            context_reliance,
            surroundings: measure(Measure::ConfidenceWithoutObject),
            uncertainty: confidence.map(|confidence| (1.0 - confidence).clamp(0.0, 1.0)),
            off_object: measure(Measure::EnergyRatio).map(|ratio| 1.0 / (1.0 + ratio.max(0.0))),
        }
    }

    /// Whether something says what the model goes by; errors and confidence alone say nothing of that.
    pub(crate) fn can_be_ranked(&self) -> bool {
        self.surroundings.is_some() || self.off_object.is_some()
    }

    /// The shortcut score but for the model's factor, where the surroundings say so much for the class in samples that are right.
    ///
    /// Of a sample that is right, what the surroundings say for its class speaks for a shortcut. Of one that is wrong, that they do not say
    /// it although they do elsewhere.
    fn score(&self, elsewhere: Option<f64>) -> f64 {
        let weight = if self.is_wrong == Some(true) { 1.0 } else { 0.5 };
        weight * self.mean(elsewhere.unwrap_or(0.0)).clamp(0.0, 1.0)
    }

    fn mean(&self, elsewhere: f64) -> f64 {
        let is_wrong = self.is_wrong == Some(true);
        let surroundings = self.surroundings.map(|found| if is_wrong { elsewhere - found } else { found });
        let known = [surroundings, self.context_reliance, self.uncertainty, self.off_object].into_iter().zip(WEIGHTS);
        let (sum, weights) = known
            .filter_map(|(part, weight)| Some((part?, weight)))
            .fold((0.0, 0.0), |(sum, weights), (part, weight)| (sum + weight * part, weights + weight));
        if weights > 0.0 { sum / weights } else { 0.0 }
    }

    fn json(&self) -> Value {
        json!({
            "wrong": self.is_wrong, "confidence_without_object": self.surroundings, "context_reliance": self.context_reliance,
            "uncertainty": self.uncertainty, "off_object": self.off_object,
        })
    }
}

/// Of a sample's heatmaps those that say what a model goes by: for each model and class that of the layer nearest to what decides, of the
/// true class alone where there is one of it.
pub(crate) fn deciding(sample: &MeasuredSample) -> Vec<&MeasuredHeatmap> {
    let of_image = |heatmap: &&MeasuredHeatmap| heatmap.detection.is_none() && heatmap.contrast.is_none();
    let is_of_true = |heatmap: &MeasuredHeatmap| {
        heatmap.prediction.as_ref().and_then(|prediction| prediction.true_class.as_ref()) == Some(&heatmap.series.class)
    };
    let judged: BTreeSet<&str> = sample
        .heatmaps
        .iter()
        .filter(|heatmap| of_image(heatmap) && is_of_true(heatmap))
        .map(|heatmap| &*heatmap.series.model)
        .collect();
    let mut seen = BTreeSet::new();
    // The layers of a run are in order.
    let mut found: Vec<&MeasuredHeatmap> = sample.heatmaps.iter().rev().filter(of_image).collect();
    found.retain(|heatmap| is_of_true(heatmap) || !judged.contains(&*heatmap.series.model));
    // What says most of a class goes first.
    found.sort_by_key(|heatmap| {
        (heatmap.measures.get(Measure::ConfidenceWithoutObject).is_none(), heatmap.measures.get(Measure::EnergyRatio).is_none())
    });
    found.retain(|heatmap| seen.insert((&heatmap.series.model, &heatmap.series.class)));
    found
}

impl Shortcuts {
    /// Adds one of [`deciding`].
    pub(crate) fn add(&mut self, sample: &MeasuredSample, heatmap: &MeasuredHeatmap) {
        let parts = Parts::of(heatmap);
        if !parts.can_be_ranked() {
            return;
        }
        self.num_ranked += 1;
        let Parts { is_wrong, surroundings, uncertainty, off_object, .. } = parts;
        let is_known = [is_wrong.is_some(), surroundings.is_some(), uncertainty.is_some(), off_object.is_some()];
        self.num_with.iter_mut().zip(is_known).for_each(|(num, is_known)| *num += u64::from(is_known));
        let of_class = self.classes.entry(heatmap.series.class.clone()).or_default();
        let (kept, rank) = if is_wrong == Some(true) {
            let known = [surroundings, uncertainty, off_object].map(|part| part.is_some());
            (of_class.wrong.entry(known).or_default(), parts.mean(0.0))
        } else {
            if let Some(surroundings) = surroundings {
                of_class.sum += surroundings;
                of_class.count += 1;
            }
            (&mut self.right, parts.score(None))
        };
        if kept.len() < NUM_KEPT || kept.last().is_some_and(|last| rank > last.rank) {
            let example = Example::of(sample, Some(heatmap));
            let candidate = Candidate { rank, parts, class: heatmap.series.class.clone(), example };
            insert(kept, candidate, |candidate| candidate.rank, NUM_KEPT);
        }
    }

    /// What the surroundings alone say for a class in the mean, over samples that are right: its confidence without the object.
    pub fn elsewhere(&self, class: &str) -> Option<f64> {
        self.classes.get(class).filter(|of| of.count > 0).map(|of| of.sum / of.count as f64)
    }

    /// How much the surroundings alone tell the classes apart, in `[0, 1]`: `(sum_k m_k - 1) / (K - 1)`, where `m_k` is what they say
    /// for class `k` in the mean where it is right. Where they say the same whatever the class, the `m_k` add up to 1 at most, also
    /// if that is one class always; where they give each class away, to `K`. `None` where fewer than two classes say it.
    pub fn surroundings_tell(&self) -> Option<f64> {
        let (mean, count) = self.mean_elsewhere().filter(|(_, count)| *count > 1)?;
        Some(((mean * count as f64 - 1.0) / (count - 1) as f64).clamp(0.0, 1.0))
    }

    /// The same means in one: what the surroundings alone say for the right class, and how many classes say it.
    pub(crate) fn mean_elsewhere(&self) -> Option<(f64, usize)> {
        let means: Vec<f64> = self.classes.values().filter(|of| of.count >= ENOUGH).map(|of| of.sum / of.count as f64).collect();
        (!means.is_empty()).then(|| (means.iter().sum::<f64>() / means.len() as f64, means.len()))
    }

    /// The shortcut score of a heatmap with these parts, in `[0, 1]`.
    pub(crate) fn score(&self, parts: &Parts, class: &str) -> f64 {
        let factor = self.surroundings_tell().map_or(1.0, |tell| LEAST_FACTOR + (1.0 - LEAST_FACTOR) * tell);
        factor * parts.score(self.elsewhere(class))
    }

    /// The samples most likely decided by something beside the object, the most likely first.
    pub fn suspects(&self) -> Vec<Suspect> {
        let candidates = self.right.iter().chain(self.classes.values().flat_map(|of| of.wrong.values().flatten()));
        let mut found: Vec<Suspect> = candidates
            .map(|Candidate { parts, class, example, .. }| Suspect {
                score: self.score(parts, class),
                parts: *parts,
                class: class.clone(),
                example: example.clone(),
            })
            .collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.example.sample.cmp(&b.example.sample)));
        found.truncate(NUM_KEPT);
        found
    }

    /// What of the score is missing in all samples or in some, in words; `None` where nothing is.
    pub fn lacks(&self) -> Option<String> {
        let names = [
            ("whether the prediction is right", "heatmaps of a classifier say it"),
            ("the confidence without the object", "`--counterfactuals` measures it"),
            ("the model's confidence", "heatmaps of this camflow have it"),
            ("attention on the object", "it takes labels that say where objects are, and heatmaps that are not zero"),
        ];
        let lacking = names.into_iter().zip(self.num_with).filter(|(_, num)| *num < self.num_ranked);
        let texts: Vec<String> = lacking
            .map(|((name, hint), num)| match num {
                0 => format!("{name} ({hint})"),
                num => format!("{name} in {} of {} ({hint})", self.num_ranked - num, self.num_ranked),
            })
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// All of it for machines.
    pub(crate) fn json(&self, model: &str) -> Value {
        let one = |suspect: &Suspect| {
            let mut told = suspect.parts.json();
            told["sample"] = json!(suspect.example.sample);
            told["filepath"] = json!(suspect.example.media_path.to_string_lossy());
            told["class"] = json!(suspect.class);
            told["shortcut_score"] = json!(suspect.score);
            told
        };
        let [wrong, surroundings, uncertainty, off_object] = self.num_with;
        let elsewhere: serde_json::Map<String, Value> =
            self.classes.keys().filter_map(|class| Some((class.clone(), json!(self.elsewhere(class)?)))).collect();
        json!({
            "model": model,
            "num_ranked": self.num_ranked,
            "num_with": {
                "wrong": wrong, "confidence_without_object": surroundings, "uncertainty": uncertainty, "off_object": off_object,
            },
            "mean_confidence_without_object": elsewhere,
            "surroundings_tell": self.surroundings_tell(),
            "samples": self.suspects().iter().map(one).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Study, tests::sample};
    use camflow_measure::StoredPrediction;

    /// A sample with one heatmap of class `person`, of which the model was asked.
    pub(crate) fn asked(id: u32, predicted: &str, confidence: f64, without_object: f64, ratio: f64) -> MeasuredSample {
        let mut sample = sample(id, &[], &[ratio]);
        let heatmap = &mut sample.heatmaps[0];
        heatmap.measures = heatmap.measures.with(Measure::ConfidenceWithoutObject, without_object);
        heatmap.prediction =
            Some(StoredPrediction { class: predicted.into(), confidence: Some(confidence), true_class: None, is_correct: None });
        sample
    }

    fn study(samples: &[MeasuredSample]) -> Study {
        let mut study = Study::new(3);
        samples.iter().for_each(|sample| study.observe(sample));
        study
    }

    fn ids(shortcuts: &Shortcuts) -> Vec<u64> {
        let number = |suspect: Suspect| u64::from_str_radix(&suspect.example.sample, 16).expect("a number");
        shortcuts.suspects().into_iter().map(number).collect()
    }

    #[test]
    fn the_score_is_what_its_definition_says() {
        let mut relying = asked(2, "person", 1.0, 0.6, 3.0);
        relying.heatmaps[0].measures = relying.heatmaps[0].measures.with(Measure::ContextReliance, 0.75);
        let study =
            study(&[asked(1, "person", 0.9, 0.8, 1.0), relying, asked(3, "dog", 0.8, 0.1, 1.0), asked(4, "dog", 0.8, 0.9, 1.0)]);
        let found = &study.shortcuts["net"];
        assert_eq!((found.elsewhere("person"), found.surroundings_tell()), (Some(0.7), None));
        let wanted = [
            (1, 0.5 * (2.0 * 0.8 + 0.1 + 0.5) / 4.0),
            (3, (2.0 * (0.7 - 0.1) + 0.2 + 0.5) / 4.0),
            (2, 0.5 * (2.0 * 0.6 + 0.75 + 0.0 + 0.25) / 5.0),
            // Its surroundings speak for the class: it is wrong all the same.
            (4, (2.0 * (0.7 - 0.9) + 0.2 + 0.5) / 4.0),
        ];
        let suspects = found.suspects();
        assert!(suspects.is_sorted_by(|a, b| a.score >= b.score));
        for (id, score) in wanted {
            let suspect = suspects.iter().find(|one| one.example.sample == format!("{id:024x}")).expect("ranked");
            assert!((suspect.score - score).abs() < 1e-12, "{suspect:?} {score}");
        }
        assert_eq!(ids(found), [3, 1, 2, 4]);
        assert_eq!(found.lacks(), None);
    }

    #[test]
    fn scores_shrink_where_surroundings_do_not_tell_classes_apart() {
        let tell = |without_object: [f64; 2]| {
            let of = |class: &str, id: u32, without_object: f64| {
                let mut sample = asked(id, class, 0.9, without_object, 1.0);
                sample.heatmaps[0].series.class = class.to_owned();
                sample
            };
            let samples: Vec<MeasuredSample> =
                (0..6).flat_map(|id| [of("cat", 2 * id, without_object[0]), of("dog", 2 * id + 1, without_object[1])]).collect();
            let study = study(&samples);
            (study.shortcuts["net"].surroundings_tell(), study.shortcuts["net"].suspects()[0].score)
        };
        let close = |(tell, score): (Option<f64>, f64), wanted: (f64, f64)| {
            assert!(
                (tell.expect("known") - wanted.0).abs() < 1e-12 && (score - wanted.1).abs() < 1e-12,
                "{tell:?} {score} {wanted:?}"
            );
        };
        // Without objects all is taken for a cat.
        close(tell([1.0, 0.0]), (0.0, 0.1 * 0.5 * (2.0 + 0.1 + 0.5) / 4.0));
        close(tell([1.0, 1.0]), (1.0, 0.5 * (2.0 + 0.1 + 0.5) / 4.0));
        close(tell([0.8, 0.6]), (0.4, 0.46 * 0.5 * (1.6 + 0.1 + 0.5) / 4.0));
    }

    #[test]
    fn it_does_with_what_there_is_and_says_what_is_missing() {
        let bare = study(&[sample(1, &[], &[0.25]), sample(2, &[], &[4.0])]);
        let found = &bare.shortcuts["net"];
        assert_eq!(ids(found), [1, 2]);
        assert!((found.suspects()[0].score - 0.5 * 0.8).abs() < 1e-12, "of the ratio alone");
        let lacks = found.lacks().expect("nearly all");
        assert!(lacks.contains("the confidence without the object (`--counterfactuals` measures it)"), "{lacks}");
        let mut unmeasured = sample(3, &[], &[1.0]);
        unmeasured.heatmaps[0].measures = unmeasured.heatmaps[0].measures.with(Measure::EnergyRatio, None);
        assert!(study(&[unmeasured]).shortcuts.is_empty(), "nothing says what the model goes by");
    }

    #[test]
    fn ties_and_many_samples_are_ranked_in_bounded_memory() {
        let many: Vec<MeasuredSample> = (0..500).map(|id| asked(id, "person", 0.9, f64::from(id) / 1000.0, 1.0)).collect();
        let found = study(&many);
        assert_eq!(ids(&found.shortcuts["net"]), (450..500).rev().collect::<Vec<u64>>());
        assert_eq!(found.shortcuts["net"].right.len(), NUM_KEPT);
        assert_eq!(found.shortcuts["net"].num_ranked, 500);
    }

    #[test]
    fn of_several_layers_the_one_that_says_most_counts_and_once() {
        let mut both = asked(1, "person", 0.9, 0.8, 1.0);
        let mut later = both.heatmaps[0].clone();
        later.series.layer = "layer9".into();
        later.measures = later.measures.with(Measure::ConfidenceWithoutObject, None);
        both.heatmaps.push(later);
        assert_eq!(deciding(&both).iter().map(|heatmap| &*heatmap.series.layer).collect::<Vec<_>>(), ["layer0"]);
        assert_eq!(study(&[both]).shortcuts["net"].num_ranked, 1);
    }
}
