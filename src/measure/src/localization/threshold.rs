//! Which threshold fits labelled objects best: the mean intersection over union (IoU) at each of a hundred thresholds, learnt and
//! tested on different maps.

use std::collections::HashMap;

use super::{
    Pixel,
    components::{Component, Neighbours, PixelBox, sweep},
};

/// Thresholds are hundredths of a map's highest value: 0.01 to 1.
pub const STEPS: usize = 100;

/// Parts that labelled maps are cut into, each of which is tested with what the others teach.
pub const FOLDS: usize = 5;

/// A threshold in hundredths, 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Threshold(u8);

impl Threshold {
    /// A share of a map's highest value, by which labels are cut where nobody knows better: Zhou et al. have 20 %, others 15.
    pub const USUAL: Threshold = Threshold(15);

    /// Of so many hundredths; `None` unless they are 1 to 100.
    pub fn of_hundredths(hundredths: u8) -> Option<Self> {
        (1..=STEPS as u8).contains(&hundredths).then_some(Threshold(hundredths))
    }

    /// Of a share; `None` unless it is a whole number of hundredths from 0.01 to 1.
    pub fn of_share(share: f64) -> Option<Self> {
        let hundredths = (share * STEPS as f64).round();
        let is_whole = (share * STEPS as f64 - hundredths).abs() < 1e-9;
        if is_whole && (1.0..=STEPS as f64).contains(&hundredths) { Self::of_hundredths(hundredths as u8) } else { None }
    }

    /// The share, in `(0, 1]`.
    pub fn share(self) -> f64 {
        f64::from(self.0) / STEPS as f64
    }

    fn index(self) -> usize {
        usize::from(self.0) - 1
    }
}

/// For each pixel the highest threshold, in hundredths, that it reaches: `value / highest >= hundredths / 100`; 0 where it reaches
/// none, and everywhere in a map without a value above 0.
pub fn steps(values: &[f32]) -> Vec<u8> {
    let highest = crate::largest(values);
    let step = |value: &f32| {
        let share = f64::from(*value) / highest;
        let mut step = (share * STEPS as f64) as usize;
        // The product may be rounded past a whole number.
        while step < STEPS && share >= (step + 1) as f64 / STEPS as f64 {
            step += 1;
        }
        while step > 0 && share < step as f64 / STEPS as f64 {
            step -= 1;
        }
        step as u8
    };
    if highest > 0.0 { values.iter().map(step).collect() } else { vec![0; values.len()] }
}

/// Which components of a map count as objects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxRule {
    /// The least share of the map's pixels that a component has.
    pub min_area: f64,
    /// Whether only the largest one counts.
    pub largest: bool,
}

impl BoxRule {
    /// Those that count, the largest first; of the same area the one whose first pixel comes first.
    fn kept(self, components: &[Component], num_pixels: usize) -> Vec<Component> {
        let least = self.min_area * num_pixels as f64;
        let mut kept: Vec<Component> =
            components.iter().copied().filter(|component| f64::from(component.area) >= least).collect();
        kept.sort_unstable_by_key(|component| {
            (std::cmp::Reverse(component.area), component.bounds.top, component.bounds.left, component.root)
        });
        if self.largest {
            kept.truncate(1);
        }
        kept
    }
}

/// The components at a threshold that count, the largest first, and for each pixel the number of its component, from 1; 0 for none.
/// Pixels are connected with all eight around them.
///
/// # Panics
/// `steps` are not `height * width` many.
pub fn components_at(steps: &[u8], size: (usize, usize), threshold: Threshold, rule: BoxRule) -> (Vec<Component>, Vec<u32>) {
    let marked: Vec<u8> = steps.iter().map(|step| u8::from(*step >= threshold.0)).collect();
    let (mut kept, mut numbers) = (Vec::new(), vec![0; steps.len()]);
    sweep(&marked, size, Neighbours::Eight, 1, |_, components, find| {
        kept = rule.kept(components, steps.len());
        let of_roots: HashMap<u32, u32> = kept.iter().zip(1..).map(|(component, number)| (component.root, number)).collect();
        for (pixel, number) in numbers.iter_mut().enumerate().filter(|(pixel, _)| marked[*pixel] != 0) {
            *number = of_roots.get(&find(pixel as u32)).copied().unwrap_or(0);
        }
    });
    (kept, numbers)
}

/// IoU at each threshold of the pixels that reach it with those of the object. Ignored pixels count nowhere.
///
/// # Panics
/// The slices are not equally long.
pub fn pixel_ious(steps: &[u8], truth: &[Pixel]) -> [f64; STEPS] {
    assert_eq!(steps.len(), truth.len(), "maps of different sizes");
    let mut by_step = [[0_u64; STEPS + 1]; 2];
    for (step, pixel) in steps.iter().zip(truth).filter(|(_, pixel)| **pixel != Pixel::Ignored) {
        by_step[usize::from(*pixel == Pixel::Object)][usize::from(*step)] += 1;
    }
    let [other, object] = by_step;
    let all: u64 = object.iter().sum();
    let (mut inside, mut outside) = (0, 0);
    let mut ious = [0.0; STEPS];
    for step in (1..=STEPS).rev() {
        inside += object[step];
        outside += other[step];
        ious[step - 1] = ratio(inside, all + outside);
    }
    ious
}

/// IoU at each threshold of the area that the boxes around the components cover together with that of the labelled boxes, which is
/// given pixel by pixel: not 0 where one is.
///
/// # Panics
/// The slices are not `height * width` long.
pub fn box_ious(steps: &[u8], (height, width): (usize, usize), truth: &[u8], rule: BoxRule) -> [f64; STEPS] {
    assert_eq!(truth.len(), height * width, "maps of different sizes");
    let all = truth.iter().filter(|pixel| **pixel != 0).count() as u64;
    let mut cover = Cover { height, width, changes: vec![0; height * width] };
    let (mut ious, mut last, mut above) = ([0.0; STEPS], (Vec::new(), 0.0), STEPS);
    sweep(steps, (height, width), Neighbours::Eight, 1, |step, components, _| {
        let step = usize::from(step);
        // Between two levels that occur nothing changes.
        ious[step..above].fill(last.1);
        let boxes: Vec<PixelBox> = rule.kept(components, steps.len()).into_iter().map(|component| component.bounds).collect();
        if boxes != last.0 {
            let (inside, covered) = cover.areas(&boxes, truth);
            last = (boxes, ratio(inside, all + covered - inside));
        }
        ious[step - 1] = last.1;
        above = step - 1;
    });
    ious[..above].fill(last.1);
    ious
}

/// Counts the pixels that boxes cover together.
struct Cover {
    height: usize,
    width: usize,
    /// Where a row enters a box or leaves one.
    changes: Vec<i32>,
}

impl Cover {
    /// How many of them `truth` has, and how many there are.
    fn areas(&mut self, boxes: &[PixelBox], truth: &[u8]) -> (u64, u64) {
        let Cover { height, width, changes } = self;
        changes.fill(0);
        for PixelBox { left, top, right, bottom } in boxes {
            for row in *top as usize..=*bottom as usize {
                changes[row * *width + *left as usize] += 1;
                if (*right as usize) + 1 < *width {
                    changes[row * *width + *right as usize + 1] -= 1;
                }
            }
        }
        let (mut inside, mut covered) = (0, 0);
        for row in 0..*height {
            let mut depth = 0;
            for pixel in row * *width..(row + 1) * *width {
                depth += changes[pixel];
                if depth > 0 {
                    covered += 1;
                    inside += u64::from(truth[pixel] != 0);
                }
            }
        }
        (inside, covered)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The IoU of labelled maps at each threshold, summed up: as much memory for a million as for one.
///
/// Maps are dealt to the folds in turn, in the order in which they come.
#[derive(Clone, Debug)]
pub struct ThresholdStudy {
    sums: [[f64; STEPS]; FOLDS],
    counts: [u64; FOLDS],
}

impl Default for ThresholdStudy {
    fn default() -> Self {
        ThresholdStudy { sums: [[0.0; STEPS]; FOLDS], counts: [0; FOLDS] }
    }
}

impl ThresholdStudy {
    /// Adds a map.
    pub fn add(&mut self, ious: &[f64; STEPS]) {
        let fold = (self.num_maps() % FOLDS as u64) as usize;
        self.counts[fold] += 1;
        self.sums[fold].iter_mut().zip(ious).for_each(|(sum, iou)| *sum += iou);
    }

    /// How many maps there are.
    pub fn num_maps(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The threshold with the highest mean IoU, the lowest of several; `None` without maps.
    pub fn best(&self) -> Option<Threshold> {
        (self.num_maps() > 0).then(|| best(&self.without(None)))
    }

    /// The mean IoU at a threshold, in `[0, 1]`; `None` without maps.
    pub fn mean(&self, threshold: Threshold) -> Option<f64> {
        (self.num_maps() > 0).then(|| self.without(None)[threshold.index()] / self.num_maps() as f64)
    }

    /// The mean IoU where the threshold of each fold is the best of the others: what a learnt threshold is worth on maps that it was
    /// not learnt on. `None` with fewer than two maps.
    pub fn cross_validated(&self) -> Option<f64> {
        let of_fold = |fold: usize| self.sums[fold][best(&self.without(Some(fold))).index()];
        let folds = (0..FOLDS).filter(|fold| self.counts[*fold] > 0);
        (self.num_maps() > 1).then(|| folds.map(of_fold).sum::<f64>() / self.num_maps() as f64)
    }

    /// Sums over all folds but one.
    fn without(&self, left_out: Option<usize>) -> [f64; STEPS] {
        let mut sums = [0.0; STEPS];
        for (_, fold) in self.sums.iter().enumerate().filter(|(fold, _)| Some(*fold) != left_out) {
            sums.iter_mut().zip(fold).for_each(|(sum, of_fold)| *sum += of_fold);
        }
        sums
    }
}

fn best(sums: &[f64; STEPS]) -> Threshold {
    // Of equals the first stays.
    let index = (1..STEPS).fold(0, |best, index| if sums[index] > sums[best] { index } else { best });
    Threshold(index as u8 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: BoxRule = BoxRule { min_area: 0.0, largest: false };

    fn at(hundredths: u8) -> Threshold {
        Threshold::of_hundredths(hundredths).expect("a threshold")
    }

    #[test]
    fn thresholds_are_hundredths() {
        assert_eq!(Threshold::of_share(0.15), Some(Threshold::USUAL));
        assert_eq!(
            [0.29, 0.57, 1.0].map(|share| Threshold::of_share(share).map(Threshold::share)),
            [Some(0.29), Some(0.57), Some(1.0)]
        );
        for wrong in [0.0, -0.1, 1.01, 0.155, f64::NAN] {
            assert_eq!(Threshold::of_share(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_pixel_reaches_the_threshold_that_it_equals() {
        assert_eq!(steps(&[0.0, 0.25, 0.5]), [0, 50, 100]);
        // 0.29 * 100 is less than 29 in floating point.
        for hundredths in 1..=100_u8 {
            let share = f32::from(hundredths) / 100.0;
            let found = steps(&[share, 1.0])[0];
            let wanted = if f64::from(share) >= f64::from(hundredths) / 100.0 { hundredths } else { hundredths - 1 };
            assert_eq!(found, wanted, "{hundredths}");
        }
        assert_eq!(steps(&[0.0; 3]), [0; 3]);
    }

    #[test]
    fn pixels_by_threshold() {
        let truth = [Pixel::Object, Pixel::Object, Pixel::Other, Pixel::Ignored];
        let ious = pixel_ious(&[80, 40, 60, 100], &truth);
        assert_eq!(
            [ious[39], ious[40], ious[59], ious[60], ious[79], ious[80]],
            [2.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.5, 0.5, 0.0]
        );
    }

    #[test]
    fn boxes_by_threshold_are_those_of_each_threshold_alone() {
        // A patch of 60 with a peak of 100 in it, and one of 30 apart.
        let (height, width) = (6, 8);
        let mut map = vec![0; height * width];
        for (row, column, step) in [(1, 1, 60), (1, 2, 100), (2, 1, 60), (2, 2, 60), (4, 6, 30), (5, 5, 30)] {
            map[row * width + column] = step;
        }
        let mut truth = vec![0; height * width];
        for (row, column) in [(1, 1), (1, 2), (2, 1), (2, 2), (4, 5), (4, 6)] {
            truth[row * width + column] = 1;
        }
        let ious = box_ious(&map, (height, width), &truth, ALL);
        assert_eq!([ious[0], ious[29]], [6.0 / 8.0; 2]);
        assert_eq!([ious[30], ious[59]], [4.0 / 6.0; 2]);
        assert_eq!([ious[60], ious[99]], [1.0 / 6.0; 2]);
        let largest = box_ious(&map, (height, width), &truth, BoxRule { largest: true, ..ALL });
        assert_eq!(largest[0], 4.0 / 6.0);
        let large = BoxRule { min_area: 3.0 / 48.0, ..ALL };
        assert_eq!(box_ious(&map, (height, width), &truth, large)[0], 4.0 / 6.0);
        for hundredths in [1, 30, 31, 60, 61, 100] {
            let (kept, numbers) = components_at(&map, (height, width), at(hundredths), ALL);
            let mut covered = vec![0_u8; height * width];
            for PixelBox { left, top, right, bottom } in kept.iter().map(|component| component.bounds) {
                (top..=bottom).for_each(|row| covered[row as usize * width..][left as usize..=right as usize].fill(1));
            }
            let both = covered.iter().zip(&truth).filter(|(a, b)| **a + **b == 2).count();
            let any = covered.iter().zip(&truth).filter(|(a, b)| **a + **b > 0).count();
            assert_eq!(ious[usize::from(hundredths) - 1], both as f64 / any as f64, "{hundredths}");
            assert_eq!(numbers.iter().filter(|number| **number > 0).count() as u32, kept.iter().map(|one| one.area).sum());
        }
    }

    #[test]
    fn what_is_learnt_is_tested_on_other_maps() {
        let peak = |hundredths: usize| {
            let mut ious = [0.0; STEPS];
            ious[hundredths - 1] = 1.0;
            ious
        };
        let mut study = ThresholdStudy::default();
        assert_eq!((study.best(), study.cross_validated()), (None, None));
        study.add(&peak(30));
        assert_eq!((study.best(), study.cross_validated()), (Some(at(30)), None));
        study.add(&peak(30));
        study.add(&peak(70));
        assert_eq!((study.best(), study.mean(at(30)), study.mean(at(70))), (Some(at(30)), Some(2.0 / 3.0), Some(1.0 / 3.0)));
        // Two of the folds learn 30 from one map of 30 and one of 70, of which the lower stays; the third learns 30, too.
        assert_eq!(study.cross_validated(), Some(2.0 / 3.0));
        let mut apart = ThresholdStudy::default();
        [20, 80].iter().for_each(|hundredths| apart.add(&peak(*hundredths)));
        assert_eq!((apart.mean(at(20)), apart.cross_validated()), (Some(0.5), Some(0.0)), "each was learnt on the other");
    }
}
