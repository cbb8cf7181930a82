//! How weakly supervised object localization is judged: `MaxBoxAccV2` and `PxAP` of Choe et al., *Evaluation for Weakly Supervised
//! Object Localization: Protocol, Metrics, and Datasets* (2020), <https://arxiv.org/abs/2007.04178>, as their evaluator
//! (clovaai/wsolevaluation) computes them, to the last bit of what it is given. tests/python/test_localize.py compares.

use super::{
    Pixel,
    components::{Neighbours, PixelBox, sweep},
};

/// At which IoU a box counts as found.
pub const IOU_THRESHOLDS: [f64; 3] = [0.3, 0.5, 0.7];

/// Thresholds on the map: 0, 0.001, ..., 0.999.
const STEPS: usize = 1000;

/// Bins of values: one from each threshold to the next, one for 1, and one for what is above, which stays empty.
const BINS: usize = STEPS + 2;

/// As numpy's `arange(0, 1, 0.001)` has it.
fn threshold(step: usize) -> f64 {
    step as f64 * 0.001
}

/// A labelled box (left, top, width and height in fractions of the image) in whole pixels of the map, cut down as the evaluator does:
/// first and last column and row.
pub fn whole_box([left, top, width, height]: [f64; 4], (rows, columns): (usize, usize)) -> [i64; 4] {
    let pixel = |fraction: f64, side: usize| (fraction.clamp(0.0, 1.0) * side as f64) as i64;
    [pixel(left, columns), pixel(top, rows), pixel(left + width, columns), pixel(top + height, rows)]
}

/// The highest IoU of one of a map's boxes with one of the labelled, at each of the evaluator's thresholds. `levels` are
/// `floor(255 * value)`.
///
/// The boxes are those around the contours of what is above the threshold: of each component, and of each hole in one, whose contour
/// is the pixels around it.
///
/// # Panics
/// `levels` are not `height * width` many, or `truth` is empty.
pub fn best_overlaps(levels: &[u8], (height, width): (usize, usize), truth: &[[i64; 4]]) -> Vec<f64> {
    assert!(!truth.is_empty(), "there is nothing to overlap with");
    // The last column and row are the evaluator's: one further than the contour's, where the map has one.
    let of_contour = |[left, top, right, bottom]: [i64; 4]| {
        let found = [left, top, (right + 1).min(width as i64 - 1), (bottom + 1).min(height as i64 - 1)];
        truth.iter().map(|box_| iou(found, *box_)).fold(0.0, f64::max)
    };
    let signed = |PixelBox { left, top, right, bottom }: PixelBox| [left, top, right, bottom].map(i64::from);
    // By the level that pixels have to be above. Between two levels that occur nothing changes.
    let mut contours = [0.0_f64; 256];
    let mut last = None;
    sweep(levels, (height, width), Neighbours::Eight, 1, |level, components, _| {
        let level = usize::from(level);
        if let Some((above, found)) = last {
            contours[level..above].fill(found);
        }
        last = Some((level, components.iter().map(|component| of_contour(signed(component.bounds))).fold(0.0, f64::max)));
    });
    if let Some((above, found)) = last {
        contours[..above].fill(found);
    }
    let inverted: Vec<u8> = levels.iter().map(|level| 255 - level).collect();
    let mut holes = [0.0_f64; 256];
    let (mut from, mut current) = (0, 0.0);
    sweep(&inverted, (height, width), Neighbours::Four, 0, |level, components, _| {
        let level = usize::from(255 - level);
        holes[from..level].fill(current);
        let inner = components.iter().filter(|component| !component.bounds.is_at_side((height, width)));
        let around = |bounds: PixelBox| {
            let [left, top, right, bottom] = signed(bounds);
            of_contour([left - 1, top - 1, right + 1, bottom + 1])
        };
        current = inner.map(|component| around(component.bounds)).fold(0.0, f64::max);
        from = level;
    });
    holes[from..].fill(current);
    let highest = levels.iter().copied().max().unwrap_or(0);
    let at = |step: usize| {
        let level = (threshold(step) * f64::from(highest)) as usize;
        match level < usize::from(highest) {
            true => contours[level].max(holes[level]),
            // Where nothing is above it, the evaluator takes the first pixel.
            false => truth.iter().map(|box_| iou([0; 4], *box_)).fold(0.0, f64::max),
        }
    };
    (0..STEPS).map(at).collect()
}

/// Of boxes with their last columns and rows.
fn iou(one: [i64; 4], other: [i64; 4]) -> f64 {
    let area = |[left, top, right, bottom]: [i64; 4]| (right - left + 1) * (bottom - top + 1);
    let along = |first: usize, last: usize| (one[last].min(other[last]) - one[first].max(other[first]) + 1).max(0);
    let both = along(0, 2) * along(1, 3);
    let any = area(one) + area(other) - both;
    if any <= 0 { 0.0 } else { both as f64 / any as f64 }
}

/// Box accuracy over maps, at each threshold.
#[derive(Clone, Debug)]
pub struct BoxAccuracy {
    /// By IoU and threshold, how many maps have a box that is found.
    found: [Vec<u64>; IOU_THRESHOLDS.len()],
    num_maps: u64,
}

impl Default for BoxAccuracy {
    fn default() -> Self {
        BoxAccuracy { found: IOU_THRESHOLDS.map(|_| vec![0; STEPS]), num_maps: 0 }
    }
}

impl BoxAccuracy {
    /// Adds a map by its [`best_overlaps`].
    pub fn add(&mut self, overlaps: &[f64]) {
        self.num_maps += 1;
        for (found, least) in self.found.iter_mut().zip(IOU_THRESHOLDS) {
            found.iter_mut().zip(overlaps).for_each(|(found, overlap)| *found += u64::from(*overlap >= least));
        }
    }

    /// How many maps there are.
    pub fn num_maps(&self) -> u64 {
        self.num_maps
    }

    /// The share of maps in which a box is found, each IoU at its best threshold, in `[0, 1]`; `None` without maps.
    pub fn by_iou(&self) -> Option<[f64; IOU_THRESHOLDS.len()]> {
        let best = |found: &Vec<u64>| found.iter().copied().max().unwrap_or(0) as f64 / self.num_maps as f64;
        (self.num_maps > 0).then(|| [best(&self.found[0]), best(&self.found[1]), best(&self.found[2])])
    }

    /// `MaxBoxAccV2`: their mean.
    pub fn max_box_acc_v2(&self) -> Option<f64> {
        self.by_iou().map(|by_iou| by_iou.iter().sum::<f64>() / IOU_THRESHOLDS.len() as f64)
    }
}

/// The values of pixels over maps, of the object and of what is beside it.
#[derive(Clone, Debug)]
pub struct PixelPrecision {
    object: Vec<u64>,
    other: Vec<u64>,
}

impl Default for PixelPrecision {
    fn default() -> Self {
        PixelPrecision { object: vec![0; BINS], other: vec![0; BINS] }
    }
}

impl PixelPrecision {
    /// Adds a map.
    ///
    /// # Panics
    /// The slices are not equally long.
    pub fn add(&mut self, values: &[f32], truth: &[Pixel]) {
        assert_eq!(values.len(), truth.len(), "maps of different sizes");
        for (value, pixel) in values.iter().zip(truth) {
            match pixel {
                Pixel::Object => self.object[bin(f64::from(*value))] += 1,
                Pixel::Other => self.other[bin(f64::from(*value))] += 1,
                Pixel::Ignored => {}
            }
        }
    }

    /// Adds the maps of another one.
    pub fn merge(&mut self, other: &PixelPrecision) {
        let parts = [(&mut self.object, &other.object), (&mut self.other, &other.other)];
        parts.into_iter().for_each(|(own, more)| own.iter_mut().zip(more).for_each(|(own, more)| *own += more));
    }

    /// `PxAP`: the area under precision by recall over all pixels of all maps, in `[0, 1]`; `None` without pixels of objects.
    pub fn px_ap(&self) -> Option<f64> {
        let all: u64 = self.object.iter().sum();
        if all == 0 {
            return None;
        }
        let (mut inside, mut outside, mut recall, mut area) = (0, 0, 0.0, 0.0);
        for (object, other) in self.object.iter().zip(&self.other).rev() {
            inside += object;
            outside += other;
            let before = recall;
            recall = inside as f64 / all as f64;
            if inside + outside > 0 {
                area += inside as f64 / (inside + outside) as f64 * (recall - before);
            }
        }
        Some(area)
    }
}

/// The last threshold that a value reaches, or 1.
fn bin(value: f64) -> usize {
    if value >= 1.0 {
        return STEPS;
    }
    let mut bin = ((value * STEPS as f64) as usize).min(STEPS - 1);
    // The product may be rounded past an edge.
    while bin + 1 < STEPS && value >= threshold(bin + 1) {
        bin += 1;
    }
    while bin > 0 && value < threshold(bin) {
        bin -= 1;
    }
    bin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_box_counts_at_each_threshold() {
        // A peak of 200 in a patch of 100, in a map of 10 x 10.
        let mut levels = vec![0; 100];
        (2..6).for_each(|row| levels[row * 10 + 2..row * 10 + 6].fill(100));
        levels[33] = 200;
        let overlaps = best_overlaps(&levels, (10, 10), &[[2, 2, 6, 6]]);
        // The patch is columns 2 to 5, and one more.
        assert_eq!(overlaps[0], 1.0);
        assert_eq!(overlaps[499], 1.0, "0.499 of 200 is 99");
        // The peak alone: two columns and rows of five.
        assert_eq!((overlaps[500], overlaps[999]), (4.0 / 25.0, 4.0 / 25.0));
        let mut accuracy = BoxAccuracy::default();
        accuracy.add(&overlaps);
        accuracy.add(&best_overlaps(&[0; 100], (10, 10), &[[2, 2, 6, 6]]));
        assert_eq!((accuracy.by_iou(), accuracy.max_box_acc_v2()), (Some([0.5; 3]), Some(0.5)));
        assert_eq!(BoxAccuracy::default().max_box_acc_v2(), None);
    }

    #[test]
    fn holes_have_contours_too() {
        // A frame of columns and rows 1 to 7 around a hole of 3 to 5.
        let mut levels = vec![0; 100];
        (1..8).for_each(|row| levels[row * 10 + 1..row * 10 + 8].fill(9));
        (3..6).for_each(|row| levels[row * 10 + 3..row * 10 + 6].fill(0));
        assert_eq!(best_overlaps(&levels, (10, 10), &[[2, 2, 7, 7]])[0], 1.0, "the hole's contour is 2 to 6");
        assert_eq!(best_overlaps(&levels, (10, 10), &[[1, 1, 8, 8]])[0], 1.0);
        // Open to the side, it is none.
        levels[4 * 10..4 * 10 + 3].fill(0);
        assert!(best_overlaps(&levels, (10, 10), &[[2, 2, 7, 7]])[0] < 1.0);
    }

    #[test]
    fn precision_falls_with_recall() {
        let mut precision = PixelPrecision::default();
        assert_eq!(precision.px_ap(), None);
        precision.add(&[1.0, 0.9, 0.5, 0.2, 0.95], &[Pixel::Object, Pixel::Other, Pixel::Object, Pixel::Other, Pixel::Ignored]);
        assert_eq!(precision.px_ap(), Some(0.5 * 1.0 + 0.5 * (2.0 / 3.0)));
    }

    #[test]
    fn values_are_counted_where_numpy_counts_them() {
        for step in 0..STEPS {
            assert_eq!(bin(threshold(step)), step, "{step}");
            if step > 0 {
                assert_eq!(bin(threshold(step).next_down()), step - 1, "{step}");
            }
        }
        assert_eq!((bin(1.0), bin(1.0_f64.next_down())), (STEPS, STEPS - 1));
    }
}
