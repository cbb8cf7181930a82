//! What the measures of a whole dataset say: distributions, extremes, comparisons, and in plain sentences what stands out.
//!
//! [`Study::observe`] takes sample by sample, in memory that does not grow with their number; [`findings`] draws conclusions,
//! [`page`] is the HTML report, `tables` the same as JSON and CSV.

mod attended;
mod attention;
mod clusters;
pub mod compare;
mod counterfactuals;
mod distribution;
mod findings;
mod mistakes;
mod outcomes;
mod page;
mod pictures;
pub mod sanity;
mod shortcuts;
mod slices;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use camflow_measure::{Measure, MeasuredHeatmap, MeasuredSample, Measures, Series};
use camflow_names::Choice;
use shortcuts::deciding;
use slices::Sampled;

pub use attention::{AttentionCell, AttentionTable};
pub use counterfactuals::Confidences;
pub use distribution::Distribution;
pub use findings::{Finding, Severity, findings};
pub use mistakes::{CONFIDENT, Mistake, Mistakes, Pair};
pub use outcomes::{EvaluatedDetection, Outcomes, Tally};
pub use page::{Heading, page};
pub use shortcuts::{Parts, SUSPICIOUS, Shortcuts, Suspect};
pub use slices::{Context, Slice, Slices};
pub use tables::{Baseline, CSV_HEADER, csv_rows, json};

/// Tags that are told apart, the first that are met: each has distributions of its own in every series.
const MAX_TAGS: usize = 24;

/// What is compared where samples are ranked: the measure that says how much more attention the object gets than by chance.
pub const RANKED_BY: Measure = Measure::EnergyRatio;

/// Distributions of all measures.
#[derive(Clone, Debug)]
pub struct Distributions(Vec<Distribution>);

impl Default for Distributions {
    fn default() -> Self {
        Distributions(Measure::ALL.iter().map(|measure| Distribution::new(*measure)).collect())
    }
}

impl Distributions {
    fn add(&mut self, measures: &Measures) {
        for (distribution, measure) in self.0.iter_mut().zip(Measure::ALL) {
            measures.get(*measure).into_iter().for_each(|value| distribution.add(value));
        }
    }

    /// Of one measure.
    pub fn of(&self, measure: Measure) -> &Distribution {
        &self.0[measure as usize]
    }
}

/// One heatmap among the worst or the best.
#[derive(Clone, Debug, PartialEq)]
pub struct Extreme {
    /// Its [`RANKED_BY`].
    pub value: f64,
    /// The sample's id.
    pub sample: String,
    /// The image.
    pub media_path: PathBuf,
    /// The sample's tags.
    pub tags: Vec<String>,
    /// The heatmap.
    pub heatmap: MeasuredHeatmap,
}

/// A sample that shows what is said.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Its id.
    pub sample: String,
    /// The image.
    pub media_path: PathBuf,
    /// The heatmap that it is about, if it is about one.
    pub heatmap: Option<MeasuredHeatmap>,
}

impl Example {
    fn of(sample: &MeasuredSample, heatmap: Option<&MeasuredHeatmap>) -> Self {
        Example { sample: sample.id.clone(), media_path: sample.media_path.clone(), heatmap: heatmap.cloned() }
    }
}

impl From<&Extreme> for Example {
    fn from(Extreme { sample, media_path, heatmap, .. }: &Extreme) -> Self {
        Example { sample: sample.clone(), media_path: media_path.clone(), heatmap: Some(heatmap.clone()) }
    }
}

/// The heatmaps of one series.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// How many there are.
    pub num_heatmaps: u64,
    /// How many of them are zero everywhere.
    pub num_empty: u64,
    /// Over all of them.
    pub all: Distributions,
    /// Over those of samples with a tag.
    pub by_tag: BTreeMap<String, Distributions>,
    /// Those with the least attention on the object, the worst first.
    pub worst: Vec<Extreme>,
    /// Those with the most, the best first.
    pub best: Vec<Extreme>,
}

/// Two series of one class, sample by sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contest {
    /// Samples with both.
    pub num_samples: u64,
    /// Those where the first one's attention is more on the object.
    pub num_won: u64,
    /// Those where it is equally much.
    pub num_tied: u64,
}

impl Contest {
    /// The share of samples that the first one wins, ties counting half.
    pub fn share_won(&self) -> f64 {
        (self.num_won as f64 + self.num_tied as f64 / 2.0) / self.num_samples.max(1) as f64
    }
}

/// What is known of a dataset's heatmaps.
#[derive(Clone, Debug)]
pub struct Study {
    /// How many of the worst and best to keep of each series.
    num_extremes: usize,
    /// Samples with heatmaps.
    pub num_samples: u64,
    /// The series.
    pub series: BTreeMap<Series, Observed>,
    /// What classifiers get wrong, by the model's name.
    pub mistakes: BTreeMap<String, Mistakes>,
    /// What evaluations found of detections, likewise.
    pub outcomes: BTreeMap<String, Outcomes>,
    /// Pairs of series of one class, the smaller first.
    pub contests: BTreeMap<(Series, Series), Contest>,
    /// The label field that attention was measured on -> series -> the classes that it lies on.
    pub attention: BTreeMap<String, BTreeMap<Series, AttentionTable>>,
    /// Series whose models were asked about images with something replaced.
    pub counterfactuals: BTreeMap<Series, Confidences>,
    /// Samples that are decided by something beside the object, by the model's name.
    pub shortcuts: BTreeMap<String, Shortcuts>,
    /// Heatmaps whose contexts are looked at.
    sampled: BTreeMap<String, Sampled>,
    /// Classes in contexts, by the model's name; there from [`Study::find_slices`] on.
    pub slices: BTreeMap<String, Slices>,
    /// Tags that are told apart.
    pub tags: BTreeSet<String>,
    /// Whether there were more.
    pub has_more_tags: bool,
}

impl Study {
    /// A study that has seen nothing yet, and will keep so many of the worst and best of each series.
    pub fn new(num_extremes: usize) -> Self {
        Study {
            num_extremes,
            num_samples: 0,
            series: BTreeMap::new(),
            mistakes: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            contests: BTreeMap::new(),
            attention: BTreeMap::new(),
            counterfactuals: BTreeMap::new(),
            shortcuts: BTreeMap::new(),
            sampled: BTreeMap::new(),
            slices: BTreeMap::new(),
            tags: BTreeSet::new(),
            has_more_tags: false,
        }
    }

    /// How many heatmaps were observed.
    pub fn num_heatmaps(&self) -> u64 {
        self.series.values().map(|observed| observed.num_heatmaps).sum()
    }

    /// Adds what was measured of a sample.
    pub fn observe(&mut self, sample: &MeasuredSample) {
        if sample.heatmaps.is_empty() {
            return;
        }
        self.num_samples += 1;
        for tag in &sample.tags {
            if self.tags.len() < MAX_TAGS {
                self.tags.insert(tag.clone());
            } else if !self.tags.contains(tag) {
                self.has_more_tags = true;
            }
        }
        for heatmap in &sample.heatmaps {
            let observed = self.series.entry(heatmap.series.clone()).or_default();
            observed.num_heatmaps += 1;
            observed.num_empty += u64::from(heatmap.measures.get(Measure::Entropy).is_none());
            observed.all.add(&heatmap.measures);
            for tag in sample.tags.iter().filter(|tag| self.tags.contains(*tag)) {
                observed.by_tag.entry(tag.clone()).or_default().add(&heatmap.measures);
            }
            if let Some(on) = &heatmap.attention_on {
                let of_field = self.attention.entry(on.clone()).or_default();
                of_field.entry(heatmap.series.clone()).or_default().add(sample, heatmap);
            }
            if Confidences::are_known(&heatmap.measures) {
                self.counterfactuals.entry(heatmap.series.clone()).or_default().add(sample, heatmap);
            }
            if let Some(value) = heatmap.measures.get(RANKED_BY) {
                keep(&mut observed.worst, self.num_extremes, value, false, sample, heatmap);
                keep(&mut observed.best, self.num_extremes, value, true, sample, heatmap);
            }
        }
        for heatmap in deciding(sample) {
            if Parts::of(heatmap).can_be_ranked() {
                self.shortcuts.entry(heatmap.series.model.clone()).or_default().add(sample, heatmap);
            }
            Sampled::observe(&mut self.sampled, sample, heatmap);
        }
        self.compare(&sample.heatmaps);
        self.judge(sample);
        Outcomes::observe(&mut self.outcomes, sample, self.num_extremes);
    }

    /// Each model has one prediction for a sample, however many heatmaps say it.
    fn judge(&mut self, sample: &MeasuredSample) {
        let mut models: BTreeSet<&str> = BTreeSet::new();
        for MeasuredHeatmap { series, prediction, .. } in &sample.heatmaps {
            let Some(prediction) = prediction.as_ref().filter(|prediction| prediction.is_correct.is_some()) else { continue };
            if models.insert(&series.model) {
                self.mistakes.entry(series.model.clone()).or_default().add(sample, &series.model, prediction, self.num_extremes);
            }
        }
    }

    fn compare(&mut self, heatmaps: &[MeasuredHeatmap]) {
        for (index, first) in heatmaps.iter().enumerate() {
            for second in &heatmaps[index + 1..] {
                let (first, second) = if first.series < second.series { (first, second) } else { (second, first) };
                let (Some(value), Some(other)) = (first.measures.get(RANKED_BY), second.measures.get(RANKED_BY)) else {
                    continue;
                };
                let of = |heatmap: &MeasuredHeatmap| heatmap.detection.as_ref().map(|detection| detection.id.clone());
                if first.series.class != second.series.class || of(first) != of(second) {
                    continue;
                }
                let contest = self.contests.entry((first.series.clone(), second.series.clone())).or_default();
                contest.num_samples += 1;
                contest.num_won += u64::from(value > other);
                contest.num_tied += u64::from(value == other);
            }
        }
    }
}

/// Puts a heatmap among the extremes, if it is one.
fn keep(
    extremes: &mut Vec<Extreme>,
    num: usize,
    value: f64,
    largest_first: bool,
    sample: &MeasuredSample,
    heatmap: &MeasuredHeatmap,
) {
    let goes_before = |other: &Extreme| if largest_first { value > other.value } else { value < other.value };
    let place = extremes.iter().position(goes_before).unwrap_or(extremes.len());
    if place >= num {
        return;
    }
    let (id, media_path, tags) = (sample.id.clone(), sample.media_path.clone(), sample.tags.clone());
    extremes.insert(place, Extreme { value, sample: id, media_path, tags, heatmap: heatmap.clone() });
    extremes.truncate(num);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample with one heatmap per ratio, in fields `a`, `b`, ...
    pub(crate) fn sample(id: u32, tags: &[&str], ratios: &[f64]) -> MeasuredSample {
        let heatmap = |(field, ratio): (u8, &f64)| MeasuredHeatmap {
            series: Series {
                field: char::from(b'a' + field).to_string(),
                class: "person".into(),
                layer: format!("layer{field}"),
                method: "gradcam".into(),
                model: "net".into(),
            },
            measures: Measures::default().with(Measure::EnergyRatio, *ratio).with(Measure::Entropy, 0.5),
            ..MeasuredHeatmap::default()
        };
        MeasuredSample {
            id: format!("{id:024x}"),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            heatmaps: (0..).zip(ratios).map(heatmap).collect(),
            ..MeasuredSample::default()
        }
    }

    #[test]
    fn extremes_are_kept_in_order() {
        let mut study = Study::new(2);
        for (id, ratio) in [3.0, 0.5, 2.0, 0.1, 9.0].into_iter().enumerate() {
            study.observe(&sample(id as u32, &[], &[ratio]));
        }
        let observed = study.series.values().next().expect("a series");
        let values = |extremes: &[Extreme]| extremes.iter().map(|extreme| extreme.value).collect::<Vec<_>>();
        assert_eq!((values(&observed.worst), values(&observed.best)), (vec![0.1, 0.5], vec![9.0, 3.0]));
        assert_eq!((study.num_samples, study.num_heatmaps()), (5, 5));
    }

    #[test]
    fn series_of_a_class_compete_sample_by_sample() {
        let mut study = Study::new(2);
        for (first, second) in [(1.0, 2.0), (3.0, 2.0), (4.0, 2.0), (2.0, 2.0)] {
            study.observe(&sample(0, &["night"], &[first, second]));
        }
        let contest = study.contests.values().next().expect("a contest");
        assert_eq!(*contest, Contest { num_samples: 4, num_won: 2, num_tied: 1 });
        assert_eq!(contest.share_won(), 0.625);
        assert_eq!(study.series.values().next().expect("one").by_tag["night"].of(RANKED_BY).count(), 4);
    }
}
