//! What an evaluation found of a detector's detections: the false positives, those that it is surest of first, and the objects that it
//! misses.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde_json::{Value, json};

use super::{
    Example,
    mistakes::{CONFIDENT, insert},
};
use camflow_measure::{Measure, MeasuredHeatmap, MeasuredSample, StoredDetection};

/// What was found of the detections of one model that have heatmaps, each counted once, however many heatmaps it has.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    /// Detections that are objects.
    pub true_positives: Tally,
    /// Detections that are none, by the class that the model takes them for.
    pub false_positives: BTreeMap<String, Tally>,
    /// How many of these it is sure of with [`CONFIDENT`] or more.
    pub num_confident: u64,
    /// Labelled objects that it detects.
    pub detected: Tally,
    /// Labelled objects that it does not, by class.
    pub missed: BTreeMap<String, Tally>,
    /// The false positives with the highest confidence, that one first.
    pub most_confident: Vec<EvaluatedDetection>,
    /// The missed objects whose predictions have the highest confidence, likewise.
    pub nearly_detected: Vec<EvaluatedDetection>,
}

/// Some detections together.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many there are.
    pub count: u64,
    confidence: Mean,
    inside: Mean,
    /// The samples with the highest confidence, that one first.
    pub samples: Vec<(f64, Example)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

/// A detection with what was found of it.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluatedDetection {
    /// The sample's id.
    pub sample: String,
    /// The image.
    pub media_path: PathBuf,
    /// The detection.
    pub detection: StoredDetection,
    /// The model's probability of its class.
    pub confidence: Option<f64>,
    /// Its heatmap, of the layer nearest to what decides.
    pub heatmap: MeasuredHeatmap,
}

impl From<&EvaluatedDetection> for Example {
    fn from(EvaluatedDetection { sample, media_path, heatmap, .. }: &EvaluatedDetection) -> Self {
        Example { sample: sample.clone(), media_path: media_path.clone(), heatmap: Some(heatmap.clone()) }
    }
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum += value;
            self.count += 1;
        }
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

impl Tally {
    fn add(&mut self, sample: &MeasuredSample, heatmap: &MeasuredHeatmap, num_kept: usize) {
        let confidence = heatmap.measures.get(Measure::Confidence);
        self.count += 1;
        self.confidence.add(confidence);
        self.inside.add(heatmap.measures.get(Measure::EnergyInside));
        insert(&mut self.samples, (confidence.unwrap_or(0.0), Example::of(sample, Some(heatmap))), |(rank, _)| *rank, num_kept);
    }

    /// Of the model in their classes; `None` where no heatmap says it.
    pub fn mean_confidence(&self) -> Option<f64> {
        self.confidence.get()
    }

    /// Of the share of each heatmap that lies inside of its object; likewise.
    pub fn mean_inside(&self) -> Option<f64> {
        self.inside.get()
    }

    fn json(&self) -> Value {
        json!({"count": self.count, "mean_confidence": self.mean_confidence(), "mean_energy_inside": self.mean_inside()})
    }
}

/// The sum of several; without samples.
pub(crate) fn all(tallies: &BTreeMap<String, Tally>) -> Tally {
    let join = |one: Mean, other: Mean| Mean { sum: one.sum + other.sum, count: one.count + other.count };
    tallies.values().fold(Tally::default(), |all, one| Tally {
        count: all.count + one.count,
        confidence: join(all.confidence, one.confidence),
        inside: join(all.inside, one.inside),
        samples: Vec::new(),
    })
}

/// By class, the most frequent first.
pub(crate) fn frequent(tallies: &BTreeMap<String, Tally>) -> Vec<(&str, &Tally)> {
    let mut all: Vec<_> = tallies.iter().map(|(class, tally)| (&**class, tally)).collect();
    all.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.count));
    all
}

impl Outcomes {
    /// Adds what was found of a sample's detections, by model, and keeps so many of the first ones.
    pub(crate) fn observe(all: &mut BTreeMap<String, Outcomes>, sample: &MeasuredSample, num_kept: usize) {
        let mut seen = BTreeSet::new();
        // The layers of a run are in order, and the last one is nearest to what decides.
        for heatmap in sample.heatmaps.iter().rev() {
            let Some(detection) = &heatmap.detection else { continue };
            let Some(outcome) = detection.outcome.as_deref().filter(|_| seen.insert((&heatmap.series.model, &detection.id)))
            else {
                continue;
            };
            all.entry(heatmap.series.model.clone()).or_default().add(sample, heatmap, detection, outcome, num_kept);
        }
    }

    fn add(
        &mut self,
        sample: &MeasuredSample,
        heatmap: &MeasuredHeatmap,
        detection: &StoredDetection,
        outcome: &str,
        num_kept: usize,
    ) {
        let (id, class) = (&sample.id, heatmap.series.class.clone());
        let confidence = heatmap.measures.get(Measure::Confidence);
        let kept = || EvaluatedDetection {
            sample: id.clone(),
            media_path: sample.media_path.clone(),
            detection: detection.clone(),
            confidence,
            heatmap: heatmap.clone(),
        };
        let rank = |one: &EvaluatedDetection| one.confidence.unwrap_or(0.0);
        match outcome {
            // What has a confidence of its own was detected by a model, else people labelled it.
            "tp" if detection.rank.is_some() => self.true_positives.add(sample, heatmap, num_kept),
            "tp" => self.detected.add(sample, heatmap, num_kept),
            "fp" => {
                self.false_positives.entry(class).or_default().add(sample, heatmap, num_kept);
                self.num_confident += u64::from(confidence.is_some_and(|confidence| confidence >= CONFIDENT));
                insert(&mut self.most_confident, kept(), rank, num_kept);
            }
            "fn" => {
                self.missed.entry(class).or_default().add(sample, heatmap, num_kept);
                insert(&mut self.nearly_detected, kept(), rank, num_kept);
            }
            _ => {}
        }
    }

    /// Detections that are none.
    pub fn num_false(&self) -> u64 {
        all(&self.false_positives).count
    }

    /// Objects that are missed.
    pub fn num_missed(&self) -> u64 {
        all(&self.missed).count
    }

    /// All of it for machines.
    pub(crate) fn json(&self, model: &str) -> Value {
        let of_class = |(class, tally): (&str, &Tally)| {
            let mut told = tally.json();
            told["class"] = json!(class);
            told
        };
        let classes = |tallies| frequent(tallies).into_iter().map(of_class).collect::<Vec<_>>();
        let one = |one: &EvaluatedDetection| {
            json!({
                "sample": one.sample, "filepath": one.media_path.to_string_lossy(), "detection": one.detection.id,
                "class": one.heatmap.series.class, "confidence": one.confidence, "rank": one.detection.rank,
                "energy_inside": one.heatmap.measures.get(Measure::EnergyInside), "outcome_iou": one.detection.outcome_iou,
            })
        };
        json!({
            "model": model,
            "true_positives": self.true_positives.json(),
            "num_false_positives": self.num_false(),
            "num_confident": self.num_confident,
            "false_positives": classes(&self.false_positives),
            "most_confident": self.most_confident.iter().map(one).collect::<Vec<_>>(),
            "detected": self.detected.json(),
            "num_missed": self.num_missed(),
            "missed": classes(&self.missed),
            "nearly_detected": self.nearly_detected.iter().map(one).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Study, csv_rows, findings, json};
    use camflow_measure::{Measures, Series};

    /// A sample with one detection, which has a heatmap at each of two layers; one of the model has a rank.
    pub(crate) fn evaluated(id: u32, class: &str, outcome: &str, confidence: f64, is_predicted: bool) -> MeasuredSample {
        let detection = StoredDetection {
            id: format!("d{id}"),
            bounds: Some([0.25, 0.25, 0.5, 0.5]),
            rank: is_predicted.then_some(1),
            outcome: Some(outcome.into()),
            outcome_iou: (outcome == "tp").then_some(0.75),
        };
        let heatmap = |layer: u32| MeasuredHeatmap {
            series: Series {
                field: format!("layer_{layer}_detections"),
                class: class.into(),
                layer: format!("layer{layer}"),
                method: "layercam".into(),
                model: "net".into(),
            },
            measures: Measures::default()
                .with(Measure::Entropy, 0.5)
                .with(Measure::Confidence, confidence)
                .with(Measure::EnergyInside, 0.25 * f64::from(layer)),
            detection: Some(detection.clone()),
            ..MeasuredHeatmap::default()
        };
        MeasuredSample { id: format!("{id:024x}"), heatmaps: vec![heatmap(1), heatmap(2)], ..MeasuredSample::default() }
    }

    fn study() -> Study {
        let mut study = Study::new(3);
        let predicted = [("dog", "fp", 0.6), ("dog", "fp", 0.99), ("cat", "fp", 0.95), ("dog", "fp", 0.7), ("dog", "fp", 0.8)];
        for (id, (class, outcome, confidence)) in (0..).zip(predicted) {
            study.observe(&evaluated(id, class, outcome, confidence, true));
        }
        study.observe(&evaluated(5, "dog", "fp", 0.5, true));
        (10..14).for_each(|id| study.observe(&evaluated(id, "dog", "tp", 0.9, true)));
        (20..22).for_each(|id| study.observe(&evaluated(id, "dog", "tp", 0.9, false)));
        (30..36).for_each(|id| study.observe(&evaluated(id, "cat", "fn", f64::from(id) / 100.0, false)));
        study
    }

    #[test]
    fn detections_are_counted_once_and_ranked_by_confidence() {
        let study = study();
        let found = &study.outcomes["net"];
        assert_eq!((found.true_positives.count, found.num_false(), found.detected.count, found.num_missed()), (4, 6, 2, 6));
        assert_eq!(found.num_confident, 2);
        let confidences = |kept: &[EvaluatedDetection]| kept.iter().map(|one| one.confidence.expect("known")).collect::<Vec<_>>();
        assert_eq!(confidences(&found.most_confident), [0.99, 0.95, 0.8]);
        assert_eq!(confidences(&found.nearly_detected), [0.35, 0.34, 0.33]);
        assert_eq!(found.most_confident[0].heatmap.series.layer, "layer2", "the last layer's");
        assert_eq!(
            frequent(&found.false_positives).iter().map(|(class, tally)| (*class, tally.count)).collect::<Vec<_>>(),
            [("dog", 5), ("cat", 1)]
        );
        assert_eq!(found.false_positives["dog"].mean_inside(), Some(0.5));
    }

    #[test]
    fn false_positives_and_missed_objects_are_said_first_and_nothing_of_too_few() {
        let said = findings(&study(), None);
        assert_eq!([said[0].kind, said[1].kind, said[2].kind], ["false_positive", "false_positive", "missed"], "{said:?}");
        assert!(said[0].text.contains("6 of 10 detections") && said[0].text.contains("2 of them"), "{}", said[0].text);
        let samples: Vec<String> = said[0].examples.iter().map(|example| example.sample.clone()).collect();
        assert_eq!(samples, [format!("{:024x}", 1), format!("{:024x}", 2)]);
        assert!(said[1].text.contains("`dog`") && said[1].text.contains('5'), "{}", said[1].text);
        assert!(said[2].text.contains("6 of 8 labelled objects"), "{}", said[2].text);
        let mut few = Study::new(3);
        (0..4).for_each(|id| few.observe(&evaluated(id, "dog", "fp", 0.99, true)));
        assert!(findings(&few, None).iter().all(|finding| finding.kind != "false_positive"));
        assert_eq!(few.outcomes["net"].num_false(), 4, "the table has them all the same");
    }

    #[test]
    fn heatmaps_of_detections_compete_with_those_of_the_same_one_alone() {
        let mut study = Study::new(3);
        let mut sample = evaluated(1, "dog", "fp", 0.5, true);
        sample.heatmaps.extend(evaluated(2, "dog", "tp", 0.5, true).heatmaps);
        for (number, heatmap) in sample.heatmaps.iter_mut().enumerate() {
            heatmap.measures = heatmap.measures.with(Measure::EnergyRatio, number as f64);
        }
        study.observe(&sample);
        let contests: Vec<_> = study.contests.values().map(|contest| contest.num_samples).collect();
        assert_eq!(contests, [2], "one for each detection");
    }

    #[test]
    fn machines_get_all_of_it() {
        let report = json(&study(), &[], "street", "Monday");
        let found = &report["detections"][0];
        assert_eq!((&found["num_false_positives"], &found["num_missed"]), (&json!(6), &json!(6)));
        assert_eq!(
            (&found["false_positives"][0]["class"], &found["most_confident"][0]["confidence"]),
            (&json!("dog"), &json!(0.99))
        );
        let rows = csv_rows(&evaluated(1, "dog", "tp", 0.5, true));
        assert!(rows.lines().all(|row| row.ends_with(",d1,1,tp,0.75")), "{rows}");
    }
}
