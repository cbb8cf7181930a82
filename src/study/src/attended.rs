//! What a heatmap lies on, in a few numbers of the image's colours and textures: what contexts are told apart by where no label says them.

use camflow_measure::MeasuredHeatmap;
use camflow_media::{ExifPolicy, ImageLimits, Interpolation, MediaError, RgbImage, read_picture, resize_rgb};
use std::path::Path;

use super::pictures::stored_levels;

/// Image and heatmap are brought to this height and width.
const SIDE: usize = 64;

/// How many numbers describe what is attended, and how much each counts beside its deviation over all: the means of two opponent colours,
/// that of the light, the deviations of all three, the steepness of fine and of coarse edges, and what of it goes in each of four directions.
/// Colours count most, the light least, as it changes from picture to picture and with the object. docs/bias.md has what they are chosen by.
pub(crate) const WEIGHTS: [f64; 12] = [2.0, 2.0, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];

/// Pixels of the image at [`SIDE`] that are one of the coarse ones, in each direction.
const COARSE: usize = 4;

/// What a heatmap lies on: numbers of the pixels of the image, each counting by the heatmap's value there, with a place in [`WEIGHTS`] each.
/// `None` where the heatmap is kept in the database alone or is zero everywhere.
///
/// # Errors
/// The image or the heatmap cannot be read.
pub(crate) fn attended(media_path: &Path, heatmap: &MeasuredHeatmap) -> Result<Option<Vec<f64>>, MediaError> {
    let Some(map) = stored_levels(heatmap)? else { return Ok(None) };
    let image = read_picture(media_path, &ImageLimits::default(), ExifPolicy::Ignore)?;
    let small = |image: &RgbImage| resize_rgb(image, SIDE, SIDE, Interpolation::Bilinear, true);
    let levels = RgbImage::new(map.height, map.width, map.levels.into_iter().flat_map(|level| [level; 3]).collect());
    Ok(described(&small(&image)?.pixels, &small(&levels)?.pixels, SIDE))
}

/// Of pixels of three bytes, row by row, so many a side, and of equally many levels of three bytes each.
fn described(pixels: &[u8], levels: &[u8], side: usize) -> Option<Vec<f64>> {
    let weights: Vec<f64> = levels.chunks_exact(3).map(|level| f64::from(level[0])).collect();
    let energy: f64 = weights.iter().sum();
    if energy <= 0.0 {
        return None;
    }
    let mean = |values: &[f64]| weights.iter().zip(values).map(|(weight, value)| weight * value).sum::<f64>() / energy;
    let channels = pixels.chunks_exact(3).map(|pixel| [0, 1, 2].map(|channel| f64::from(pixel[channel]) / 255.0));
    let (mut light, mut red_green, mut yellow_blue) = (Vec::new(), Vec::new(), Vec::new());
    for [red, green, blue] in channels {
        light.push((red + green + blue) / 3.0);
        red_green.push(red - green);
        yellow_blue.push((red + green) / 2.0 - blue);
    }
    let deviation = |values: &[f64]| {
        let middle = mean(values);
        let squares: Vec<f64> = values.iter().map(|value| (value - middle) * (value - middle)).collect();
        mean(&squares).sqrt()
    };
    let edges = slopes(&light, side);
    let steepness: Vec<f64> = edges.iter().map(|(down, across)| down.hypot(*across)).collect();
    let coarse_side = side.div_ceil(COARSE);
    let coarse = slopes(&averaged(&light, side), coarse_side);
    let place = |pixel: usize| pixel / side / COARSE * coarse_side + pixel % side / COARSE;
    let coarse: Vec<f64> = (0..light.len()).map(|pixel| coarse[place(pixel)].0.hypot(coarse[place(pixel)].1)).collect();
    let fine = mean(&steepness);
    let mut numbers = vec![mean(&red_green), mean(&yellow_blue), mean(&light)];
    numbers.extend([&light, &red_green, &yellow_blue].map(|values| deviation(values)));
    numbers.extend([fine, mean(&coarse)]);
    for direction in 0..4 {
        let of_direction = |((down, across), steep): (&(f64, f64), &f64)| {
            let angle = down.atan2(*across).rem_euclid(std::f64::consts::PI) / std::f64::consts::PI;
            if ((4.0 * angle) as usize).min(3) == direction { *steep } else { 0.0 }
        };
        let steep: Vec<f64> = edges.iter().zip(&steepness).map(of_direction).collect();
        numbers.push(mean(&steep) / fine.max(1e-6));
    }
    Some(numbers)
}

/// The differences down and across, over two pixels where there are any on both sides.
fn slopes(values: &[f64], side: usize) -> Vec<(f64, f64)> {
    let at = |row: usize, column: usize| values[row * side + column];
    let slope = |pixel: usize| {
        let (row, column) = (pixel / side, pixel % side);
        let (above, below, left, right) =
            (row.saturating_sub(1), (row + 1).min(side - 1), column.saturating_sub(1), (column + 1).min(side - 1));
        let by = |difference: f64, steps: usize| if steps > 0 { difference / steps as f64 } else { 0.0 };
        (by(at(below, column) - at(above, column), below - above), by(at(row, right) - at(row, left), right - left))
    };
    (0..values.len()).map(slope).collect()
}

/// The means of [`COARSE`] by as many values.
fn averaged(values: &[f64], side: usize) -> Vec<f64> {
    let coarse_side = side.div_ceil(COARSE);
    let mut sums = vec![(0.0, 0.0); coarse_side * coarse_side];
    for (pixel, value) in values.iter().enumerate() {
        let (sum, count) = &mut sums[pixel / side / COARSE * coarse_side + pixel % side / COARSE];
        (*sum, *count) = (*sum + value, *count + 1.0);
    }
    sums.into_iter().map(|(sum, count)| sum / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a picture with 8 pixels a side, and of levels, by row and column.
    fn of(pixel: impl Fn(usize, usize) -> [u8; 3], level: impl Fn(usize, usize) -> u8) -> Option<Vec<f64>> {
        let places = || (0..64).map(|place| (place / 8, place % 8));
        let pixels: Vec<u8> = places().flat_map(|(row, column)| pixel(row, column)).collect();
        described(&pixels, &places().flat_map(|(row, column)| [level(row, column); 3]).collect::<Vec<u8>>(), 8)
    }

    #[test]
    fn only_what_is_attended_counts() {
        let picture = |_, column: usize| if column < 4 { [200, 0, 0] } else { [0, 0, 250] };
        let left = of(picture, |_, column| u8::from(column < 3)).expect("attention");
        let right = of(picture, |_, column| u8::from(column > 4)).expect("attention");
        let all = of(picture, |_, _| 9).expect("attention");
        let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
        (0..2).zip([200.0 / 255.0, 100.0 / 255.0]).for_each(|(place, wanted)| close(left[place], wanted));
        (0..2).zip([0.0, -250.0 / 255.0]).for_each(|(place, wanted)| close(right[place], wanted));
        (0..3).for_each(|place| close(all[place], (left[place] + right[place]) / 2.0));
        assert_eq!((left.len(), left[3]), (WEIGHTS.len(), 0.0), "of one colour");
        assert_eq!(of(picture, |_, _| 0), None);
    }

    #[test]
    fn textures_are_told_apart_by_steepness_and_direction() {
        let stripes = |at: usize| if at.is_multiple_of(4) { [200; 3] } else { [40; 3] };
        let across = of(|row, _| stripes(row), |_, _| 1).expect("attention");
        let down = of(|_, column| stripes(column), |_, _| 1).expect("attention");
        let plain = of(|_, _| [77; 3], |_, _| 1).expect("attention");
        assert!(across[6] > 0.05 && plain[6] == 0.0 && (across[6] - down[6]).abs() < 1e-12);
        assert!(across[10] > 0.99 && down[8] + down[11] > 0.99, "{across:?} {down:?}");
    }
}
