//! PNG files for the App and for people: heatmaps in 8-bit gray, overlays in colour.

use std::borrow::Cow;

use png::{BitDepth, ColorType, Compression, Encoder};

use super::{error::MediaError, image::RgbImage};

/// A heatmap `[height, width]` with values in `[0, 1]` as an 8-bit grayscale PNG: `round(255 * value)`. FiftyOne's App
/// draws level 0 transparent.
///
/// # Errors
/// A value is NaN or outside `[0, 1]`, or the map has no pixel.
///
/// # Panics
/// `values` are not `height * width` many.
pub fn encode_heatmap(height: usize, width: usize, values: &[f32]) -> Result<Vec<u8>, MediaError> {
    assert_eq!(values.len(), height * width, "values of another shape");
    if let Some(value) = values.iter().find(|value| !(0.0..=1.0).contains(*value)) {
        return Err(MediaError::encode(format!("a heatmap lies in [0, 1], but this one holds {value}")));
    }
    let levels: Vec<u8> = values.iter().map(|value| (value * 255.0).round() as u8).collect();
    encode(height, width, &levels, ColorType::Grayscale)
}

/// A picture as an 8-bit RGB PNG, its pixels as they are.
///
/// # Errors
/// The picture has no pixel.
pub fn encode_rgb(image: &RgbImage) -> Result<Vec<u8>, MediaError> {
    encode(image.height, image.width, &image.pixels, ColorType::Rgb)
}

fn encode(height: usize, width: usize, samples: &[u8], color: ColorType) -> Result<Vec<u8>, MediaError> {
    let side = |side: usize| {
        u32::try_from(side).map_err(|_| MediaError::encode(format!("{height} x {width} pixels are too many for a PNG")))
    };
    let failed = |error: png::EncodingError| MediaError::encode(error.to_string());
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, side(width)?, side(height)?);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
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
    fn levels_are_rounded_and_read_back() {
        let values = [0.0, 1.0, 0.5, 0.49999 / 255.0, 0.5 / 255.0, 127.4 / 255.0];
        let file = encode_heatmap(2, 3, &values).unwrap();
        let image = image::load_from_memory(&file).unwrap();
        assert_eq!(image.color(), image::ColorType::L8);
        assert_eq!(image.into_luma8().into_raw(), [0, 255, 128, 0, 1, 127]);
    }

    #[test]
    fn what_is_no_heatmap_is_refused() {
        for value in [f32::NAN, -0.1, 1.1, f32::INFINITY] {
            assert!(encode_heatmap(1, 1, &[value]).is_err(), "{value}");
        }
        assert!(encode_heatmap(0, 0, &[]).is_err());
    }

    #[test]
    fn colour_survives() {
        let image = RgbImage::new(1, 2, vec![1, 2, 3, 250, 128, 0]);
        let read = image::load_from_memory(&encode_rgb(&image).unwrap()).unwrap();
        assert_eq!(read.into_rgb8().into_raw(), image.pixels);
    }
}
