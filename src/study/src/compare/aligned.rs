//! Heatmaps laid over each other so that the objects lie on each other, and their mean.
//!
//! The box of an object is stretched to a square, with as much of the image around it on each side as half of the box: of the
//! [`SIDE`] x [`SIDE`] pixels of the picture, the middle [`SIDE`] / 2 x [`SIDE`] / 2 are the box. The heatmap is sampled
//! bilinearly at the pixels' centres; what lies outside of the image, or was not seen by the model, counts nowhere.

use crate::pictures::StoredLevels;

/// Rows and columns of the picture.
pub const SIDE: usize = 64;

/// The box whose surroundings are the image.
pub(super) const WHOLE: [f64; 4] = [0.25, 0.25, 0.5, 0.5];

/// Heatmaps of A and of B around objects, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Crops {
    /// How many objects.
    pub num: u64,
    /// By pixel, of A and of B: the sum in levels, and of how many. Empty where there is none.
    sums: [Vec<(f64, u32)>; 2],
}

impl Crops {
    /// Of two heatmaps around these boxes (left, top, width, height, in fractions of the image). Boxes without an area are left out.
    pub(super) fn of(maps: [&StoredLevels; 2], boxes: &[[f64; 4]]) -> Crops {
        let mut crops = Crops::default();
        for bounds @ [left, top, width, height] in boxes {
            if !(bounds.iter().all(|number| number.is_finite()) && *width > 0.0 && *height > 0.0) {
                continue;
            }
            crops.num += 1;
            for (map, sums) in maps.iter().zip(&mut crops.sums) {
                sums.resize(SIDE * SIDE, (0.0, 0));
                for (pixel, sum) in sums.iter_mut().enumerate() {
                    let share = |index: usize| 2.0 * (index as f64 + 0.5) / SIDE as f64 - 0.5;
                    let (x, y) = (left + share(pixel % SIDE) * width, top + share(pixel / SIDE) * height);
                    if let Some(value) = at(map, x, y) {
                        *sum = (sum.0 + value, sum.1 + 1);
                    }
                }
            }
        }
        crops
    }

    /// Adds others.
    pub(super) fn add(&mut self, other: &Crops) {
        self.num += other.num;
        for (own, others) in self.sums.iter_mut().zip(&other.sums).filter(|(_, others)| !others.is_empty()) {
            own.resize(SIDE * SIDE, (0.0, 0));
            own.iter_mut().zip(others).for_each(|(own, other)| *own = (own.0 + other.0, own.1 + other.1));
        }
    }

    /// The mean heatmap of A (0) or B (1), in `[0, 1]`, row by row; `None` where no heatmap has a pixel.
    pub fn mean(&self, which: usize) -> Vec<Option<f64>> {
        self.sums[which].iter().map(|(sum, count)| (*count > 0).then(|| sum / f64::from(*count) / 255.0)).collect()
    }

    /// The share of the mean heatmap that lies on the box.
    pub fn share_on_box(&self, which: usize) -> Option<f64> {
        let middle = SIDE / 4..SIDE * 3 / 4;
        let (mut inside, mut all) = (0.0, 0.0);
        for (pixel, value) in self.mean(which).into_iter().enumerate() {
            let value = value.unwrap_or(0.0);
            all += value;
            if middle.contains(&(pixel % SIDE)) && middle.contains(&(pixel / SIDE)) {
                inside += value;
            }
        }
        (all > 0.0).then(|| inside / all)
    }
}

/// What a level says of the heatmap: the lowest that is seen, 1, stands for 0.
pub(super) fn heat(level: u8) -> u8 {
    if level > 1 { level } else { 0 }
}

/// The heatmap at a place in fractions of the image, in levels; `None` outside, and where the model did not see it.
fn at(map: &StoredLevels, x: f64, y: f64) -> Option<f64> {
    let position = |fraction: f64, side: usize| {
        let is_inside = (0.0..1.0).contains(&fraction);
        is_inside.then(|| (fraction * side as f64 - 0.5).clamp(0.0, side as f64 - 1.0))
    };
    let (x, y) = (position(x, map.width)?, position(y, map.height)?);
    let level = |row: usize, column: usize| map.levels[row * map.width + column];
    if level(y.round() as usize, x.round() as usize) == 0 {
        return None;
    }
    let (left, top) = (x.floor() as usize, y.floor() as usize);
    let (right, bottom) = ((left + 1).min(map.width - 1), (top + 1).min(map.height - 1));
    let (across, down) = (x - left as f64, y - top as f64);
    let row = |row: usize| f64::from(heat(level(row, left))) * (1.0 - across) + f64::from(heat(level(row, right))) * across;
    Some(row(top) * (1.0 - down) + row(bottom) * down)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(height: usize, width: usize, level: impl Fn(usize, usize) -> u8) -> StoredLevels {
        let levels = (0..height * width).map(|pixel| level(pixel / width, pixel % width)).collect();
        StoredLevels { height, width, levels }
    }

    #[test]
    fn the_box_becomes_the_middle() {
        // The object is the quarter of the image from (0.5, 0.25), and the heatmap lies on it alone.
        let object = [0.5, 0.25, 0.25, 0.5];
        let on = map(80, 160, |y, x| if (20..60).contains(&y) && (80..120).contains(&x) { 255 } else { 1 });
        let crops = Crops::of([&on, &on], &[object, object]);
        let mean = crops.mean(0);
        let middle = SIDE / 4..SIDE * 3 / 4;
        for (pixel, value) in mean.iter().enumerate() {
            let (y, x) = (pixel / SIDE, pixel % SIDE);
            let edge = |index: usize| [SIDE / 4 - 1, SIDE / 4, SIDE * 3 / 4 - 1, SIDE * 3 / 4].contains(&index);
            if !edge(y) && !edge(x) {
                let wanted = if middle.contains(&y) && middle.contains(&x) { 1.0 } else { 0.0 };
                assert_eq!(*value, Some(wanted), "{y} {x}");
            }
        }
        assert_eq!(crops.num, 2);
        assert!(crops.share_on_box(1).expect("some") > 0.98);
    }

    #[test]
    fn what_is_outside_or_unseen_counts_nowhere() {
        // The box is the image: half of the picture is beyond it.
        let seen_on_the_right = map(8, 8, |_, x| if x < 4 { 0 } else { 101 });
        let mut crops = Crops::of([&seen_on_the_right, &seen_on_the_right], &[[0.0, 0.0, 1.0, 1.0]]);
        crops.add(&Crops::default());
        crops.add(&Crops::of([&seen_on_the_right, &seen_on_the_right], &[[0.0, 0.0, 0.0, 1.0], [f64::NAN, 0.0, 1.0, 1.0]]));
        let mean = crops.mean(0);
        assert_eq!((crops.num, mean[0], mean[SIDE * SIDE / 2 + SIDE / 4 + 1]), (1, None, None));
        let right = mean[SIDE * SIDE / 2 + SIDE * 5 / 8].expect("seen");
        assert!((right - 101.0 / 255.0).abs() < 1e-12);
    }

    #[test]
    fn the_image_itself_is_a_picture_of_all_of_it() {
        let ramp = map(64, 64, |_, x| 4 * x as u8);
        let mean = Crops::of([&ramp, &ramp], &[WHOLE]).mean(0);
        assert_eq!(mean[SIDE + 10], Some(40.0 / 255.0));
    }
}
