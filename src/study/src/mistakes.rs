//! What a classifier gets wrong: the samples whose true class it does not put first, those that it is surest of first, and which
//! classes it takes for which.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Value, json};

use super::Example;
use camflow_measure::{MeasuredHeatmap, MeasuredSample, StoredPrediction};

/// From this confidence on a mistake is a confident one.
pub const CONFIDENT: f64 = 0.9;

/// What a model predicts for the samples with heatmaps whose true class a label says.
#[derive(Clone, Debug, Default)]
pub struct Mistakes {
    /// How many such samples there are.
    pub num_judged: u64,
    /// How many of them it puts another class first for.
    pub num_wrong: u64,
    /// How many of these with a confidence of [`CONFIDENT`] or more.
    pub num_confident: u64,
    /// By the true and the predicted class.
    pub pairs: BTreeMap<(String, String), Pair>,
    /// The ones with the highest confidence, that one first.
    pub most_confident: Vec<Mistake>,
}

/// One class that is taken for another.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    /// In how many samples.
    pub count: u64,
    sum: f64,
    num_known: u64,
    /// The samples with the highest confidence, that one first.
    pub samples: Vec<(f64, Example)>,
}

impl Pair {
    /// The mean confidence in the predicted class; `None` where no heatmap says it.
    pub fn mean_confidence(&self) -> Option<f64> {
        (self.num_known > 0).then(|| self.sum / self.num_known as f64)
    }
}

/// A sample that is misclassified.
#[derive(Clone, Debug, PartialEq)]
pub struct Mistake {
    /// Its id.
    pub sample: String,
    /// The image.
    pub media_path: PathBuf,
    /// What the label says.
    pub true_class: String,
    /// What the model puts first.
    pub predicted: String,
    /// Its probability of that.
    pub confidence: Option<f64>,
    /// The heatmap of the predicted class, if there is one.
    pub of_predicted: Option<MeasuredHeatmap>,
    /// That of the true class, of the same layer and method.
    pub of_true: Option<MeasuredHeatmap>,
    /// That of the difference of their scores, likewise.
    pub of_difference: Option<MeasuredHeatmap>,
}

impl Mistakes {
    /// Adds what a sample's heatmaps of one model say, and keeps so many of the most confident.
    pub(crate) fn add(&mut self, sample: &MeasuredSample, model: &str, prediction: &StoredPrediction, num_kept: usize) {
        let (Some(is_correct), Some(true_class)) = (prediction.is_correct, &prediction.true_class) else { return };
        self.num_judged += 1;
        if is_correct {
            return;
        }
        self.num_wrong += 1;
        self.num_confident += u64::from(prediction.confidence.is_some_and(|confidence| confidence >= CONFIDENT));
        let pair = self.pairs.entry((true_class.clone(), prediction.class.clone())).or_default();
        let rank = prediction.confidence.unwrap_or(0.0);
        pair.count += 1;
        if let Some(confidence) = prediction.confidence {
            pair.sum += confidence;
            pair.num_known += 1;
        }
        let goes_in = |count: usize, least: Option<f64>| count < num_kept || least.is_some_and(|least| least < rank);
        let is_of_pair = goes_in(pair.samples.len(), pair.samples.last().map(|(rank, _)| *rank));
        let is_of_all = goes_in(self.most_confident.len(), self.most_confident.last().map(|last| last.confidence.unwrap_or(0.0)));
        if is_of_pair || is_of_all {
            let mistake = Mistake::of(sample, model, prediction, true_class);
            insert(&mut pair.samples, (rank, Example::from(&mistake)), |(rank, _)| *rank, num_kept);
            insert(&mut self.most_confident, mistake, |mistake| mistake.confidence.unwrap_or(0.0), num_kept);
        }
    }

    /// Which class is taken for which, the most frequent first.
    pub fn confusions(&self) -> Vec<(&str, &str, &Pair)> {
        let mut all: Vec<_> = self.pairs.iter().map(|((truth, predicted), pair)| (&**truth, &**predicted, pair)).collect();
        all.sort_by_key(|(_, _, pair)| std::cmp::Reverse(pair.count));
        all
    }

    /// All of it for machines.
    pub(crate) fn json(&self, model: &str) -> Value {
        let pair = |(truth, predicted, pair): (&str, &str, &Pair)| {
            json!({
                "true_class": truth, "predicted_class": predicted, "count": pair.count,
                "mean_confidence": pair.mean_confidence(),
            })
        };
        let mistake = |mistake: &Mistake| {
            json!({
                "sample": mistake.sample, "filepath": mistake.media_path.to_string_lossy(),
                "true_class": mistake.true_class, "predicted_class": mistake.predicted, "confidence": mistake.confidence,
            })
        };
        json!({
            "model": model,
            "num_judged": self.num_judged,
            "num_wrong": self.num_wrong,
            "num_confident": self.num_confident,
            "confusions": self.confusions().into_iter().map(pair).collect::<Vec<_>>(),
            "most_confident": self.most_confident.iter().map(mistake).collect::<Vec<_>>(),
        })
    }
}

impl From<&Mistake> for Example {
    fn from(Mistake { sample, media_path, of_predicted, .. }: &Mistake) -> Self {
        Example { sample: sample.clone(), media_path: media_path.clone(), heatmap: of_predicted.clone() }
    }
}

impl Mistake {
    fn of(sample: &MeasuredSample, model: &str, prediction: &StoredPrediction, true_class: &str) -> Self {
        let of_class = |class: &str| -> Vec<&MeasuredHeatmap> {
            let is_meant = |heatmap: &&MeasuredHeatmap| heatmap.series.model == model && heatmap.series.class == class;
            sample.heatmaps.iter().filter(is_meant).collect()
        };
        let is_contrast = |heatmap: &&MeasuredHeatmap| heatmap.contrast.as_deref() == Some(true_class);
        let (contrasts, of_predicted): (Vec<_>, Vec<_>) = of_class(&prediction.class)
            .into_iter()
            .filter(|one| is_contrast(one) || one.contrast.is_none())
            .partition(is_contrast);
        let of_true: Vec<_> = of_class(true_class).into_iter().filter(|heatmap| heatmap.contrast.is_none()).collect();
        let beside = |one: &MeasuredHeatmap, others: &[&MeasuredHeatmap]| -> Option<MeasuredHeatmap> {
            let is_beside =
                |other: &&&MeasuredHeatmap| other.series.layer == one.series.layer && other.series.method == one.series.method;
            others.iter().find(is_beside).copied().cloned()
        };
        // The layers of a run are in order, and the last one is nearest to what decides: of those with both classes.
        let with_both = of_predicted.iter().rfind(|one| beside(one, &of_true).is_some());
        let chosen = with_both.or(of_predicted.last()).copied();
        let (of_true, of_difference) = match chosen {
            Some(chosen) => (beside(chosen, &of_true), beside(chosen, &contrasts)),
            None => (of_true.last().copied().cloned(), None),
        };
        Mistake {
            sample: sample.id.clone(),
            media_path: sample.media_path.clone(),
            true_class: true_class.to_owned(),
            predicted: prediction.class.clone(),
            confidence: prediction.confidence,
            of_predicted: chosen.cloned(),
            of_true,
            of_difference,
        }
    }
}

/// Puts it in its place, the highest first, and keeps so many.
pub(crate) fn insert<T>(ranked: &mut Vec<T>, new: T, rank: impl Fn(&T) -> f64, num_kept: usize) {
    let place = ranked.iter().position(|other| rank(&new) > rank(other)).unwrap_or(ranked.len());
    ranked.insert(place, new);
    ranked.truncate(num_kept);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Study, findings, json};
    use camflow_measure::{Measure, Measures, Series};

    /// A sample whose heatmaps say what was predicted, with one of the predicted class, one of the true one and their difference.
    pub(crate) fn judged(id: u32, true_class: &str, predicted: &str, confidence: f64) -> MeasuredSample {
        let heatmap = |(field, class, contrast): (&str, &str, Option<&str>)| MeasuredHeatmap {
            series: Series {
                field: format!("wrong_{field}_grad_layer_4"),
                class: class.into(),
                layer: "layer4".into(),
                method: "gradcam".into(),
                model: "net".into(),
            },
            measures: Measures::default().with(Measure::Entropy, 0.5),
            contrast: contrast.map(str::to_owned),
            prediction: Some(StoredPrediction {
                class: predicted.into(),
                confidence: Some(confidence),
                true_class: Some(true_class.into()),
                is_correct: Some(true_class == predicted),
            }),
            ..MeasuredHeatmap::default()
        };
        let of = [("difference", predicted, Some(true_class)), ("predicted", predicted, None), ("true", true_class, None)];
        MeasuredSample { id: format!("{id:024x}"), heatmaps: of.map(heatmap).to_vec(), ..MeasuredSample::default() }
    }

    fn study() -> Study {
        let mut study = Study::new(3);
        for (id, truth, predicted, confidence) in [
            (1, "dog", "cat", 0.6),
            (2, "dog", "cat", 0.99),
            (3, "cat", "cat", 0.9),
            (4, "cat", "dog", 0.95),
            (5, "dog", "cat", 0.7),
            (6, "dog", "cat", 0.8),
            (7, "dog", "cat", 0.91),
        ] {
            study.observe(&judged(id, truth, predicted, confidence));
        }
        study
    }

    #[test]
    fn mistakes_are_counted_once_a_sample_and_ranked_by_confidence() {
        let study = study();
        let mistakes = &study.mistakes["net"];
        assert_eq!((mistakes.num_judged, mistakes.num_wrong, mistakes.num_confident), (7, 6, 3));
        let ranked: Vec<_> = mistakes.most_confident.iter().map(|mistake| mistake.confidence).collect();
        assert_eq!(ranked, [Some(0.99), Some(0.95), Some(0.91)]);
        let first = &mistakes.most_confident[0];
        let field = |heatmap: &Option<MeasuredHeatmap>| heatmap.as_ref().expect("there").series.field.clone();
        assert_eq!(
            [field(&first.of_predicted), field(&first.of_true), field(&first.of_difference)],
            ["predicted", "true", "difference"].map(|what| format!("wrong_{what}_grad_layer_4"))
        );
        let confusions: Vec<_> = mistakes.confusions().into_iter().map(|(t, p, pair)| (t, p, pair.count)).collect();
        assert_eq!(confusions, [("dog", "cat", 5), ("cat", "dog", 1)]);
        assert!((mistakes.confusions()[0].2.mean_confidence().expect("known") - 0.8).abs() < 1e-12);
    }

    #[test]
    fn errors_are_said_first_and_nothing_of_too_few() {
        let said = findings(&study(), None);
        assert_eq!([said[0].kind, said[1].kind], ["wrong", "confused"], "{said:?}");
        assert!(said[0].text.contains("6 of 7 samples") && said[0].text.contains("3 of them"), "{}", said[0].text);
        assert_eq!(said[0].examples[0].sample, format!("{:024x}", 2));
        assert_eq!(said[0].examples[0].heatmap.as_ref().expect("there").series.field, "wrong_predicted_grad_layer_4");
        assert!(said[1].text.contains("`dog` is taken for `cat` in 5 samples"), "{}", said[1].text);
        assert!(said.iter().all(|finding| !finding.text.contains("`cat` is taken")), "one sample says nothing");
        let mut all_wrong = Study::new(3);
        (0..6).for_each(|id| all_wrong.observe(&judged(id, "dog", "cat", 0.5)));
        let text = &findings(&all_wrong, None)[0].text;
        assert!(text.contains("for 6 samples with heatmaps, none of them") && !text.contains("of 6"), "{text}");
        let mut few = Study::new(3);
        (0..4).for_each(|id| few.observe(&judged(id, "dog", "cat", 0.99)));
        assert!(findings(&few, None).iter().all(|finding| !["wrong", "confused"].contains(&finding.kind)));
        assert_eq!(few.mistakes["net"].num_wrong, 4, "the table has them all the same");
    }

    #[test]
    fn machines_get_all_of_it() {
        let report = json(&study(), &[], "street", "Monday");
        let mistakes = &report["mistakes"][0];
        assert_eq!((&mistakes["num_wrong"], &mistakes["model"]), (&json!(6), &json!("net")));
        assert_eq!(mistakes["confusions"][0]["count"], 5);
        assert_eq!(mistakes["most_confident"][0]["confidence"], 0.99);
    }
}
