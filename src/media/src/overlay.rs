//! Heatmaps over pictures, for people who look at a few.

use super::{error::MediaError, image::RgbImage};

/// The colour of a value in `[0, 1]`: blue over green to red, as MATLAB's and OpenCV's `jet`. Not the best of colour maps, but
/// the one of pytorch_grad_cam's pictures, so that they can be laid side by side.
///
/// Values outside `[0, 1]` get the colour of the nearer end, NaN that of 0.
pub fn jet(value: f32) -> [u8; 3] {
    let x = if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) };
    // Red, green and blue are the same trapezoid of slope 4, a quarter apart.
    [3.0, 2.0, 1.0].map(|peak: f32| {
        let channel = (1.5 - (4.0 * x - peak).abs()).clamp(0.0, 1.0);
        (channel * 255.0).round() as u8
    })
}

/// A heatmap `[height, width]` in `[0, 1]`, of the image's size, coloured by [`jet`] and laid over the image: `opacity` of the colour,
/// the rest of the image.
///
/// # Errors
/// The heatmap is not of the image's size.
pub fn overlay(image: &RgbImage, height: usize, width: usize, heatmap: &[f32], opacity: f32) -> Result<RgbImage, MediaError> {
    if (height, width) != (image.height, image.width) || heatmap.len() != height * width {
        return Err(MediaError::encode(format!(
            "a heatmap of {height} x {width} does not cover an image of {} x {}",
            image.height, image.width
        )));
    }
    let opacity = opacity.clamp(0.0, 1.0);
    let mut pixels = Vec::with_capacity(image.pixels.len());
    for (pixel, &value) in image.pixels.chunks_exact(3).zip(heatmap) {
        for (&below, above) in pixel.iter().zip(jet(value)) {
            let mixed = f32::from(below) * (1.0 - opacity) + f32::from(above) * opacity;
            pixels.push(mixed.round() as u8);
        }
    }
    Ok(RgbImage { orientation: image.orientation, ..RgbImage::new(height, width, pixels) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OpenCV's `COLORMAP_JET` at levels 0, 64, 128, 191, 255, in RGB.
    #[test]
    fn jet_is_that_of_opencv() {
        for (level, expected) in
            [(0.0, [0, 0, 128]), (64.0, [0, 129, 255]), (128.0, [130, 255, 126]), (191.0, [255, 128, 0]), (255.0, [128, 0, 0])]
        {
            let color = jet(level / 255.0);
            for (ours, theirs) in color.iter().zip(expected) {
                assert!(ours.abs_diff(theirs) <= 2, "{level}: {color:?}, not {expected:?}");
            }
        }
    }

    #[test]
    fn opacity_mixes() {
        let image = RgbImage::new(1, 2, vec![10, 20, 30, 40, 50, 60]);
        let heat = [0.0, 1.0];
        assert_eq!(overlay(&image, 1, 2, &heat, 0.0).unwrap(), image);
        let opaque = overlay(&image, 1, 2, &heat, 1.0).unwrap();
        assert_eq!(opaque.pixels, [0, 0, 128, 128, 0, 0]);
        let half = overlay(&image, 1, 2, &heat, 0.5).unwrap();
        assert_eq!(half.pixels, [5, 10, 79, 84, 25, 30]);
        assert!(overlay(&image, 2, 1, &heat, 0.5).is_err());
    }
}
