//! PNG files for the App and for people: heatmaps in 8-bit gray, overlays in colour.

use std::borrow::Cow;

use png::{BitDepth, ColorType, Compression, Encoder};

use super::{error::MediaError, geometry::BinaryMask, image::RgbImage};

/// The 8-bit levels `round(255 * value)` of values in `[0, 1]`, and whether all of these are finite: a sum is, if what is summed is.
pub fn levels(values: &[f32]) -> (Vec<u8>, bool) {
    // In lanes, which a compiler may add at once.
    let mut sums = [0f32; 16];
    let (parts, rest) = values.as_chunks::<16>();
    for part in parts {
        for (sum, value) in sums.iter_mut().zip(part) {
            *sum += value;
        }
    }
    let sum = sums.iter().chain(rest).sum::<f32>();
    // The cast cuts off, so half a level more rounds.
    (values.iter().map(|value| (value * 255.0 + 0.5) as u8).collect(), sum.is_finite())
}

/// The levels of a heatmap for FiftyOne's App, which draws nothing where one is 0: that is kept for what the model did not see (`None`:
/// it saw all).
///
/// # Panics
/// The mask has other than one pixel for each level.
pub fn visible_levels(levels: &[u8], seen: Option<&BinaryMask>) -> Vec<u8> {
    match seen {
        None => levels.iter().map(|level| (*level).max(1)).collect(),
        Some(seen) => {
            assert_eq!(levels.len(), seen.pixels.len(), "a mask of another size");
            levels.iter().zip(&seen.pixels).map(|(level, seen)| (*level).max(u8::from(*seen != 0))).collect()
        }
    }
}

/// The levels `[height, width]` of a heatmap as an 8-bit grayscale PNG. FiftyOne's App draws level 0 transparent.
///
/// # Errors
/// The map has no pixel.
///
/// # Panics
/// `levels` are not `height * width` many.
pub fn encode_gray(height: usize, width: usize, levels: &[u8]) -> Result<Vec<u8>, MediaError> {
    assert_eq!(levels.len(), height * width, "levels of another shape");
    encode(height, width, levels, ColorType::Grayscale, BitDepth::Eight)
}

/// A 16-bit grayscale PNG of `height * width` levels.
///
/// # Errors
/// The picture has no pixel.
///
/// # Panics
/// There are not that many levels.
pub fn encode_gray_16(height: usize, width: usize, levels: &[u16]) -> Result<Vec<u8>, MediaError> {
    assert_eq!(levels.len(), height * width, "levels of another shape");
    let bytes: Vec<u8> = levels.iter().flat_map(|level| level.to_be_bytes()).collect();
    encode(height, width, &bytes, ColorType::Grayscale, BitDepth::Sixteen)
}

/// A picture as an 8-bit RGB PNG, its pixels as they are.
///
/// # Errors
/// The picture has no pixel.
pub fn encode_rgb(image: &RgbImage) -> Result<Vec<u8>, MediaError> {
    encode(image.height, image.width, &image.pixels, ColorType::Rgb, BitDepth::Eight)
}

fn encode(height: usize, width: usize, samples: &[u8], color: ColorType, depth: BitDepth) -> Result<Vec<u8>, MediaError> {
    let side = |side: usize| {
        u32::try_from(side).map_err(|_| MediaError::encode(format!("{height} x {width} pixels are too many for a PNG")))
    };
    let failed = |error: png::EncodingError| MediaError::encode(error.to_string());
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, side(width)?, side(height)?);
    encoder.set_color(color);
    encoder.set_depth(depth);
    // Written once and read seldom: a few per cent of size are not worth several times the time.
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&Cow::from(samples)).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_16_bits_survive() {
        let levels = [0, 65535, 300, 7, 256, 1];
        let image = image::load_from_memory(&encode_gray_16(2, 3, &levels).unwrap()).unwrap();
        assert_eq!(image.into_luma16().into_raw(), levels);
    }

    #[test]
    fn levels_are_rounded_and_what_is_not_finite_is_found() {
        let values = [0.0, 1.0, 0.5, 0.49 / 255.0, 0.5 / 255.0, 127.4f32 / 255.0].repeat(7);
        assert_eq!(super::levels(&values), ([0, 255, 128, 0, 1, 127].repeat(7), true));
        for place in [0, 20, 41] {
            for value in [f32::NAN, f32::INFINITY] {
                let mut values = values.clone();
                values[place] = value;
                assert!(!super::levels(&values).1, "{value} at {place}");
            }
        }
    }

    #[test]
    fn levels_survive() {
        let levels = [0, 255, 128, 0, 1, 127];
        let image = image::load_from_memory(&encode_gray(2, 3, &levels).unwrap()).unwrap();
        assert_eq!(image.color(), image::ColorType::L8);
        assert_eq!(image.into_luma8().into_raw(), levels);
    }

    #[test]
    fn a_map_without_pixels_is_refused() {
        assert!(encode_gray(0, 0, &[]).is_err());
    }

    #[test]
    fn colour_survives() {
        let image = RgbImage::new(1, 2, vec![1, 2, 3, 250, 128, 0]);
        let read = image::load_from_memory(&encode_rgb(&image).unwrap()).unwrap();
        assert_eq!(read.into_rgb8().into_raw(), image.pixels);
    }
}
