//! Two sets of heatmaps of the same samples: how their measures and their maps differ, and in which samples most.

use std::{
    collections::{BTreeMap, BinaryHeap},
    path::PathBuf,
};

use super::{
    aligned::Crops,
    maps::{Agreement, MapPair},
    pairing::Unpaired,
    quantity::Quantity,
    statistics::{Difference, Paired, holm},
};
use crate::{Example, distribution::Distribution};
use camflow_measure::{Measure, MeasuredHeatmap, MeasuredSample, Series};
use camflow_names::Choice;

/// Of what could not be read, so many reasons are kept.
const NUM_REASONS: usize = 5;

/// So many samples are kept in the order of their change, for a view of them.
const NUM_RANKED: usize = 1000;

/// A difference that is improbable by chance: 5 %, over all tests of a table together.
pub const IMPROBABLE: f64 = 0.05;

/// An effect below this is small, however certain: J. Cohen, *Statistical Power Analysis for the Behavioral Sciences* (1988).
pub const SMALL: f64 = 0.2;

/// One heatmap of A and one of B.
#[derive(Clone, Debug)]
pub struct HeatmapPair {
    /// Of A.
    pub a: MeasuredHeatmap,
    /// Of B.
    pub b: MeasuredHeatmap,
    /// What their files say.
    pub maps: MapPair,
}

/// Two heatmaps that differ much.
#[derive(Clone, Debug)]
pub struct Changed {
    /// B's number less A's, or the overlap of the maps.
    pub value: f64,
    /// The sample's id in A's dataset.
    pub sample: String,
    /// The image.
    pub media_path: PathBuf,
    /// Of A.
    pub a: MeasuredHeatmap,
    /// Of B.
    pub b: MeasuredHeatmap,
    /// The overlap of the maps, if they were read.
    pub overlap: Option<f64>,
}

impl From<&Changed> for Example {
    fn from(Changed { sample, media_path, b, .. }: &Changed) -> Self {
        Example { sample: sample.clone(), media_path: media_path.clone(), heatmap: Some(b.clone()) }
    }
}

/// How alike the maps of many pairs are.
#[derive(Clone, Debug)]
pub struct Agreements {
    /// Pairs whose files were read.
    pub num_read: u64,
    /// Pairs of which a file could not be read.
    pub num_unreadable: u64,
    /// Pairs that are the same, level by level.
    pub num_identical: u64,
    /// The rank correlations.
    pub rank_correlation: Distribution,
    /// The overlaps.
    pub overlap: Distribution,
}

impl Default for Agreements {
    fn default() -> Self {
        Agreements {
            num_read: 0,
            num_unreadable: 0,
            num_identical: 0,
            rank_correlation: Distribution::new(Measure::RankCorrelation),
            // The same range, 0 to 1.
            overlap: Distribution::new(Measure::EnergyInside),
        }
    }
}

impl Agreements {
    fn add(&mut self, maps: &MapPair) {
        match maps {
            MapPair::Unread => {}
            MapPair::Unreadable(_) => self.num_unreadable += 1,
            MapPair::Read(agreement) => {
                let Agreement { rank_correlation, overlap, is_identical, .. } = &**agreement;
                self.num_read += 1;
                self.num_identical += u64::from(*is_identical);
                rank_correlation.iter().for_each(|value| self.rank_correlation.add(*value));
                overlap.iter().for_each(|value| self.overlap.add(*value));
            }
        }
    }
}

/// The pairs of one series of A with one of B.
#[derive(Clone, Debug)]
pub struct PairedSeries {
    /// How many.
    pub num_pairs: u64,
    /// By [`Quantity`].
    quantities: Vec<Paired>,
    /// How many maps are zero everywhere in A alone, and in B alone.
    pub num_empty: [u64; 2],
    /// How alike the maps are.
    pub maps: Agreements,
    /// Around the objects.
    pub on_object: Crops,
    /// Over the image.
    pub on_image: Crops,
}

impl Default for PairedSeries {
    fn default() -> Self {
        PairedSeries {
            num_pairs: 0,
            quantities: vec![Paired::default(); Quantity::ALL.len()],
            num_empty: [0; 2],
            maps: Agreements::default(),
            on_object: Crops::default(),
            on_image: Crops::default(),
        }
    }
}

/// A difference in the table, with what is known of all of them together.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The series of A and of B; `None` for all of them.
    pub series: Option<&'a (Series, Series)>,
    /// What differs.
    pub quantity: Quantity,
    /// By how much.
    pub difference: Difference,
    /// The probability, corrected for the number of rows (Holm).
    pub corrected: f64,
}

impl Row<'_> {
    /// Whether there is a difference, as far as one can say.
    pub fn is_clear(&self) -> bool {
        self.corrected <= IMPROBABLE
    }

    /// Whether the difference is small against how the pairs vary.
    pub fn is_small(&self) -> bool {
        self.difference.effect.is_some_and(|effect| effect.abs() < SMALL)
    }
}

/// What is known of two sets of heatmaps.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What samples are ranked by.
    pub ranked_by: Quantity,
    num_kept: usize,
    /// Samples with a pair.
    pub num_samples: u64,
    /// Pairs.
    pub num_pairs: u64,
    /// What has nothing to be compared with.
    pub unpaired: Unpaired,
    /// By the series of A and of B.
    pub series: BTreeMap<(Series, Series), PairedSeries>,
    /// Over all series: the means of each sample's pairs, as those of one image are no independent observations.
    totals: Vec<Paired>,
    /// The same of each class, by A's name for it.
    by_class: BTreeMap<String, Vec<Paired>>,
    /// How alike the maps of all pairs are.
    pub maps: Agreements,
    /// Why files could not be read: some reasons.
    pub unreadable: Vec<String>,
    /// The samples that lost most from A to B, the most first.
    pub fell: Vec<Changed>,
    /// Those that gained most.
    pub rose: Vec<Changed>,
    /// Those whose maps overlap least.
    pub moved: Vec<Changed>,
    by_measure: Ranking,
    by_overlap: Ranking,
}

impl Comparison {
    /// A comparison that has seen nothing yet, and keeps so many of the samples that changed most.
    pub fn new(ranked_by: Quantity, num_kept: usize) -> Self {
        Comparison {
            ranked_by,
            num_kept,
            num_samples: 0,
            num_pairs: 0,
            unpaired: Unpaired::default(),
            series: BTreeMap::new(),
            totals: vec![Paired::default(); Quantity::ALL.len()],
            by_class: BTreeMap::new(),
            maps: Agreements::default(),
            unreadable: Vec::new(),
            fell: Vec::new(),
            rose: Vec::new(),
            moved: Vec::new(),
            by_measure: Ranking::default(),
            by_overlap: Ranking::default(),
        }
    }

    /// Adds the pairs of a sample.
    pub fn observe(&mut self, sample: &MeasuredSample, pairs: &[HeatmapPair]) {
        if pairs.is_empty() {
            return;
        }
        self.num_samples += 1;
        self.num_pairs += pairs.len() as u64;
        for pair in pairs {
            self.add(pair);
        }
        add_means(&mut self.totals, pairs.iter());
        let mut classes: Vec<&String> = pairs.iter().map(|pair| &pair.a.series.class).collect();
        classes.sort_unstable();
        classes.dedup();
        for class in classes {
            let of_class = self.by_class.entry(class.clone()).or_insert_with(|| vec![Paired::default(); Quantity::ALL.len()]);
            add_means(of_class, pairs.iter().filter(|pair| pair.a.series.class == *class));
        }
        self.rank(sample, pairs);
    }

    fn add(&mut self, pair: &HeatmapPair) {
        let HeatmapPair { a, b, maps } = pair;
        let series = self.series.entry((a.series.clone(), b.series.clone())).or_default();
        series.num_pairs += 1;
        for (quantity, paired) in Quantity::ALL.iter().zip(&mut series.quantities) {
            if let (Some(a), Some(b)) = (quantity.of(a), quantity.of(b)) {
                paired.add(a, b);
            }
        }
        let [a, b] = [a, b].map(|heatmap| heatmap.measures.get(Measure::Entropy).is_none());
        series.num_empty[0] += u64::from(a && !b);
        series.num_empty[1] += u64::from(b && !a);
        series.maps.add(maps);
        self.maps.add(maps);
        match maps {
            MapPair::Unread => {}
            MapPair::Unreadable(reason) => {
                if self.unreadable.len() < NUM_REASONS {
                    self.unreadable.push(reason.clone());
                }
            }
            MapPair::Read(agreement) => {
                series.on_object.add(&agreement.on_object);
                series.on_image.add(&agreement.on_image);
            }
        }
    }

    /// Of each sample the pair that changed most counts.
    fn rank(&mut self, sample: &MeasuredSample, pairs: &[HeatmapPair]) {
        let by_measure = || {
            let change = |pair| Some((difference(pair, self.ranked_by)?, pair));
            pairs.iter().filter_map(change)
        };
        let lowest = by_measure().min_by(|a, b| a.0.total_cmp(&b.0)).filter(|(value, _)| *value < 0.0);
        let highest = by_measure().max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(value, _)| *value > 0.0);
        let most = by_measure().map(|(value, _)| value.abs()).max_by(f64::total_cmp);
        let overlaps = pairs.iter().filter_map(|pair| Some((pair.maps.agreement()?.overlap?, pair)));
        let farthest = overlaps.min_by(|a, b| a.0.total_cmp(&b.0)).filter(|(value, _)| *value < 1.0);
        let changed = |(value, pair): (f64, &HeatmapPair)| Changed {
            value,
            sample: sample.id.clone(),
            media_path: sample.media_path.clone(),
            a: pair.a.clone(),
            b: pair.b.clone(),
            overlap: pair.maps.agreement().and_then(|agreement| agreement.overlap),
        };
        for (found, list, sign) in
            [(lowest, &mut self.fell, 1.0), (highest, &mut self.rose, -1.0), (farthest, &mut self.moved, 1.0)]
        {
            let Some(found) = found else { continue };
            let place = list.iter().position(|other| sign * found.0 < sign * other.value).unwrap_or(list.len());
            if place < self.num_kept {
                list.insert(place, changed(found));
                list.truncate(self.num_kept);
            }
        }
        most.into_iter().for_each(|most| self.by_measure.add(most, &sample.id));
        farthest.into_iter().for_each(|(overlap, _)| self.by_overlap.add(1.0 - overlap, &sample.id));
    }

    /// The differences of each series, in order, corrected for their number together.
    pub fn rows(&self) -> Vec<Row<'_>> {
        let of_series = |(series, paired): (_, &PairedSeries)| of(Some(series), &paired.quantities);
        corrected(self.series.iter().flat_map(of_series).collect())
    }

    /// Those of all pairs of each sample together, corrected in the same way.
    pub fn totals(&self) -> Vec<Row<'_>> {
        corrected(of(None, &self.totals))
    }

    /// The difference of one quantity over all samples, or over those of a class.
    pub fn total(&self, quantity: Quantity, class: Option<&str>) -> Option<Difference> {
        let paired = match class {
            None => &self.totals,
            Some(class) => self.by_class.get(class)?,
        };
        paired[quantity.index()].difference(quantity.is_yes_or_no())
    }

    /// The classes that are explained, by A's names.
    pub fn classes(&self) -> Vec<&str> {
        self.by_class.keys().map(String::as_str).collect()
    }

    /// Ids of the samples in A's dataset that changed most, the most first: by what they are ranked by, else by the overlap of the maps.
    pub fn ranking(&self) -> Vec<String> {
        if self.by_measure.is_empty() { self.by_overlap.ids() } else { self.by_measure.ids() }
    }
}

/// By how much B's heatmap has more of something.
fn difference(pair: &HeatmapPair, quantity: Quantity) -> Option<f64> {
    Some(quantity.of(&pair.b)? - quantity.of(&pair.a)?)
}

fn add_means<'a>(totals: &mut [Paired], pairs: impl Iterator<Item = &'a HeatmapPair> + Clone) {
    for (quantity, total) in Quantity::ALL.iter().zip(totals) {
        let known = pairs.clone().filter_map(|pair| Some([quantity.of(&pair.a)?, quantity.of(&pair.b)?]));
        let (mut sums, mut num) = ([0.0; 2], 0);
        for [a, b] in known {
            sums = [sums[0] + a, sums[1] + b];
            num += 1;
        }
        if num > 0 {
            total.add(sums[0] / f64::from(num), sums[1] / f64::from(num));
        }
    }
}

fn of<'a>(series: Option<&'a (Series, Series)>, quantities: &[Paired]) -> Vec<Row<'a>> {
    let row = |(quantity, paired): (&Quantity, &Paired)| {
        let difference = paired.difference(quantity.is_yes_or_no())?;
        Some(Row { series, quantity: *quantity, difference, corrected: difference.p })
    };
    Quantity::ALL.iter().zip(quantities).filter_map(row).collect()
}

fn corrected(mut rows: Vec<Row<'_>>) -> Vec<Row<'_>> {
    let probabilities: Vec<f64> = rows.iter().map(|row| row.difference.p).collect();
    rows.iter_mut().zip(holm(&probabilities)).for_each(|(row, corrected)| row.corrected = corrected);
    rows
}

/// The samples that changed most.
#[derive(Clone, Debug, Default)]
struct Ranking(BinaryHeap<Ranked>);

/// The one that changed least is the greatest, as a heap gives that away first.
#[derive(Clone, Debug)]
struct Ranked {
    change: f64,
    id: String,
}

impl Ranking {
    fn add(&mut self, change: f64, id: &str) {
        self.0.push(Ranked { change, id: id.to_owned() });
        if self.0.len() > NUM_RANKED {
            self.0.pop();
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The most first.
    fn ids(&self) -> Vec<String> {
        self.0.clone().into_sorted_vec().into_iter().map(|ranked| ranked.id).collect()
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.change.total_cmp(&self.change).then_with(|| self.id.cmp(&other.id))
    }
}
