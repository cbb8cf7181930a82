//! Paired differences: means with their intervals, tests, and many tests at once.

use crate::attention::sign_test;

/// Intervals cover the true difference in 95 of 100 repetitions.
const CONFIDENCE: f64 = 0.95;
/// The quantile of the normal distribution for that.
const NORMAL: f64 = 1.959_963_984_540_054;

/// Values of the same things in A and in B, pair by pair, in memory that does not grow with their number.
#[derive(Clone, Debug)]
pub struct Paired {
    num: u64,
    sum_a: f64,
    sum_b: f64,
    /// The mean of `b - a`, and the sum of the squares of its deviations: Welford's recurrence.
    mean: f64,
    squares: f64,
    num_higher: u64,
    num_lower: u64,
    is_binary: bool,
}

impl Default for Paired {
    fn default() -> Self {
        Paired { num: 0, sum_a: 0.0, sum_b: 0.0, mean: 0.0, squares: 0.0, num_higher: 0, num_lower: 0, is_binary: true }
    }
}

/// How B differs from A.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// How many pairs.
    pub num: u64,
    /// The mean in A, and in B.
    pub means: [f64; 2],
    /// The mean of `b - a`.
    pub mean: f64,
    /// Its 95 % confidence interval; `None` of a single pair.
    pub interval: Option<[f64; 2]>,
    /// How probable a difference at least this large is, were there none: two-sided.
    pub p: f64,
    /// The mean difference by the standard deviation of the differences: Cohen's d for pairs. `None` where all are equal.
    pub effect: Option<f64>,
    /// Pairs where B has more.
    pub num_higher: u64,
    /// Pairs where B has less.
    pub num_lower: u64,
    /// How interval and probability were found.
    pub test: Test,
}

/// How an interval and a probability were found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Student's t of the differences (1908).
    StudentT,
    /// For yes and no: McNemar's test (1947), exact; the interval of Agresti and Min (2005), Wald's with half a pair more in each cell.
    McNemar,
}

impl Test {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Test::StudentT => "paired_t",
            Test::McNemar => "mcnemar",
        }
    }
}

impl Paired {
    /// Adds a pair, unless one of them is no number.
    pub fn add(&mut self, a: f64, b: f64) {
        if !(a.is_finite() && b.is_finite()) {
            return;
        }
        self.num += 1;
        self.sum_a += a;
        self.sum_b += b;
        let difference = b - a;
        let deviation = difference - self.mean;
        self.mean += deviation / self.num as f64;
        self.squares += deviation * (difference - self.mean);
        self.num_higher += u64::from(b > a);
        self.num_lower += u64::from(b < a);
        self.is_binary &= [a, b].iter().all(|value| *value == 0.0 || *value == 1.0);
    }

    /// How many pairs there are.
    pub fn count(&self) -> u64 {
        self.num
    }

    /// What they say; `None` where there is none. Of a measure that is yes or no, McNemar's test is taken.
    pub fn difference(&self, is_yes_or_no: bool) -> Option<Difference> {
        if self.num == 0 {
            return None;
        }
        let num = self.num as f64;
        let variance = if self.num > 1 { self.squares.max(0.0) / (num - 1.0) } else { 0.0 };
        let deviation = variance.sqrt();
        let is_constant = deviation <= 1e-12 * self.mean.abs();
        let test = if is_yes_or_no && self.is_binary { Test::McNemar } else { Test::StudentT };
        let sign = || sign_test(self.num_higher, self.num_lower);
        let (interval, p) = match test {
            Test::McNemar => (Some(self.agresti_min()), sign()),
            // Where all pairs differ by the same, t says nothing.
            Test::StudentT if is_constant => ((self.num > 1).then_some([self.mean; 2]), sign()),
            Test::StudentT => {
                let (error, freedom) = (deviation / num.sqrt(), num - 1.0);
                let half = t_quantile(freedom) * error;
                (Some([self.mean - half, self.mean + half]), t_probability(self.mean / error, freedom))
            }
        };
        Some(Difference {
            num: self.num,
            means: [self.sum_a / num, self.sum_b / num],
            mean: self.mean,
            interval,
            p,
            effect: (!is_constant).then(|| self.mean / deviation),
            num_higher: self.num_higher,
            num_lower: self.num_lower,
            test,
        })
    }

    /// A. Agresti, Y. Min, *Simple improved confidence intervals for comparing matched proportions*, Statistics in Medicine 24 (2005).
    fn agresti_min(&self) -> [f64; 2] {
        let num = self.num as f64 + 2.0;
        let [higher, lower] = [self.num_higher, self.num_lower].map(|count| (count as f64 + 0.5) / num);
        let difference = higher - lower;
        let half = NORMAL * ((higher + lower - difference * difference) / num).sqrt();
        [(difference - half).max(-1.0), (difference + half).min(1.0)]
    }
}

/// The probabilities of several tests, corrected for their number: Holm's step-down procedure (1979). In the order of `probabilities`.
pub fn holm(probabilities: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]));
    let mut corrected = vec![1.0; probabilities.len()];
    let mut least: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        let left = (probabilities.len() - rank) as f64;
        least = least.max((left * probabilities[index]).min(1.0));
        corrected[index] = least;
    }
    corrected
}

/// How probable a t at least as far from 0 is.
fn t_probability(t: f64, freedom: f64) -> f64 {
    incomplete_beta(freedom / (freedom + t * t), freedom / 2.0, 0.5)
}

/// The t that a share of [`CONFIDENCE`] lies within.
fn t_quantile(freedom: f64) -> f64 {
    let (mut low, mut high) = (1.0, 16.0);
    while high - low > 1e-12 * high {
        let middle = (low + high) / 2.0;
        if t_probability(middle, freedom) > 1.0 - CONFIDENCE {
            low = middle
        } else {
            high = middle
        }
        if middle == low && middle == high {
            break;
        }
    }
    (low + high) / 2.0
}

/// The regularised incomplete beta function, by its continued fraction.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    // The fraction converges fast on one side of the mean alone.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp() / a;
    let safe = |number: f64| if number.abs() < 1e-300 { 1e-300 } else { number };
    let (mut c, mut d) = (1.0, 1.0 / safe(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for step in 1..10_000 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut last = 1.0;
        for term in [even, odd] {
            d = 1.0 / safe(1.0 + term * d);
            c = safe(1.0 + term / c);
            last = c * d;
            fraction *= last;
        }
        if (last - 1.0_f64).abs() < 1e-15 {
            break;
        }
    }
    front * fraction
}

/// Stirling's series, from where it is exact to a double's digits.
fn ln_gamma(x: f64) -> f64 {
    if x < 15.0 {
        return ln_gamma(x + 1.0) - x.ln();
    }
    let inverse = 1.0 / (x * x);
    let series =
        (1.0 / 12.0 - inverse * (1.0 / 360.0 - inverse * (1.0 / 1260.0 - inverse * (1.0 / 1680.0 - inverse / 1188.0)))) / x;
    (x - 0.5) * x.ln() - x + std::f64::consts::TAU.ln() / 2.0 + series
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() <= 1e-9 * wanted.abs().max(1e-3), "{found} {wanted}");
    }

    #[test]
    fn t_is_that_of_its_tables() {
        // `scipy.stats.t.ppf(0.975, freedom)`.
        for (freedom, wanted) in [
            (1.0, 12.706_204_736_174_694),
            (2.0, 4.302_652_729_749_462),
            (9.0, 2.262_157_162_798_204_6),
            (100.0, 1.983_971_518_523_552),
            (1e6, 1.959_966_356_707_606_4),
        ] {
            close(t_quantile(freedom), wanted);
        }
        // 1 of 1 degree of freedom: half of Cauchy's distribution; and closed forms of 2 and of 4.
        close(t_probability(1.0, 1.0), 0.5);
        close(t_probability(3.0, 2.0), 1.0 - 3.0 / 11_f64.sqrt());
        close(t_probability(0.0, 7.0), 1.0);
    }

    #[test]
    fn differences_are_those_of_the_pairs() {
        let mut paired = Paired::default();
        // Differences 1, 2, 3: mean 2, deviation 1.
        [(1.0, 2.0), (0.0, 2.0), (1.0, 4.0), (f64::NAN, 1.0)].into_iter().for_each(|(a, b)| paired.add(a, b));
        let found = paired.difference(false).expect("pairs");
        assert_eq!((found.num, found.num_higher, found.num_lower, found.test), (3, 3, 0, Test::StudentT));
        close(found.mean, 2.0);
        close(found.means[1] - found.means[0], 2.0);
        close(found.effect.expect("they vary"), 2.0);
        let half = 4.302_652_729_749_462 / 3_f64.sqrt();
        close(found.interval.expect("several")[0], 2.0 - half);
        // t = 2 * sqrt(3) with two degrees of freedom.
        close(found.p, 1.0 - (12_f64 / 14.0).sqrt());
        assert_eq!(Paired::default().difference(false), None);
    }

    #[test]
    fn what_never_varies_is_no_proof_by_itself() {
        let mut paired = Paired::default();
        (0..3).for_each(|_| paired.add(0.5, 0.25));
        let found = paired.difference(false).expect("pairs");
        assert_eq!((found.interval, found.effect), (Some([-0.25, -0.25]), None));
        close(found.p, 0.25);
        let mut same = Paired::default();
        (0..3).for_each(|_| same.add(0.5, 0.5));
        let found = same.difference(false).expect("pairs");
        assert_eq!((found.interval, found.p), (Some([0.0, 0.0]), 1.0));
        let mut one = Paired::default();
        one.add(0.0, 1.0);
        assert_eq!(one.difference(false).expect("one").interval, None);
    }

    #[test]
    fn yes_and_no_are_compared_by_the_pairs_that_differ() {
        let mut paired = Paired::default();
        let counts = [((1.0, 1.0), 10), ((1.0, 0.0), 8), ((0.0, 1.0), 1), ((0.0, 0.0), 5)];
        counts.into_iter().for_each(|((a, b), count)| (0..count).for_each(|_| paired.add(a, b)));
        let found = paired.difference(true).expect("pairs");
        assert_eq!(found.test, Test::McNemar);
        close(found.mean, -7.0 / 24.0);
        // `binomtest(1, 9).pvalue`.
        close(found.p, 0.0390625);
        let (lower, higher) = (8.5 / 26.0, 1.5 / 26.0);
        let half = NORMAL * ((lower + higher - (higher - lower) * (higher - lower)) / 26_f64).sqrt();
        let interval = found.interval.expect("several");
        close(interval[0], higher - lower - half);
        close(interval[1], higher - lower + half);
        // Means over several heatmaps of a sample are no yes or no any more.
        paired.add(0.5, 1.0);
        assert_eq!(paired.difference(true).expect("pairs").test, Test::StudentT);
    }

    #[test]
    fn holm_corrects_the_smallest_most() {
        let corrected = holm(&[0.04, 0.01, 0.03, 0.5]);
        // 4 * 0.01, 3 * 0.03, 2 * 0.04 raised to what came before it, 0.5.
        for (found, wanted) in corrected.iter().zip([0.09, 0.04, 0.09, 0.5]) {
            close(*found, wanted);
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }
}
