//! Animations: pictures with captions, one after the other, as a GIF that repeats.

use std::time::Duration;

use image::{
    Delay, Frame, RgbaImage,
    codecs::gif::{GifEncoder, Repeat},
};

use super::{
    error::MediaError,
    image::RgbImage,
    sheet::{Tile, captioned},
};

/// The longer side of a picture, in pixels: a few frames are as large as one photograph.
const SIDE: usize = 360;
/// Long enough to read the caption and to look.
const SHOWN: Duration = Duration::from_millis(1200);
/// From 1 (best colours) to 30 (fastest). At 10, what is lost is hardly seen.
const SPEED: i32 = 10;

/// The tiles as frames of a GIF without an end, each scaled to the same size (its longer side 360 pixels), under its caption.
///
/// # Errors
/// A picture cannot be resized or encoded.
pub fn animation(tiles: &[Tile]) -> Result<Vec<u8>, MediaError> {
    let failed = |error: image::ImageError| MediaError::encode(error.to_string());
    let mut file = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut file, SPEED);
    encoder.set_repeat(Repeat::Infinite).map_err(failed)?;
    for tile in tiles {
        let RgbImage { height, width, pixels, .. } = captioned(tile, SIDE)?;
        let pixels = pixels.chunks_exact(3).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], u8::MAX]).collect();
        let size = u32::try_from(width).ok().zip(u32::try_from(height).ok());
        let frame = size.and_then(|(width, height)| RgbaImage::from_raw(width, height, pixels));
        let frame = frame.ok_or_else(|| MediaError::encode(format!("{height} x {width} pixels are too many for a GIF")))?;
        let delay = Delay::from_saturating_duration(SHOWN);
        encoder.encode_frame(Frame::from_parts(frame, 0, 0, delay)).map_err(failed)?;
    }
    drop(encoder);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{AnimationDecoder, codecs::gif::GifDecoder, metadata::LoopCount};

    use super::*;

    #[test]
    fn tiles_are_frames_with_captions_and_begin_again() {
        let tile =
            |caption: &str, level: u8| Tile { caption: caption.into(), image: RgbImage::new(60, 120, vec![level; 60 * 120 * 3]) };
        let file = animation(&[tile("layer 1", 40), tile("layer 2", 200)]).expect("a file");
        let decoder = GifDecoder::new(Cursor::new(&file)).expect("a GIF");
        assert!(matches!(decoder.loop_count(), LoopCount::Infinite));
        let frames = decoder.into_frames().collect_frames().expect("frames");
        assert_eq!(frames.len(), 2);
        let size = |frame: &Frame| (frame.buffer().width(), frame.buffer().height());
        assert_eq!(size(&frames[0]), size(&frames[1]));
        for (frame, level) in frames.iter().zip([40_u8, 200]) {
            assert_eq!(Duration::from(frame.delay()), SHOWN);
            let (width, height) = size(frame);
            assert!(frame.buffer().get_pixel(width / 2, height / 2)[0].abs_diff(level) < 8);
            let is_written = |pixel: &image::Rgba<u8>| pixel[0] > 150;
            let caption = frame.buffer().rows().take(24).flatten().filter(|pixel| is_written(pixel)).count();
            assert!(caption > 20, "{caption} bright pixels are no caption");
        }
    }
}
