//! How alike two maps of one image are, pixel by pixel, and how far a map moves: what sanity checks of explanations ask. The numbers
//! are those of Quantus (Hedström et al. 2023, <https://arxiv.org/abs/2202.06861>) for the same pair of maps.

/// Pearson's correlation of two maps, in `[-1, 1]`: `quantus.similarity_func.correlation_pearson`. `None` where one of them is the same
/// everywhere, or they differ in length.
pub fn pearson(map: &[f32], other: &[f32]) -> Option<f64> {
    correlation(
        &map.iter().copied().map(f64::from).collect::<Vec<_>>(),
        &other.iter().copied().map(f64::from).collect::<Vec<_>>(),
    )
}

/// Spearman's rank correlation of two maps, in `[-1, 1]`: `quantus.similarity_func.correlation_spearman`, Pearson's of the ranks of
/// their pixels, equal values sharing the mean of their ranks. `None` where one of them is the same everywhere, they differ in length,
/// or a value is no number.
///
/// Unlike [`rank_correlation`](crate::rank_correlation) it is taken of the floats.
pub fn spearman(map: &[f32], other: &[f32]) -> Option<f64> {
    correlation(&ranks(map)?, &ranks(other)?)
}

/// The rank of each value, equal ones sharing the mean of their ranks; `None` where one is no number.
fn ranks(values: &[f32]) -> Option<Vec<f64>> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let value = values[order[first]];
        // Not by `total_cmp`, for which zero and its negative differ.
        let mut end = first + 1;
        while end < order.len() && values[order[end]] == value {
            end += 1;
        }
        // Ranks `first + 1` to `end`.
        let rank = (first + 1 + end) as f64 / 2.0;
        order[first..end].iter().for_each(|place| ranks[*place] = rank);
        first = end;
    }
    Some(ranks)
}

fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.is_empty() {
        return None;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let is_constant = |values: &[f64]| values.iter().all(|value| *value == values[0]);
    if is_constant(a) || is_constant(b) {
        return None;
    }
    let (mut product, mut square_a, mut square_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - mean_a, b - mean_b);
        product += a * b;
        square_a += a * a;
        square_b += b * b;
    }
    let norm = square_a.sqrt() * square_b.sqrt();
    (norm > 0.0 && product.is_finite()).then(|| (product / norm).clamp(-1.0, 1.0))
}

/// Side of the window that [`ssim`] slides over maps, in pixels.
pub const SSIM_WINDOW: usize = 7;

/// The structural similarity of two maps `[height, width]`, in `[-1, 1]`, 1 for equal ones: `quantus.similarity_func.ssim`, which is
/// scikit-image's with a uniform window of 7 x 7 pixels, sample covariances, and the range of both maps together as the range of
/// values. `None` where a side is shorter than the window, or both maps are one and the same number everywhere.
///
/// Wang et al., *Image Quality Assessment: From Error Visibility to Structural Similarity* (2004); Adebayo et al. compare saliency maps
/// by it, <https://arxiv.org/abs/1810.03292>.
pub fn ssim(map: &[f32], other: &[f32], (height, width): (usize, usize)) -> Option<f64> {
    if map.len() != height * width || other.len() != map.len() || height.min(width) < SSIM_WINDOW {
        return None;
    }
    let both = || map.iter().chain(other).copied().map(f64::from);
    let range = both().fold(f64::NEG_INFINITY, f64::max) - both().fold(f64::INFINITY, f64::min);
    if !(range > 0.0 && range.is_finite()) {
        return None;
    }
    // Sums over all windows, of values, squares and products.
    let sums = |value: &dyn Fn(usize) -> f64| window_sums(value, (height, width));
    let (a, b) = (|place: usize| f64::from(map[place]), |place: usize| f64::from(other[place]));
    let [sum_a, sum_b] = [sums(&a), sums(&b)];
    let [square_a, square_b] = [sums(&|place| a(place) * a(place)), sums(&|place| b(place) * b(place))];
    let product = sums(&|place| a(place) * b(place));
    let count = (SSIM_WINDOW * SSIM_WINDOW) as f64;
    let (c1, c2) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
    let total: f64 = (0..sum_a.len())
        .map(|window| {
            let (mean_a, mean_b) = (sum_a[window] / count, sum_b[window] / count);
            let covariance = |sum: f64, means: f64| count / (count - 1.0) * (sum / count - means);
            let (variance_a, variance_b) =
                (covariance(square_a[window], mean_a * mean_a), covariance(square_b[window], mean_b * mean_b));
            let covariance = covariance(product[window], mean_a * mean_b);
            (2.0 * mean_a * mean_b + c1) * (2.0 * covariance + c2)
                / ((mean_a * mean_a + mean_b * mean_b + c1) * (variance_a + variance_b + c2))
        })
        .sum();
    Some(total / sum_a.len() as f64)
}

/// The sum of each window that lies within the map, row by row.
fn window_sums(value: &dyn Fn(usize) -> f64, (height, width): (usize, usize)) -> Vec<f64> {
    let columns = width + 1 - SSIM_WINDOW;
    let mut rows = vec![0.0; height * columns];
    for row in 0..height {
        let values: Vec<f64> = (0..width).map(|column| value(row * width + column)).collect();
        for (column, window) in values.windows(SSIM_WINDOW).enumerate() {
            rows[row * columns + column] = window.iter().sum();
        }
    }
    let lines = height + 1 - SSIM_WINDOW;
    let sum = |line: usize, column: usize| (line..line + SSIM_WINDOW).map(|row| rows[row * columns + column]).sum();
    (0..lines).flat_map(|line| (0..columns).map(move |column| (line, column))).map(|(line, column)| sum(line, column)).collect()
}

/// How far a map moves, by its size: `|map - other| / |map|` with Frobenius' norm, at least 0. Its mean over small changes of the input
/// is the average sensitivity, its largest the maximum sensitivity, as Quantus has them (`AvgSensitivity`, `MaxSensitivity`). `None`
/// where the map is zero everywhere.
///
/// Yeh et al., *On the (In)fidelity and Sensitivity of Explanations* (2019), <https://arxiv.org/abs/1901.09392>.
pub fn relative_change(map: &[f32], other: &[f32]) -> Option<f64> {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let size = norm(&mut map.iter().copied().map(f64::from));
    let change = norm(&mut map.iter().zip(other).map(|(map, other)| f64::from(map - other)));
    (map.len() == other.len() && size > 0.0 && change.is_finite()).then(|| change / size)
}

/// How many equal bins [`discrete_entropy`] sorts values into.
pub const ENTROPY_BINS: usize = 100;

/// How complex a map is, at least 0: the entropy, in nats, of the histogram of its values in 100 bins of equal width from the lowest to
/// the highest, `quantus.complexity_func.discrete_entropy`. `None` of a map without values or with one that is no finite number.
///
/// Hedström et al., *Sanity Checks Revisited* (2024), <https://arxiv.org/abs/2401.06465>: a map of a model without anything learnt is
/// more complex, so that its rise says what similarities with another random map say, without their noise.
pub fn discrete_entropy(map: &[f32]) -> Option<f64> {
    if map.is_empty() || map.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let values = || map.iter().copied().map(f64::from);
    let (mut least, mut most) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    if least == most {
        (least, most) = (least - 0.5, most + 0.5);
    }
    let step = (most - least) / ENTROPY_BINS as f64;
    let edge = |bin: usize| if bin == ENTROPY_BINS { most } else { least + bin as f64 * step };
    let mut counts = [0u64; ENTROPY_BINS];
    for value in values() {
        let mut bin = (((value - least) / (most - least) * ENTROPY_BINS as f64) as usize).min(ENTROPY_BINS - 1);
        // Division rounds: edges decide, as in numpy. The last bin has its upper edge.
        if value < edge(bin) {
            bin -= 1;
        } else if bin + 1 < ENTROPY_BINS && value >= edge(bin + 1) {
            bin += 1;
        }
        counts[bin] += 1;
    }
    let total = map.len() as f64;
    let shares = counts.iter().filter(|count| **count > 0).map(|count| *count as f64 / total);
    Some(-shares.map(|share| share * share.ln()).sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, wanted: f64) {
        let found = found.expect("defined");
        assert!((found - wanted).abs() < 1e-9, "{found} instead of {wanted}");
    }

    #[test]
    fn correlations_by_hand() {
        close(pearson(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]), 1.0);
        close(pearson(&[0.0, 1.0], &[1.0, 0.0]), -1.0);
        // Means 2 and 3: products 1 + 0 - 0, squares 2 and 2.
        close(pearson(&[1.0, 2.0, 3.0], &[2.0, 4.0, 3.0]), 0.5);
        close(spearman(&[0.1, 0.2, 0.3], &[10.0, 11.0, 500.0]), 1.0);
        // Ranks 1.5 1.5 3 4 and 2 1 3.5 3.5: less 2.5, the products add up to 4, the squares to 4.5 each.
        close(spearman(&[0.0, -0.0, 5.0, 9.0], &[2.0, 1.0, 7.0, 7.0]), 4.0 / 4.5);
    }

    #[test]
    fn what_is_not_defined_is_none() {
        let same = [0.3; 64];
        let other: Vec<f32> = (0..64).map(|value| value as f32).collect();
        assert_eq!((pearson(&same, &other), spearman(&other, &same)), (None, None));
        assert_eq!(pearson(&other, &other[1..]), None);
        assert_eq!(spearman(&[f32::NAN, 1.0], &[1.0, 2.0]), None);
        assert_eq!(ssim(&same, &same, (8, 8)), None);
        assert_eq!(ssim(&other[..48], &other[..48], (6, 8)), None);
        assert_eq!(relative_change(&[0.0, 0.0], &[1.0, 0.0]), None);
        assert_eq!(discrete_entropy(&[]), None);
    }

    #[test]
    fn equal_maps_are_structurally_equal_and_shifted_ones_less() {
        let map: Vec<f32> = (0..100).map(|place| ((place * 37) % 11) as f32 / 10.0).collect();
        close(ssim(&map, &map, (10, 10)), 1.0);
        // One window of constants `p` and `q`: the variances are 0, `(2 p q + c1) / (p^2 + q^2 + c1)` is left, `c1 = (0.01 |p - q|)^2`.
        let (p, q) = (0.25, 0.75);
        let c1 = (0.01f64 * 0.5).powi(2);
        close(ssim(&[p as f32; 49], &[q as f32; 49], (7, 7)), (2.0 * p * q + c1) / (p * p + q * q + c1));
        let negative: Vec<f32> = map.iter().map(|value| 1.0 - value).collect();
        assert!(ssim(&map, &negative, (10, 10)).expect("defined") < 0.0);
    }

    #[test]
    fn a_change_is_measured_by_the_maps_size() {
        close(relative_change(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        close(relative_change(&[3.0, 4.0], &[0.0, 0.0]), 1.0);
        close(relative_change(&[0.0, 2.0], &[1.0, 2.0]), 0.5);
    }

    #[test]
    fn entropy_by_hand() {
        close(discrete_entropy(&[0.5; 10]), 0.0);
        close(discrete_entropy(&[0.0, 1.0]), std::f64::consts::LN_2);
        // The highest value is in the last bin, an edge in the bin above it.
        close(discrete_entropy(&[0.0, 0.5, 0.505, 1.0]), 0.5 * 2f64.ln() + 0.5 * 4f64.ln());
    }
}
