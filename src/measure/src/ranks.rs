//! How much two heatmaps agree.

use std::borrow::Cow;

use super::Measured;
use camflow_media::resize_nearest;

/// Spearman's rank correlation of two heatmaps of one image, in `[-1, 1]`: Pearson's of the ranks of their pixels, equal values
/// sharing the mean of their ranks. It is taken of the 8-bit levels, so that ranks are counted instead of sorted. `None` where one
/// of the maps is the same everywhere. A map of another size is brought to the first one's by nearest neighbour.
///
/// Adebayo et al. compare attention maps so in *Sanity Checks for Saliency Maps* (2018), <https://arxiv.org/abs/1810.03292>.
pub fn rank_correlation(map: &Measured<'_>, other: &Measured<'_>) -> Option<f64> {
    let (size, of_other) = ((map.height, map.width), (other.height, other.width));
    let others: Cow<'_, [u8]> =
        if size == of_other { other.levels.into() } else { resize_nearest(other.levels, of_other, size).into() };
    // How often two levels come together: all else follows from it.
    let mut joint = vec![[0_u32; 256]; 256];
    let pairs = map.levels.iter().zip(others.iter()).map(|(level, other)| (usize::from(*level), usize::from(*other)));
    match map.seen {
        None => pairs.for_each(|(level, other)| joint[level][other] += 1),
        Some(seen) => pairs.zip(&seen.pixels).for_each(|((level, other), seen)| joint[level][other] += u32::from(*seen != 0)),
    }
    let counts: [u64; 256] = std::array::from_fn(|level| joint[level].iter().map(|count| u64::from(*count)).sum());
    let mut other_counts = [0; 256];
    for of_level in &joint {
        other_counts.iter_mut().zip(of_level).for_each(|(sum, count)| *sum += u64::from(*count));
    }
    let (ranks, other_ranks) = (centred_ranks(&counts), centred_ranks(&other_counts));
    let products = joint.iter().zip(&ranks).map(|(of_level, rank)| {
        rank * of_level.iter().zip(&other_ranks).map(|(count, other)| f64::from(*count) * other).sum::<f64>()
    });
    let product: f64 = products.sum();
    let variance = |ranks: &[f64; 256], counts: &[u64; 256]| -> f64 {
        ranks.iter().zip(counts).map(|(rank, count)| rank * rank * *count as f64).sum()
    };
    let norm = (variance(&ranks, &counts) * variance(&other_ranks, &other_counts)).sqrt();
    (norm > 0.0).then(|| (product / norm).clamp(-1.0, 1.0))
}

/// The rank of each level, the mean of all ranks taken off.
fn centred_ranks(counts: &[u64; 256]) -> [f64; 256] {
    let total: u64 = counts.iter().sum();
    let mut below = 0;
    counts.map(|count| {
        // Ranks `below + 1` to `below + count`, less `(total + 1) / 2`.
        let rank = below as f64 + (count as f64 - total as f64) / 2.0;
        below += count;
        rank
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use camflow_media::BinaryMask;

    fn correlation(map: &[u8], other: &[u8], widths: (usize, usize)) -> Option<f64> {
        let of = |levels, width| Measured { height: 1, width, values: &[], levels, seen: None };
        rank_correlation(&of(map, widths.0), &of(other, widths.1))
    }

    #[test]
    fn by_hand() {
        let row = |map: &[u8], other: &[u8]| correlation(map, other, (map.len(), other.len())).expect("defined");
        assert!((row(&[1, 2, 3], &[10, 20, 200]) - 1.0).abs() < 1e-12);
        assert!((row(&[1, 2, 3], &[3, 2, 1]) + 1.0).abs() < 1e-12);
        // Ranks 1.5 1.5 3 4 and 2 1 3.5 3.5: less 2.5, the products add up to 4, the squares to 4.5 each.
        assert!((row(&[0, 0, 5, 9], &[2, 1, 7, 7]) - 4.0 / 4.5).abs() < 1e-12);
        assert_eq!(correlation(&[1, 1], &[1, 2], (2, 2)), None);
    }

    #[test]
    fn what_the_model_did_not_see_counts_nowhere() {
        let seen = BinaryMask { height: 1, width: 5, pixels: vec![1, 0, 1, 1, 0] };
        let of = |levels, seen| Measured { height: 1, width: 5, values: &[], levels, seen };
        let (map, other) = ([1, 200, 2, 3, 0], [3, 255, 2, 1, 0]);
        assert_eq!(rank_correlation(&of(&map, Some(&seen)), &of(&other, None)), Some(-1.0));
        assert!(rank_correlation(&of(&map, None), &of(&other, None)) > Some(0.0));
    }

    #[test]
    fn a_smaller_map_is_stretched() {
        assert_eq!(correlation(&[0, 0, 9, 9], &[1, 2], (4, 2)), Some(1.0));
    }
}
