//! How alike two stored heatmaps of one image are, and what they look like around the object.

use super::aligned::{Crops, WHOLE, heat};
use crate::pictures::{StoredLevels, stored_levels};
use camflow_measure::{Measured, MeasuredHeatmap, rank_correlation};
use camflow_media::{BinaryMask, MediaError, resize_nearest, with_large_pictures_in_turn};

/// What became of looking at the stored maps of a pair.
#[derive(Clone, Debug, Default)]
pub enum MapPair {
    /// Nobody asked.
    #[default]
    Unread,
    /// One of them cannot be read: why, with the file's name.
    Unreadable(String),
    /// Both were.
    Read(Box<Agreement>),
}

/// How alike two heatmaps are. Both are taken as 8-bit levels at the size of the smaller one, and where both models saw the image.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// Spearman's rank correlation of the levels, in `[-1, 1]`; `None` where one is the same everywhere.
    pub rank_correlation: Option<f64>,
    /// `sum_i min(a_i / A, b_i / B)` of heatmaps with the sums `A` and `B`, in `[0, 1]`: the share of the energy that lies in the same
    /// places, 1 less the total variation distance. `None` where one is zero everywhere.
    pub overlap: Option<f64>,
    /// Whether they are the same, level by level.
    pub is_identical: bool,
    /// What lies around each of the objects, added up.
    pub on_object: Crops,
    /// The same of the image as a whole.
    pub on_image: Crops,
}

impl MapPair {
    /// Reads both heatmaps; `objects` are boxes (left, top, width, height) in fractions of the image.
    pub fn read(a: &MeasuredHeatmap, b: &MeasuredHeatmap, objects: &[[f64; 4]]) -> MapPair {
        let levels = |heatmap: &MeasuredHeatmap| -> Result<StoredLevels, String> {
            let read = stored_levels(heatmap).map_err(|error: MediaError| error.to_string())?;
            let is_whole = |levels: &StoredLevels| levels.height * levels.width > 0;
            read.filter(is_whole).ok_or_else(|| format!("a heatmap in `{}` has no file", heatmap.series.field))
        };
        let read = with_large_pictures_in_turn(|| levels(a).and_then(|a| Ok((a, levels(b)?))));
        match read {
            Err(reason) => MapPair::Unreadable(reason),
            Ok((a, b)) => MapPair::Read(Box::new(Agreement::of(&a, &b, objects))),
        }
    }

    /// If both were read.
    pub fn agreement(&self) -> Option<&Agreement> {
        match self {
            MapPair::Read(agreement) => Some(agreement),
            MapPair::Unread | MapPair::Unreadable(_) => None,
        }
    }
}

impl Agreement {
    fn of(a: &StoredLevels, b: &StoredLevels, objects: &[[f64; 4]]) -> Agreement {
        let (on_object, on_image) = (Crops::of([a, b], objects), Crops::of([a, b], &[WHOLE]));
        let size = if a.levels.len() <= b.levels.len() { (a.height, a.width) } else { (b.height, b.width) };
        let fitted = |map: &StoredLevels| match (map.height, map.width) {
            own if own == size => map.levels.clone(),
            own => resize_nearest(&map.levels, own, size),
        };
        let (of_a, of_b) = (fitted(a), fitted(b));
        let seen = BinaryMask {
            height: size.0,
            width: size.1,
            pixels: of_a.iter().zip(&of_b).map(|(a, b)| u8::from(*a > 0 && *b > 0)).collect(),
        };
        let measured = |levels| Measured { height: size.0, width: size.1, values: &[], levels, seen: Some(&seen) };
        Agreement {
            rank_correlation: rank_correlation(&measured(&of_a), &measured(&of_b)),
            overlap: overlap(&of_a, &of_b),
            is_identical: (a.height, a.width) == (b.height, b.width) && a.levels == b.levels,
            on_object,
            on_image,
        }
    }
}

fn overlap(a: &[u8], b: &[u8]) -> Option<f64> {
    let seen = || a.iter().zip(b).filter(|(a, b)| **a > 0 && **b > 0).map(|(a, b)| [heat(*a), heat(*b)]);
    let mut sums = [0_u64; 2];
    for pair in seen() {
        sums[0] += u64::from(pair[0]);
        sums[1] += u64::from(pair[1]);
    }
    if sums.contains(&0) {
        return None;
    }
    // Of fractions with the denominator `sums[0] * sums[1]`, so that nothing is rounded.
    let shared: u128 = seen().map(|[a, b]| u128::from((u64::from(a) * sums[1]).min(u64::from(b) * sums[0]))).sum();
    Some(shared as f64 / (sums[0] as f64 * sums[1] as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(width: usize, levels: &[u8]) -> StoredLevels {
        StoredLevels { height: levels.len() / width, width, levels: levels.to_vec() }
    }

    #[test]
    fn agreement_by_hand() {
        // Energies 0, 10, 30 of 40 and 20, 20, 0 of 40: shared 0, 10/40, 0.
        let found = Agreement::of(&map(3, &[1, 10, 30]), &map(3, &[20, 20, 1]), &[]);
        assert_eq!((found.overlap, found.is_identical), (Some(0.25), false));
        // Ranks 1, 2, 3 and 2.5, 2.5, 1.
        let wanted = -1.5 / (2.0_f64 * 1.5).sqrt();
        assert!((found.rank_correlation.expect("defined") - wanted).abs() < 1e-12);
        let same = Agreement::of(&map(3, &[1, 10, 30]), &map(3, &[1, 10, 30]), &[]);
        assert_eq!((same.overlap, same.rank_correlation, same.is_identical), (Some(1.0), Some(1.0), true));
    }

    #[test]
    fn what_one_model_did_not_see_counts_nowhere() {
        let found = Agreement::of(&map(4, &[0, 0, 10, 30]), &map(4, &[200, 200, 10, 30]), &[]);
        assert_eq!((found.overlap, found.rank_correlation, found.is_identical), (Some(1.0), Some(1.0), false));
        let empty = Agreement::of(&map(2, &[1, 1]), &map(2, &[9, 1]), &[]);
        assert_eq!((empty.overlap, empty.rank_correlation), (None, None));
    }

    #[test]
    fn the_larger_map_is_brought_to_the_smaller_ones_size() {
        let found = Agreement::of(&map(4, &[10, 10, 30, 30, 10, 10, 30, 30]), &map(2, &[10, 30]), &[]);
        assert_eq!((found.overlap, found.rank_correlation), (Some(1.0), Some(1.0)));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let heatmap = MeasuredHeatmap { map_path: Some("/nowhere/a.png".into()), ..MeasuredHeatmap::default() };
        let MapPair::Unreadable(reason) = MapPair::read(&heatmap, &heatmap, &[]) else { panic!("it is not there") };
        assert!(reason.contains("/nowhere/a.png"), "{reason}");
        let none = MapPair::read(&MeasuredHeatmap::default(), &heatmap, &[]);
        assert!(matches!(none, MapPair::Unreadable(reason) if reason.contains("has no file")));
    }
}
