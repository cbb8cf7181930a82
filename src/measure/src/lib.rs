//! Where the attention lies: numbers that say of one heatmap whether it is on the object, so that a model that looks at the
//! wrong place is found by sorting.
//!
//! Throughout, `h_i >= 0` is the heatmap's value at pixel `i`, `E` its sum (the *energy*), and `O` the pixels of the object among
//! the `N` pixels that the model saw. docs/measures.md has them all with their sources; each function says its own.

mod attention;
mod counterfactual;
pub mod localization;
mod ranks;
mod sample;
mod similarity;

use camflow_media::BinaryMask;
use camflow_names::Choice;

pub use attention::{Attention, attended_class};
pub use counterfactual::{LEAST_COST, context_reliance};
pub use ranks::rank_correlation;
pub use sample::{MeasuredHeatmap, MeasuredSample, Series, StoredDetection, StoredPrediction};
pub use similarity::{ENTROPY_BINS, SSIM_WINDOW, discrete_entropy, pearson, relative_change, spearman, ssim};

/// What can be measured of a heatmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// Share of the energy on the object, `sum_{i in O} h_i / E`, in `[0, 1]`: the energy-based pointing game of Wang et al.,
    /// *Score-CAM* (2020), <https://arxiv.org/abs/1910.01279>, section 4.3.
    EnergyInside,
    /// [`Measure::EnergyInside`] by the object's share of the area, `|O| / N`: 1 is no better than chance, below 1 the model
    /// looks elsewhere. The weighted ratio of Kohlbrenner et al. (2020), <https://arxiv.org/abs/1910.09840>, section 3.
    EnergyRatio,
    /// Whether a pixel with the highest value is one of the object's, 1 or 0: the pointing game of Zhang et al., *Top-down Neural
    /// Attention by Excitation Backprop* (2016), <https://arxiv.org/abs/1608.00507>, without its margin of 15 pixels.
    PointingHit,
    /// Intersection over union of the object and the pixels at or above a threshold, at the best of the 255 thresholds
    /// `1/255, ..., 1` that the 8-bit picture can have, in `[0, 1]`. As Choe et al. judge localisation, *Evaluating Weakly
    /// Supervised Object Localization Methods Right* (2020), <https://arxiv.org/abs/2001.07437>, here against the mask and image
    /// by image.
    BestIou,
    /// The threshold of [`Measure::BestIou`], the lowest of several.
    BestThreshold,
    /// Distance between the heatmap's centre of mass and the object's, in fractions of the map's diagonal, in `[0, 1]`.
    CenterOffset,
    /// The object's share of the pixels that the model saw, `|O| / N`, in `(0, 1]`.
    ObjectArea,
    /// How spread out the heatmap is, in `[0, 1]`: Shannon's entropy of `p_i = h_i / E`, `-sum_i p_i ln p_i / ln N`. 0 is a
    /// single pixel, 1 is even. The complexity of Bhatt et al. (2020), <https://arxiv.org/abs/2005.00631>, by its maximum.
    Entropy,
    /// Spearman's rank correlation with the heatmap of the layer before it, in `[-1, 1]`: see [`rank_correlation`].
    RankCorrelation,
    /// The model's confidence in the class, its softmax probability `c`, in `[0, 1]`; in a segmentation network the mean over
    /// the pixels that count. This and those below are known where the model was asked again (`--faithfulness`).
    Confidence,
    /// The part of the confidence that is lost when each pixel of the input is multiplied with the heatmap, `max(0, c - c') / c`,
    /// in `[0, 1]`. Its mean is the average drop of Chattopadhyay et al., *Grad-CAM++* (2018), <https://arxiv.org/abs/1710.11063>.
    ConfidenceDrop,
    /// Whether the confidence rises then, 1 or 0. Its mean is the increase in confidence of the same paper.
    ConfidenceIncrease,
    /// Area under the confidence while pixels become zero (the mean image), the most relevant first, in `[0, 1]`: low is
    /// faithful. Petsiuk et al., *RISE* (2018), <https://arxiv.org/abs/1806.07421>.
    DeletionAuc,
    /// Area under the confidence while the pixels of a blurred image become sharp, the most relevant first, in `[0, 1]`: high is
    /// faithful. The same paper.
    InsertionAuc,
    /// Half of the difference between the confidence without the least relevant pixels and without the most relevant, both
    /// filled in, over 10 to 90 % of them, in `[-0.5, 0.5]`: high is faithful. Rong et al., *A Consistent and Efficient Evaluation
    /// Strategy for Attribution Methods* (2022), <https://arxiv.org/abs/2202.00449>, combined as pytorch_grad_cam does.
    Road,
    /// The confidence, in `[0, 1]`, in the image whose object is replaced. This and those below are known where the model was asked
    /// about such images (`--counterfactuals`), and the heatmap has an object that is not all that the model saw. Of layer and method
    /// neither this nor the next one knows.
    ConfidenceWithoutObject,
    /// The same where everything but the object is replaced.
    ConfidenceWithoutBackground,
    /// The same where the most attended region outside of the object is replaced, as many pixels as the object has, or all with
    /// attention outside of it where those are fewer. `None` also where there are none.
    ConfidenceWithoutAttended,
    /// What replacing the background costs, by what replacing object and background cost, in `[0, 1]`: see [`context_reliance`].
    ContextReliance,
}

impl Choice for Measure {
    const ALL: &'static [Self] = &[
        Measure::EnergyInside,
        Measure::EnergyRatio,
        Measure::PointingHit,
        Measure::BestIou,
        Measure::BestThreshold,
        Measure::CenterOffset,
        Measure::ObjectArea,
        Measure::Entropy,
        Measure::RankCorrelation,
        Measure::Confidence,
        Measure::ConfidenceDrop,
        Measure::ConfidenceIncrease,
        Measure::DeletionAuc,
        Measure::InsertionAuc,
        Measure::Road,
        Measure::ConfidenceWithoutObject,
        Measure::ConfidenceWithoutBackground,
        Measure::ConfidenceWithoutAttended,
        Measure::ContextReliance,
    ];

    /// Its attribute on labels.
    fn name(self) -> &'static str {
        match self {
            Measure::EnergyInside => "energy_inside",
            Measure::EnergyRatio => "energy_ratio",
            Measure::PointingHit => "pointing_hit",
            Measure::BestIou => "best_iou",
            Measure::BestThreshold => "best_threshold",
            Measure::CenterOffset => "center_offset",
            Measure::ObjectArea => "object_area",
            Measure::Entropy => "entropy",
            Measure::RankCorrelation => "rank_correlation",
            Measure::Confidence => "confidence",
            Measure::ConfidenceDrop => "confidence_drop",
            Measure::ConfidenceIncrease => "confidence_increase",
            Measure::DeletionAuc => "deletion_auc",
            Measure::InsertionAuc => "insertion_auc",
            Measure::Road => "road",
            Measure::ConfidenceWithoutObject => "confidence_without_object",
            Measure::ConfidenceWithoutBackground => "confidence_without_background",
            Measure::ConfidenceWithoutAttended => "confidence_without_attended",
            Measure::ContextReliance => "context_reliance",
        }
    }
}

impl Measure {
    /// Whether it is yes or no rather than a number.
    pub fn is_yes_or_no(self) -> bool {
        matches!(self, Measure::PointingHit | Measure::ConfidenceIncrease)
    }
}

/// The numbers of one heatmap. One that is not defined for it (a map of zeros, a target without a mask) is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measures([Option<f64>; Measure::ALL.len()]);

impl Measures {
    /// Of a measure; 1 and 0 for yes and no.
    pub fn get(&self, measure: Measure) -> Option<f64> {
        self.0[measure as usize]
    }

    /// The same with another number for a measure.
    #[must_use]
    pub fn with(mut self, measure: Measure, value: impl Into<Option<f64>>) -> Self {
        self.0[measure as usize] = value.into();
        self
    }

    /// These, and those of `others` that are not defined here.
    #[must_use]
    pub fn or(mut self, others: Measures) -> Self {
        for (own, other) in self.0.iter_mut().zip(others.0) {
            *own = own.or(other);
        }
        self
    }
}

/// A heatmap with what is needed to measure it. All slices and masks are `[height, width]`, row by row.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// In `[0, 1]`.
    pub values: &'a [f32],
    /// `round(255 * value)`.
    pub levels: &'a [u8],
    /// The pixels that the model saw; `None` where it saw all. Of the others nothing is known, so they count nowhere.
    pub seen: Option<&'a BinaryMask>,
}

impl Measured<'_> {
    fn is_seen(&self, pixel: usize) -> bool {
        self.seen.is_none_or(|seen| seen.pixels[pixel] != 0)
    }

    /// All but the rank correlation, which takes two, and those that ask the model. Without an object those that need none.
    ///
    /// # Panics
    /// If a slice or mask has another size than the heatmap.
    pub fn measures(&self, object: Option<&BinaryMask>) -> Measures {
        let size = self.height * self.width;
        assert!(self.values.len() == size && self.levels.len() == size, "one value and level per pixel");
        assert!([self.seen, object].into_iter().flatten().all(|mask| mask.pixels.len() == size), "masks of the map's size");
        let sums = sums(self, object);
        if sums.energy <= 0.0 {
            let object_area = (sums.object > 0).then(|| sums.object as f64 / sums.seen as f64);
            return Measures::default().with(Measure::ObjectArea, object_area);
        }
        // -sum p ln p with p = h / E.
        let entropy = sums.energy.ln() - sums.plogp / sums.energy;
        let entropy = if sums.seen > 1 { entropy / (sums.seen as f64).ln() } else { 0.0 };
        let measures = Measures::default().with(Measure::Entropy, entropy.clamp(0.0, 1.0));
        if sums.object == 0 {
            return measures;
        }
        let area = sums.object as f64 / sums.seen as f64;
        let inside = sums.energy_inside / sums.energy;
        let (iou, threshold) = sums.best_iou();
        let center = |[y, x]: [f64; 2], mass: f64| [y / mass, x / mass];
        let [heat_y, heat_x] = center(sums.heat_center, sums.energy);
        let [object_y, object_x] = center(sums.object_center, sums.object as f64);
        let diagonal = (self.height as f64).hypot(self.width as f64);
        measures
            .with(Measure::EnergyInside, inside)
            .with(Measure::EnergyRatio, inside / area)
            .with(Measure::PointingHit, f64::from(u8::from(sums.highest_inside >= sums.highest)))
            .with(Measure::BestIou, iou)
            .with(Measure::BestThreshold, threshold)
            .with(Measure::CenterOffset, (heat_y - object_y).hypot(heat_x - object_x) / diagonal)
            .with(Measure::ObjectArea, area)
    }

    fn row<'b, T>(&self, y: usize, of: &'b [T]) -> &'b [T] {
        &of[y * self.width..(y + 1) * self.width]
    }

    /// Whether a row is zero everywhere, as most rows of a small object's heatmap are.
    fn has_no_heat(&self, y: usize) -> bool {
        // Both are looked through as a whole, which is quicker than stopping at the first one.
        let is_zero = self.row(y, self.values).iter().fold(true, |so_far, value| so_far & (*value == 0.0));
        is_zero && self.row(y, self.levels).iter().fold(0, |so_far, level| so_far | level) == 0
    }
}

/// One pass over the pixels, with the widest instructions that the processor has: no number depends on them.
#[multiversion::multiversion(targets("x86_64+avx2"))]
fn sums<'a>(map: &Measured<'a>, object: Option<&BinaryMask>) -> Sums {
    let mut sums = Sums::default();
    // What stands for a mask that is not there.
    let (all, none) = (vec![1; map.width], vec![0; map.width]);
    let (mut heat, mut inside) = (vec![0.0; map.width], vec![0.0; map.width]);
    for y in 0..map.height {
        let seen = map.seen.map_or(&all[..], |seen| map.row(y, &seen.pixels));
        let object = object.map_or(&none[..], |object| map.row(y, &object.pixels));
        let (num_seen, num_inside) = sums.count(y, seen, object);
        if num_inside > 0 {
            sums.highest_inside = sums.highest_inside.max(0.0);
        }
        if map.has_no_heat(y) {
            sums.by_level[0][0] += num_seen - num_inside;
            sums.by_level[1][0] += num_inside;
            continue;
        }
        for ((level, seen), object) in map.row(y, map.levels).iter().zip(seen).zip(object) {
            sums.by_level[usize::from(*object != 0)][usize::from(*level)] += u64::from(*seen != 0);
        }
        // Sums of a row first: a million small numbers added to a large one would lose digits.
        keep_where_set(map.row(y, map.values), seen, &mut heat);
        let energy = sum(&heat, |value, _| value.into());
        sums.energy += energy;
        sums.plogp += sum(&heat, |value, _| f64::from(value) * natural_logarithm(value));
        sums.heat_center[0] += energy * y as f64;
        sums.heat_center[1] += sum(&heat, |value, x| f64::from(value) * x as f64);
        sums.highest = sums.highest.max(largest(&heat));
        if num_inside > 0 {
            keep_where_set(&heat, object, &mut inside);
            sums.energy_inside += sum(&inside, |value, _| value.into());
            sums.highest_inside = sums.highest_inside.max(largest(&inside));
        }
    }
    sums
}

/// The values where a mask is set, and zeros.
fn keep_where_set(values: &[f32], mask: &[u8], kept: &mut [f32]) {
    for ((kept, value), mask) in kept.iter_mut().zip(values).zip(mask) {
        // As a choice it would be a jump for every pixel.
        *kept = f32::from_bits(value.to_bits() & u32::from(*mask != 0).wrapping_neg());
    }
}

/// The sum of what is made of each value and its place.
fn sum(values: &[f32], of: impl Fn(f32, usize) -> f64) -> f64 {
    /// A compiler may add them at once.
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let (parts, rest) = values.as_chunks::<LANES>();
    for (number, part) in parts.iter().enumerate() {
        for lane in 0..LANES {
            sums[lane] += of(part[lane], number * LANES + lane);
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        sums[lane] += of(*value, parts.len() * LANES + lane);
    }
    sums.iter().sum()
}

/// The largest value, at least 0.
fn largest(values: &[f32]) -> f64 {
    values.iter().copied().fold(0.0, f32::max).into()
}

/// Of a positive number, to a double's last digits; of zero and of numbers below the smallest normal one some finite number. Unlike
/// the library's it has no branch, so that those of several numbers are taken at once.
fn natural_logarithm(value: f32) -> f64 {
    /// `sqrt(1/2)`, where mantissas begin here.
    const LEAST: u32 = 0x3f35_04f3;
    const MANTISSA_BITS: u32 = 23;
    let above = value.to_bits().wrapping_sub(LEAST) as i32;
    let exponent = above >> MANTISSA_BITS;
    let mantissa = f64::from(f32::from_bits(((above & ((1 << MANTISSA_BITS) - 1)) as u32).wrapping_add(LEAST)));
    // ln m = 2 artanh s = 2 (s + s^3/3 + s^5/5 ...) with s = (m - 1) / (m + 1), here at most 0.172.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = (1..10).rev().fold(1.0 / 21.0, |sum, term| sum * square + 1.0 / f64::from(2 * term + 1));
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * (s + s * square * series)
}

/// What one pass over the pixels gives.
struct Sums {
    seen: u64,
    object: u64,
    energy: f64,
    energy_inside: f64,
    /// `sum h ln h`
    plogp: f64,
    highest: f64,
    highest_inside: f64,
    /// `sum h y`, `sum h x`
    heat_center: [f64; 2],
    /// `sum y`, `sum x` over the object.
    object_center: [f64; 2],
    /// Pixels by level: outside of the object, and on it.
    by_level: [[u64; 256]; 2],
}

impl Default for Sums {
    fn default() -> Self {
        Sums {
            seen: 0,
            object: 0,
            energy: 0.0,
            energy_inside: 0.0,
            plogp: 0.0,
            highest: 0.0,
            // Below every value, so that an empty object is never hit.
            highest_inside: -1.0,
            heat_center: [0.0; 2],
            object_center: [0.0; 2],
            by_level: [[0; 256]; 2],
        }
    }
}

impl Sums {
    /// Counts the pixels of a row that the model saw, and the object's among them; both are given.
    fn count(&mut self, y: usize, seen: &[u8], object: &[u8]) -> (u64, u64) {
        let (mut num_seen, mut num_object, mut columns) = (0, 0, 0);
        for (x, (seen, object)) in seen.iter().zip(object).enumerate() {
            let is_seen = u64::from(*seen != 0);
            let counts = is_seen & u64::from(*object != 0);
            num_seen += is_seen;
            num_object += counts;
            columns += counts * x as u64;
        }
        self.seen += num_seen;
        self.object += num_object;
        // Whole numbers, which no sum rounds.
        self.object_center[0] += num_object as f64 * y as f64;
        self.object_center[1] += columns as f64;
        (num_seen, num_object)
    }

    /// The best intersection over union, and the lowest threshold that has it.
    fn best_iou(&self) -> (f64, f64) {
        let [outside, inside] = &self.by_level;
        let (mut above_outside, mut above_inside) = (0, 0);
        let mut best = (0.0, 1.0);
        for level in (1..256).rev() {
            above_outside += outside[level];
            above_inside += inside[level];
            let iou = above_inside as f64 / (self.object + above_outside) as f64;
            if iou >= best.0 {
                best = (iou, level as f64 / 255.0);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measures(values: &[f32], width: usize, object: &[u8], seen: Option<&[u8]>) -> Measures {
        let height = values.len() / width;
        let mask = |pixels: &[u8]| BinaryMask { height, width, pixels: pixels.to_vec() };
        let levels: Vec<u8> = values.iter().map(|value| (255.0 * value + 0.5) as u8).collect();
        let seen = seen.map(mask);
        let map = Measured { height, width, values, levels: &levels, seen: seen.as_ref() };
        map.measures(Some(&mask(object)))
    }

    fn close(measured: Option<f64>, wanted: f64) {
        let measured = measured.expect("it is defined");
        assert!((measured - wanted).abs() < 1e-12, "{measured} {wanted}");
    }

    #[test]
    fn logarithms_are_those_of_doubles() {
        for value in (0..100_000).map(|number| f32::from_bits(0x0080_0000 + number * 10_570)) {
            let (found, wanted) = (natural_logarithm(value), f64::from(value).ln());
            assert!((found - wanted).abs() <= 4.0 * f64::EPSILON * wanted.abs().max(0.1), "{value}: {found} {wanted}");
        }
        assert_eq!(natural_logarithm(1.0), 0.0);
        assert!(natural_logarithm(0.0).is_finite() && natural_logarithm(f32::from_bits(1)).is_finite());
    }

    #[test]
    fn by_hand() {
        // 2 x 3 with an energy of 2; the object is the left column.
        let measures = measures(&[1.0, 0.5, 0.0, 0.25, 0.0, 0.25], 3, &[1, 0, 0, 1, 0, 0], None);
        close(measures.get(Measure::EnergyInside), 0.625);
        close(measures.get(Measure::ObjectArea), 1.0 / 3.0);
        close(measures.get(Measure::EnergyRatio), 1.875);
        assert_eq!(measures.get(Measure::PointingHit), Some(1.0));
        // At or above 1: 1 of 2. At or above 0.5: 1 of 3. At or above 0.25: 2 of 4.
        close(measures.get(Measure::BestIou), 0.5);
        close(measures.get(Measure::BestThreshold), 1.0 / 255.0);
        // The heat's centre is at y (0.25 + 0.25) / 2, x (0.5 + 0.5) / 2; the object's at (0.5, 0).
        close(measures.get(Measure::CenterOffset), 0.25_f64.hypot(0.5) / 13_f64.sqrt());
        // p = 1/2, 1/4, 1/8, 1/8: 1.75 bits of log2(6).
        close(measures.get(Measure::Entropy), 1.75 / 6_f64.log2());
    }

    /// Rows without heat are counted at once. Turned on its side, the same map has none.
    #[test]
    fn rows_without_heat_count_as_pixel_by_pixel() {
        const SIDE: usize = 6;
        let turned =
            |pixels: &[u8]| -> Vec<u8> { (0..SIDE * SIDE).map(|pixel| pixels[pixel % SIDE * SIDE + pixel / SIDE]).collect() };
        let mut values = [0f32; SIDE * SIDE];
        for (column, value) in [0.5, 1.0, 0.25, 0.75, 0.5, 0.25].into_iter().enumerate() {
            values[2 * SIDE + column] = value;
            values[3 * SIDE + column] = value / 2.0;
        }
        let side: Vec<f32> = (0..SIDE * SIDE).map(|pixel| values[pixel % SIDE * SIDE + pixel / SIDE]).collect();
        let mask = |is_set: fn(usize, usize) -> bool| -> Vec<u8> {
            (0..SIDE * SIDE).map(|pixel| u8::from(is_set(pixel / SIDE, pixel % SIDE))).collect()
        };
        let seen = mask(|row, column| row + column > 0 && column < 5);
        for object in [mask(|row, column| row < 3 && column > 1), mask(|row, _| row == 5), mask(|_, _| false)] {
            for seen in [None, Some(&seen[..])] {
                let found = measures(&values, SIDE, &object, seen);
                let wanted = measures(&side, SIDE, &turned(&object), seen.map(turned).as_deref());
                for measure in Measure::ALL {
                    match (found.get(*measure), wanted.get(*measure)) {
                        (Some(found), Some(wanted)) => assert!((found - wanted).abs() < 1e-12, "{measure:?}: {found} {wanted}"),
                        (found, wanted) => assert_eq!(found, wanted, "{measure:?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_model_did_not_see_counts_nowhere() {
        let whole = measures(&[1.0, 0.5, 0.25], 3, &[0, 1, 0], None);
        let cropped = measures(&[0.9, 1.0, 0.5, 0.25], 4, &[1, 0, 1, 0], Some(&[0, 1, 1, 1]));
        for (of_whole, of_cropped) in [
            (whole.get(Measure::EnergyInside), cropped.get(Measure::EnergyInside)),
            (whole.get(Measure::ObjectArea), cropped.get(Measure::ObjectArea)),
            (whole.get(Measure::BestIou), cropped.get(Measure::BestIou)),
            (whole.get(Measure::Entropy), cropped.get(Measure::Entropy)),
        ] {
            close(of_cropped, of_whole.expect("it is defined"));
        }
        assert_eq!((whole.get(Measure::PointingHit), cropped.get(Measure::PointingHit)), (Some(0.0), Some(0.0)));
    }

    #[test]
    fn a_uniform_map_is_chance() {
        let measures = measures(&[0.5; 8], 4, &[1, 1, 0, 0, 0, 0, 0, 0], None);
        close(measures.get(Measure::EnergyRatio), 1.0);
        close(measures.get(Measure::Entropy), 1.0);
        assert_eq!(measures.get(Measure::PointingHit), Some(1.0), "one of the highest lies on the object");
    }

    #[test]
    fn what_is_not_defined_is_none() {
        let none = measures(&[0.0; 4], 2, &[1, 0, 0, 0], None);
        assert_eq!(none, Measures::default().with(Measure::ObjectArea, 0.25));
        let without = measures(&[0.0, 1.0], 2, &[0, 0], None);
        assert_eq!(without, Measures::default().with(Measure::Entropy, 0.0));
    }
}
