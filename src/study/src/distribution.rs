//! How a measure is distributed, in constant memory.

use camflow_measure::Measure;

/// Bins over a measure's whole range: quantiles are off by a 400th of it at most.
const BINS: usize = 400;

/// Where a value lies in its measure's range, in `[0, 1]`. Ratios have no upper end: 1 is put in the middle, and `r` and `1/r` at
/// the same distance from it.
pub(crate) fn position(measure: Measure, value: f64) -> f64 {
    match measure {
        Measure::EnergyRatio => value / (1.0 + value),
        Measure::RankCorrelation => (value + 1.0) / 2.0,
        Measure::Road => value + 0.5,
        _ => value,
    }
    .clamp(0.0, 1.0)
}

/// The value at a position; infinite for a ratio at 1.
pub(crate) fn value_at(measure: Measure, position: f64) -> f64 {
    match measure {
        Measure::EnergyRatio => position / (1.0 - position),
        Measure::RankCorrelation => 2.0 * position - 1.0,
        Measure::Road => position - 0.5,
        _ => position,
    }
}

/// The values of one measure over many heatmaps, of which only a histogram is kept.
#[derive(Clone, Debug)]
pub struct Distribution {
    measure: Measure,
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    /// Values below 1, exactly.
    below_one: u64,
    /// Empty until there is a value.
    bins: Vec<u32>,
}

impl Distribution {
    /// Of no value yet.
    pub fn new(measure: Measure) -> Self {
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Distribution { measure, count: 0, sum: 0.0, min, max, below_one: 0, bins: Vec::new() }
    }

    /// Adds a value; what is not finite is left out.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.bins.resize(BINS, 0);
        let bin = (position(self.measure, value) * BINS as f64) as usize;
        self.bins[bin.min(BINS - 1)] += 1;
        self.count += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.below_one += u64::from(value < 1.0);
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }

    /// The smallest and the largest.
    pub fn bounds(&self) -> Option<(f64, f64)> {
        (self.count > 0).then_some((self.min, self.max))
    }

    /// The share of values below 1: for ratios, those below chance.
    pub fn share_below_one(&self) -> Option<f64> {
        (self.count > 0).then(|| self.below_one as f64 / self.count as f64)
    }

    /// How many are below 1.
    pub fn num_below_one(&self) -> u64 {
        self.below_one
    }

    /// The value below which this share of all lies, interpolated within a bin.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let wanted = share.clamp(0.0, 1.0) * self.count as f64;
        let mut below = 0.0;
        for (bin, count) in self.bins.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = f64::from(*count);
            if below + count >= wanted {
                let position = (bin as f64 + (wanted - below) / count) / BINS as f64;
                return Some(value_at(self.measure, position.min(1.0 - 1e-9)).clamp(self.min, self.max));
            }
            below += count;
        }
        Some(self.max)
    }

    /// The middle one.
    pub fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }

    /// Counts in so many equal bins over the whole range. `num` divides 400.
    pub fn histogram(&self, num: usize) -> Vec<u64> {
        if self.bins.is_empty() {
            return vec![0; num];
        }
        self.bins.chunks(BINS / num).map(|chunk| chunk.iter().map(|count| u64::from(*count)).sum()).collect()
    }

    /// The probability that one of these is larger than one of the others, ties counting half: the area under the ROC curve, or
    /// Mann and Whitney's U by the number of pairs.
    pub fn probability_above(&self, other: &Distribution) -> Option<f64> {
        if self.count == 0 || other.count == 0 {
            return None;
        }
        let (mut below, mut pairs) = (0.0, 0.0);
        for (own, others) in self.bins.iter().zip(&other.bins) {
            pairs += f64::from(*own) * (below + f64::from(*others) / 2.0);
            below += f64::from(*others);
        }
        Some(pairs / (self.count as f64 * other.count as f64))
    }

    /// These without those of a part of them.
    pub fn without(&self, part: &Distribution) -> Distribution {
        let mut rest = self.clone();
        for (bin, less) in rest.bins.iter_mut().zip(&part.bins) {
            *bin -= less;
        }
        // The bounds of the rest are not known, only that they lie within.
        Distribution {
            count: self.count - part.count,
            sum: self.sum - part.sum,
            below_one: self.below_one - part.below_one,
            ..rest
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(measure: Measure, values: &[f64]) -> Distribution {
        let mut distribution = Distribution::new(measure);
        values.iter().for_each(|value| distribution.add(*value));
        distribution
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let values: Vec<f64> = (0..1000).map(|n| f64::from(n) / 1000.0).collect();
        let even = of(Measure::EnergyInside, &values);
        for share in [0.1, 0.25, 0.5, 0.9] {
            assert!((even.quantile(share).unwrap() - share).abs() < 0.003);
        }
        assert!((even.mean().unwrap() - 0.4995).abs() < 1e-9);
        let ratios = of(Measure::EnergyRatio, &[0.5, 1.5, 4.0, 30.0]);
        assert_eq!(ratios.share_below_one(), Some(0.25));
        assert!((of(Measure::EnergyRatio, &[2.5]).median().unwrap() - 2.5).abs() < 1e-12, "a single value is itself");
        assert_eq!(of(Measure::Entropy, &[f64::NAN]).median(), None);
    }

    #[test]
    fn positions_go_there_and_back() {
        for (measure, value) in [(Measure::EnergyRatio, 3.0), (Measure::RankCorrelation, -0.5), (Measure::Entropy, 0.25)] {
            assert!((value_at(measure, position(measure, value)) - value).abs() < 1e-12);
        }
    }

    #[test]
    fn probabilities_count_pairs() {
        let (low, high) = (of(Measure::EnergyRatio, &[0.1, 0.2, 2.0]), of(Measure::EnergyRatio, &[1.0, 3.0]));
        // 2 > 1 is one of six pairs.
        assert!((low.probability_above(&high).unwrap() - 1.0 / 6.0).abs() < 1e-12);
        assert_eq!(low.probability_above(&low), Some(0.5));
        let all = of(Measure::EnergyRatio, &[0.1, 0.2, 2.0, 1.0, 3.0]);
        assert_eq!(all.without(&low).probability_above(&low), high.probability_above(&low));
    }
}
