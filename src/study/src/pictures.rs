//! Small pictures of samples with their heatmaps, as data that a page can hold.

use std::path::Path;

use camflow_measure::MeasuredHeatmap;
use camflow_media::{
    ExifPolicy, ImageLimits, Interpolation, MediaError, RgbImage, Upsampling, encode_jpeg, overlay, read_array_file, read_image,
    read_picture, resize_rgb,
};

/// The longer side in pixels.
const SIDE: usize = 256;
const QUALITY: f32 = 80.0;
const OPACITY: f32 = 0.5;

/// A JPEG of a sample's image with the heatmap laid over it, or without any; the box of a detection with a heatmap of its own is outlined.
///
/// # Errors
/// The image or the heatmap cannot be read.
pub(crate) fn picture(media_path: &Path, heatmap: Option<&MeasuredHeatmap>) -> Result<Vec<u8>, MediaError> {
    let limits = ImageLimits::default();
    // As stored, as the model saw it.
    let image = read_picture(media_path, &limits, ExifPolicy::Ignore)?;
    let longer = image.height.max(image.width).max(1);
    let scaled = |side: usize| if longer > SIDE { (side * SIDE / longer).max(1) } else { side };
    let (height, width) = (scaled(image.height), scaled(image.width));
    let image = resize_rgb(&image, height, width, Interpolation::Bilinear, true)?;
    let Some(map) = heatmap.map(|heatmap| map(heatmap, &limits)).transpose()?.flatten() else {
        return encode_jpeg(&image, QUALITY);
    };
    let map = resize_rgb(&map, height, width, Interpolation::Bilinear, true)?;
    let values: Vec<f32> = map.pixels.chunks_exact(3).map(|pixel| f32::from(pixel[0]) / 255.0).collect();
    let mut picture = overlay(&image, height, width, &values, OPACITY)?;
    if let Some(bounds) = heatmap.and_then(|heatmap| heatmap.detection.as_ref()?.bounds) {
        outline(&mut picture, bounds);
    }
    encode_jpeg(&picture, QUALITY)
}

/// Draws a box (left, top, width and height in fractions of the sides): white, with black around it, to be seen on any picture.
fn outline(picture: &mut RgbImage, [left, top, width, height]: [f64; 4]) {
    let at = |fraction: f64, side: usize| (fraction.clamp(0.0, 1.0) * side as f64) as i64;
    let (left, right) = (at(left, picture.width), at(left + width, picture.width));
    let (top, bottom) = (at(top, picture.height), at(top + height, picture.height));
    for (by, level) in [(1, 0), (-1, 0), (0, 255)] {
        let (left, right, top, bottom) = (left - by, right - 1 + by, top - by, bottom - 1 + by);
        let rows = (top..=bottom).flat_map(|row| [(row, left), (row, right)]);
        let columns = (left..=right).flat_map(|column| [(top, column), (bottom, column)]);
        for (row, column) in rows.chain(columns) {
            let (Ok(row), Ok(column)) = (usize::try_from(row), usize::try_from(column)) else { continue };
            if row < picture.height && column < picture.width {
                let first = 3 * (row * picture.width + column);
                picture.pixels[first..first + 3].fill(level);
            }
        }
    }
}

/// The heatmap in gray; `None` where it is kept in the database alone.
fn map(heatmap: &MeasuredHeatmap, limits: &ImageLimits) -> Result<Option<RgbImage>, MediaError> {
    match (&heatmap.map_path, &heatmap.npy_path) {
        (Some(path), _) => read_image(path, limits, ExifPolicy::Ignore).map(Some),
        (None, Some(path)) => {
            let StoredLevels { height, width, levels } = from_array(path, &heatmap.upsampling, limits)?;
            Ok(Some(RgbImage::new(height, width, levels.into_iter().flat_map(|level| [level; 3]).collect())))
        }
        (None, None) => Ok(None),
    }
}

/// A heatmap as the App draws it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredLevels {
    /// Rows.
    pub(crate) height: usize,
    /// Columns.
    pub(crate) width: usize,
    /// Row by row, `round(255 * value)`: 0 where the model did not see the image, and there alone.
    pub(crate) levels: Vec<u8>,
}

/// The levels of a stored heatmap; `None` where it is kept in the database alone.
///
/// # Errors
/// Its file cannot be read.
pub(crate) fn stored_levels(heatmap: &MeasuredHeatmap) -> Result<Option<StoredLevels>, MediaError> {
    let limits = ImageLimits::default();
    match (&heatmap.map_path, &heatmap.npy_path) {
        (Some(path), _) => {
            let RgbImage { height, width, pixels, .. } = read_image(path, &limits, ExifPolicy::Ignore)?;
            Ok(Some(StoredLevels { height, width, levels: pixels.chunks_exact(3).map(|pixel| pixel[0]).collect() }))
        }
        (None, Some(path)) => {
            let mut read = from_array(path, &heatmap.upsampling, &limits)?;
            // Arrays have zeros where pictures have a level of their own for what was not seen, which the upsampling knows.
            let is_seen = seen(&heatmap.upsampling, (read.height, read.width));
            for (pixel, level) in read.levels.iter_mut().enumerate().filter(|(_, level)| **level == 0) {
                *level = u8::from(is_seen(pixel / read.width, pixel % read.width));
            }
            Ok(Some(read))
        }
        (None, None) => Ok(None),
    }
}

/// Whether the model saw the pixel of a heatmap of this size in a row and column.
fn seen(upsampling: &[i64], (height, width): (usize, usize)) -> impl Fn(usize, usize) -> bool {
    let upsampling = Upsampling::of_numbers(upsampling);
    let part = upsampling.and_then(|upsampling| Some((upsampling.size, upsampling.region?)));
    move |row, column| {
        let Some(((rows, columns), region)) = part else { return true };
        // The frame is stretched over the heatmap.
        let within = |at: usize, of: usize, frame: usize, first: i64, length: usize| {
            let place = (at * frame / of) as i64;
            (first..first + length as i64).contains(&place)
        };
        within(row, height, region.frame_height, region.top, rows)
            && within(column, width, region.frame_width, region.left, columns)
    }
}

fn from_array(path: &Path, upsampling: &[i64], limits: &ImageLimits) -> Result<StoredLevels, MediaError> {
    let array = read_array_file(path, limits.max_bytes)?;
    let [height, width] = array.shape[..] else {
        return Err(MediaError::shape(format!("an array of shape {:?} is not a heatmap", array.shape)));
    };
    let (mut values, mut size) = (array.values.to_f32(), (height, width));
    let is_small = |(height, width): (usize, usize)| (height * width) as u64 <= limits.max_pixels;
    if let Some(upsampling) = Upsampling::of_numbers(upsampling)
        && !values.is_empty()
        && is_small(upsampling.size)
        && is_small(upsampling.output())
    {
        (values, size) = (upsampling.apply(&values, size), upsampling.output());
    }
    let levels = values.into_iter().map(|value| (255.0 * value.clamp(0.0, 1.0) + 0.5) as u8);
    Ok(StoredLevels { height: size.0, width: size.1, levels: levels.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_outlined_within_the_picture() {
        let mut picture = RgbImage::new(20, 20, vec![100; 1200]);
        outline(&mut picture, [0.25, 0.25, 0.5, 0.5]);
        let level = |row: usize, column: usize| picture.pixels[3 * (row * 20 + column)];
        assert_eq!([level(3, 5), level(4, 4), level(5, 5), level(6, 6), level(7, 7)], [100, 0, 255, 0, 100]);
        assert_eq!([level(14, 14), level(15, 15), level(10, 5), level(10, 10)], [255, 0, 255, 100]);
        outline(&mut picture, [-1.0, 0.5, 9.0, 9.0]);
        assert_eq!(picture.pixels.len(), 1200, "what lies beside it is not drawn");
    }
}
