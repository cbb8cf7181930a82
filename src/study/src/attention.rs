//! Which labelled classes the heatmaps of each series lie on, against what the area alone would give.

use std::collections::BTreeMap;

use super::Example;
use camflow_measure::{MeasuredHeatmap, MeasuredSample, Series};
use camflow_names::ClassNames;

/// Labelled classes of a series that are told apart, the first that are met; the rest is summed up.
const MAX_LABELS: usize = 256;

/// Samples of a class that are kept: those with the most attention beyond its area.
const NUM_SAMPLES: usize = 3;

/// The heatmaps of one series, and the classes of one label field that they lie on.
#[derive(Clone, Debug, Default)]
pub struct AttentionTable {
    /// How many have a label in the field, and attention to measure.
    pub num_heatmaps: u64,
    /// By labelled class; `None` is what has none.
    pub labels: BTreeMap<Option<String>, AttentionCell>,
    /// All classes beyond those, together.
    pub others: AttentionCell,
}

/// The heatmaps of a series in whose images a labelled class is.
#[derive(Clone, Debug, Default)]
pub struct AttentionCell {
    /// How many.
    pub num_heatmaps: u64,
    /// Those that lie more on the class than its area alone would give.
    pub num_above: u64,
    /// Those that lie less on it.
    pub num_below: u64,
    sum_share: f64,
    sum_area: f64,
    /// By how much a heatmap lies more on the class than its area would give, and which; the most first.
    most: Vec<(f64, Example)>,
}

impl AttentionTable {
    /// Adds what was measured of a heatmap.
    pub(crate) fn add(&mut self, sample: &MeasuredSample, heatmap: &MeasuredHeatmap) {
        // A heatmap of zeros lies nowhere.
        let lying = || heatmap.attention.iter().filter_map(|one| Some((&one.label, one.share?, one.area)));
        if lying().next().is_none() {
            return;
        }
        self.num_heatmaps += 1;
        let (mut other_share, mut other_area) = (0.0, 0.0);
        for (label, share, area) in lying() {
            if self.labels.len() < MAX_LABELS || self.labels.contains_key(label) {
                self.labels.entry(label.clone()).or_default().add(share, area, sample, heatmap);
            } else {
                (other_share, other_area) = (other_share + share, other_area + area);
            }
        }
        if other_area > 0.0 {
            self.others.add(other_share, other_area, sample, heatmap);
        }
    }

    /// These and those of another series.
    pub(crate) fn merge(&mut self, other: &AttentionTable) {
        self.num_heatmaps += other.num_heatmaps;
        for (label, cell) in &other.labels {
            let is_known = self.labels.len() < MAX_LABELS || self.labels.contains_key(label);
            let own = if is_known { self.labels.entry(label.clone()).or_default() } else { &mut self.others };
            own.merge(cell);
        }
        self.others.merge(&other.others);
    }
}

impl AttentionCell {
    fn add(&mut self, share: f64, area: f64, sample: &MeasuredSample, heatmap: &MeasuredHeatmap) {
        self.num_heatmaps += 1;
        self.num_above += u64::from(share > area);
        self.num_below += u64::from(share < area);
        self.sum_share += share;
        self.sum_area += area;
        let beyond = share - area;
        let place = self.most.iter().position(|(other, _)| beyond > *other).unwrap_or(self.most.len());
        if place < NUM_SAMPLES && beyond > 0.0 {
            self.most.insert(place, (beyond, Example::of(sample, Some(heatmap))));
            self.most.truncate(NUM_SAMPLES);
        }
    }

    /// These and those of another class or series.
    pub(crate) fn merge(&mut self, other: &AttentionCell) {
        self.num_heatmaps += other.num_heatmaps;
        self.num_above += other.num_above;
        self.num_below += other.num_below;
        self.sum_share += other.sum_share;
        self.sum_area += other.sum_area;
        self.most.extend(other.most.iter().cloned());
        self.most.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.most.truncate(NUM_SAMPLES);
    }

    /// The mean share of the energy, in `[0, 1]`, over heatmaps in whose images the class is.
    pub fn mean_share(&self) -> Option<f64> {
        self.mean(self.sum_share, self.num_heatmaps)
    }

    /// The mean share of the area, over the same.
    pub fn mean_area(&self) -> Option<f64> {
        self.mean(self.sum_area, self.num_heatmaps)
    }

    /// The mean shares of energy and area over so many heatmaps, those in whose images the class is not, too.
    pub(crate) fn means_over(&self, num_heatmaps: u64) -> Option<(f64, f64)> {
        Some((self.mean(self.sum_share, num_heatmaps)?, self.mean(self.sum_area, num_heatmaps)?))
    }

    fn mean(&self, sum: f64, count: u64) -> Option<f64> {
        (count > 0).then(|| sum / count as f64)
    }

    /// How many times more of the heatmaps lies on the class than its area alone would give: 1 is chance.
    pub fn ratio(&self) -> Option<f64> {
        (self.sum_area > 0.0).then(|| self.sum_share / self.sum_area)
    }

    /// How probable so unequal numbers of heatmaps above and below their area are, if both were as likely: the two-sided sign test,
    /// without those that are equal.
    pub fn sign_test(&self) -> f64 {
        sign_test(self.num_above, self.num_below)
    }

    /// The samples with the most attention beyond the class's area, the most first.
    pub fn examples(&self) -> Vec<Example> {
        self.most.iter().map(|(_, example)| example.clone()).collect()
    }

    /// All energy on the class, to sort by.
    pub(crate) fn total(&self) -> f64 {
        self.sum_share
    }
}

/// Two-sided, of so many positive and negative differences.
pub(crate) fn sign_test(above: u64, below: u64) -> f64 {
    let (count, fewer) = ((above + below) as f64, above.min(below) as f64);
    // C(n, i) / 2^n of the largest i, and from it down, until what is left does not count.
    let logarithm = ln_factorial(count) - ln_factorial(fewer) - ln_factorial(count - fewer) - count * std::f64::consts::LN_2;
    let (mut term, mut tail, mut i) = (logarithm.exp(), 0.0, fewer);
    while i >= 0.0 && term > tail * 1e-12 {
        tail += term;
        term *= i / (count - i + 1.0);
        i -= 1.0;
    }
    (2.0 * tail).min(1.0)
}

/// By Stirling's series, where it is exact to ten digits.
pub(crate) fn ln_factorial(n: f64) -> f64 {
    if n < 20.0 {
        return (1..=n as u64).map(|factor| (factor as f64).ln()).sum();
    }
    n * n.ln() - n + (std::f64::consts::TAU * n).ln() / 2.0 + 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3))
}

/// Whether a label is the class that a series explains, however it is spelt.
pub(crate) fn is_own(label: Option<&str>, series: &Series) -> bool {
    let names = || ClassNames::new(BTreeMap::from([(0, series.class.clone())]));
    label.is_some_and(|label| label == series.class || names().means(label, (&series.class, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_measure::Attention;

    fn heatmap(attention: &[(Option<&str>, f64, f64)]) -> MeasuredHeatmap {
        let one = |(label, share, area): &(Option<&str>, f64, f64)| Attention {
            label: label.map(ToOwned::to_owned),
            share: Some(*share),
            area: *area,
        };
        MeasuredHeatmap { attention: attention.iter().map(one).collect(), ..MeasuredHeatmap::default() }
    }

    fn sample(id: usize) -> MeasuredSample {
        MeasuredSample { id: format!("{id:024x}"), ..MeasuredSample::default() }
    }

    #[test]
    fn means_are_over_the_images_that_have_the_class() {
        let mut table = AttentionTable::default();
        table.add(&sample(1), &heatmap(&[(Some("sky"), 0.6, 0.4), (None, 0.4, 0.6)]));
        table.add(&sample(2), &heatmap(&[(Some("sky"), 0.8, 0.4), (None, 0.2, 0.6)]));
        table.add(&sample(3), &heatmap(&[(None, 1.0, 1.0)]));
        table.add(&sample(4), &MeasuredHeatmap::default());
        let sky = &table.labels[&Some("sky".to_owned())];
        assert_eq!((table.num_heatmaps, sky.num_heatmaps, sky.num_above, sky.num_below), (3, 2, 2, 0));
        let close = |number: Option<f64>, wanted: f64| assert!((number.unwrap() - wanted).abs() < 1e-12, "{number:?} {wanted}");
        close(sky.mean_share(), 0.7);
        close(sky.mean_area(), 0.4);
        close(sky.ratio(), 1.75);
        close(sky.means_over(table.num_heatmaps).map(|means| means.0), 1.4 / 3.0);
        let samples: Vec<String> = sky.examples().into_iter().map(|example| example.sample).collect();
        assert_eq!(samples, [format!("{:024x}", 2), format!("{:024x}", 1)]);
        assert_eq!((table.labels[&None].num_heatmaps, table.labels[&None].num_below), (3, 2));
    }

    #[test]
    fn very_many_classes_are_summed_up() {
        let mut table = AttentionTable::default();
        for number in 0..2 * MAX_LABELS {
            table.add(&sample(number), &heatmap(&[(Some(&number.to_string()), 0.5, 0.25)]));
        }
        assert_eq!((table.labels.len(), table.others.num_heatmaps), (MAX_LABELS, MAX_LABELS as u64));
        assert_eq!((table.others.mean_share(), table.others.ratio()), (Some(0.5), Some(2.0)));
        let mut both = table.clone();
        both.merge(&table);
        assert_eq!((both.num_heatmaps, both.labels.len()), (4 * MAX_LABELS as u64, MAX_LABELS));
    }

    #[test]
    fn the_sign_test_is_that_of_the_binomial_distribution() {
        // SciPy's `binomtest(k, n).pvalue`.
        for (above, below, wanted) in [
            (5, 0, 0.0625),
            (18, 2, 0.000_402_450_561_523_437_5),
            (3, 7, 0.34375),
            (5, 5, 1.0),
            (0, 0, 1.0),
            (540, 460, 0.012_444_146_277_171_8),
            (5000, 4700, 0.002_396_603_362_576_565),
        ] {
            let found = sign_test(above, below);
            assert!((found - wanted).abs() <= 1e-8 * wanted, "{above} {below}: {found} {wanted}");
        }
    }

    #[test]
    fn the_own_class_is_known_however_it_is_spelt() {
        let series = Series { class: "dining table".into(), ..Series::default() };
        assert!(["dining table", "Dining Table", "dining_table"].iter().all(|label| is_own(Some(label), &series)));
        assert!(!is_own(Some("table"), &series) && !is_own(None, &series));
    }
}
