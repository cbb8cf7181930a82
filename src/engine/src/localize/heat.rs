//! A stored heatmap as numbers again.

use camflow_fiftyone::SourceHeatmap;
use camflow_measure::localization::steps;
use camflow_media::{
    Array, BinaryMask, Checksum, ExifPolicy, FileContent, ImageLimits, MediaError, RecordedChecksum, Upsampling, inflate_array,
    parse_array, parse_image,
};
use std::path::Path;

/// A heatmap over the whole image.
#[derive(Debug)]
pub(super) struct Heat {
    /// Rows and columns.
    pub(super) size: (usize, usize),
    /// In `[0, 1]`.
    pub(super) values: Vec<f32>,
    /// `floor(255 * value)`; of a picture its own levels.
    pub(super) levels: Vec<u8>,
    /// The thresholds that pixels reach.
    pub(super) steps: Vec<u8>,
    /// The pixels that the model saw; `None` where it saw all.
    pub(super) seen: Option<BinaryMask>,
}

impl Heat {
    /// Reads it from its exact floats, else from its picture, else from the map in the document.
    ///
    /// # Errors
    /// It is not there, is not what was written, or holds what is no heatmap.
    pub(super) fn read(heatmap: &SourceHeatmap, inline: Option<&[u8]>, limits: &ImageLimits) -> Result<Heat, MediaError> {
        let seen_in_picture = || heatmap.map_path.as_deref().map(|path| picture(path, heatmap.map_checksum, limits)).transpose();
        if let Some(path) = &heatmap.npy_path {
            let bytes = content(path, heatmap.npy_checksum, limits)?;
            let (values, size) = floats(parse_array(&bytes, &format!("`{}`", camflow_media::shown(path)))?)?;
            let Some(upsampling) = Upsampling::of_numbers(&heatmap.upsampling) else {
                // What the model saw of a crop, only the picture says.
                let picture = seen_in_picture()?.filter(|(_, of_picture)| *of_picture == size);
                return Heat::new(values, size, picture.and_then(|(levels, size)| seen(&levels, size)));
            };
            let (height, width) = upsampling.output();
            let num_pixels = [upsampling.size, (height, width)].map(|(height, width)| height as u64 * width as u64);
            if values.is_empty() || num_pixels.iter().any(|pixels| *pixels > limits.max_pixels) {
                return Err(MediaError::shape(format!("its `upsampling` of {size:?} to {height} x {width} cannot be")));
            }
            let seen = upsampling.region.map(|region| {
                let (height, width) = upsampling.size;
                let frame = BinaryMask::full(height, width).onto_frame(&region);
                if upsampling.is_image { frame.resize_nearest(region.image_height, region.image_width) } else { frame }
            });
            let values = upsampling.apply(&values, size);
            return Heat::new(values, (height, width), seen.filter(|seen| seen.count() < seen.pixels.len()));
        }
        if let Some((levels, size)) = seen_in_picture()? {
            let values = levels.iter().map(|level| f32::from(*level) / 255.0).collect();
            let seen = seen(&levels, size);
            return Ok(Heat { levels, ..Heat::new(values, size, seen)? });
        }
        let Some(map) = inline else { return Err(MediaError::shape("the label names no file, and holds no map")) };
        let (values, size) = floats(inflate_array(map, limits.max_bytes)?)?;
        let levels: Vec<u8> = values.iter().map(|value| u8::from(*value > 0.0)).collect();
        let seen = seen(&levels, size);
        Heat::new(values, size, seen)
    }

    fn new(values: Vec<f32>, size: (usize, usize), seen: Option<BinaryMask>) -> Result<Heat, MediaError> {
        // Rounding may leave a last bit above 1.
        if let Some(wrong) = values.iter().find(|value| !(-1e-4..=1.0 + 1e-4).contains(*value)) {
            return Err(MediaError::shape(format!("it holds {wrong}, and a heatmap is from 0 to 1")));
        }
        let values: Vec<f32> = values.into_iter().map(|value| value.clamp(0.0, 1.0)).collect();
        let levels = values.iter().map(|value| (f64::from(*value) * 255.0) as u8).collect();
        Ok(Heat { size, levels, steps: steps(&values), values, seen })
    }

    /// Its highest value.
    pub(super) fn highest(&self) -> f32 {
        self.values.iter().copied().fold(0.0, f32::max)
    }
}

/// A file, as it was written.
fn content(path: &Path, recorded: Option<RecordedChecksum>, limits: &ImageLimits) -> Result<Vec<u8>, MediaError> {
    let bytes = FileContent::read(path, limits.max_bytes)?.steady(path)?;
    match recorded.and_then(|recorded| recorded.checksum) {
        Some(checksum) if Checksum::of(&bytes) != checksum => {
            Err(MediaError::shape(format!("the content of `{}` is not what was written", camflow_media::shown(path))))
        }
        _ => Ok(bytes),
    }
}

fn floats(array: Array) -> Result<(Vec<f32>, (usize, usize)), MediaError> {
    match array.shape[..] {
        [height, width] if height * width > 0 => Ok((array.values.to_f32(), (height, width))),
        _ => Err(MediaError::shape(format!("an array of shape {:?} is not a heatmap", array.shape))),
    }
}

fn picture(
    path: &Path,
    recorded: Option<RecordedChecksum>,
    limits: &ImageLimits,
) -> Result<(Vec<u8>, (usize, usize)), MediaError> {
    let image = parse_image(path, &content(path, recorded, limits)?, limits, ExifPolicy::Ignore)?;
    Ok((image.pixels.chunks_exact(3).map(|pixel| pixel[0]).collect(), (image.height, image.width)))
}

/// What is not 0; `None` where that is all.
fn seen(levels: &[u8], (height, width): (usize, usize)) -> Option<BinaryMask> {
    let pixels: Vec<u8> = levels.iter().map(|level| u8::from(*level != 0)).collect();
    pixels.contains(&0).then_some(BinaryMask { height, width, pixels })
}
