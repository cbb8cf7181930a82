//! TIFF to all its samples, at full depth: gray, colour and bands beyond them, which Pillow cuts to 8 bits or refuses.

use super::{Layout, Meaning, directory::Directory};
use crate::{
    bands::{BandImage, Depth, MAX_CHANNELS},
    orientation::Orientation,
    turns::wait_for_turn,
};

/// Decodes the first image of a TIFF; `None` where its samples are no channels (palettes, CMYK, YCbCr) or are smaller than a byte.
/// `check` sees height and width before any pixel memory is taken.
///
/// The outer error is a file that cannot be read, the inner one what `check` returned.
pub(in super::super) fn decode_bands<E>(
    bytes: &[u8],
    max_bytes: u64,
    check: impl FnOnce(usize, usize) -> Result<(), E>,
) -> Result<Option<Result<BandImage, E>>, String> {
    let tags = Directory::first(bytes).ok_or("its directory of tags is damaged or cut off")?;
    let side = |tag| tags.number(tag).and_then(|side| u32::try_from(side).ok()).map(|side| side as usize);
    let (width, height) = side(256).zip(side(257)).ok_or("it has no width or height")?;
    let layout = Layout::stated(&tags, height, width, MAX_CHANNELS)?;
    if !matches!(layout.meaning, Meaning::Gray { .. } | Meaning::Rgb) || layout.bits < 8 {
        return Ok(None);
    }
    if let Err(refusal) = check(height, width) {
        return Ok(Some(Err(refusal)));
    }
    let Layout { samples: channels, bits, format, .. } = layout;
    // As stored and as numbers they are in memory at once.
    let count = height as u64 * width as u64 * channels as u64;
    let (stored, numbers) = (count.saturating_mul(bits as u64 / 8), count.saturating_mul(4));
    if stored.max(numbers) > max_bytes {
        return Err(format!("its samples take {} bytes, the limit is {max_bytes}; make it smaller", stored.max(numbers)));
    }
    let convert: fn([u8; 8]) -> f32 = match (bits, format) {
        (8, 1) => |b| f32::from(b[7]),
        (8, 2) => |b| f32::from(b[7] as i8),
        (16, 1) => |b| u64::from_be_bytes(b) as f32,
        (16, 2) => |b| f32::from(u64::from_be_bytes(b) as i16),
        (32, 1) => |b| u64::from_be_bytes(b) as f32,
        (32, 2) => |b| (u64::from_be_bytes(b) as i32) as f32,
        (32, 3) => |b| f32::from_bits(u64::from_be_bytes(b) as u32),
        (64, 3) => |b| f64::from_bits(u64::from_be_bytes(b)) as f32,
        _ => return Err(format!("its samples of {bits} bits are not read: write them as 8, 16 or 32 bits")),
    };
    wait_for_turn(0, stored + numbers);
    let bytes = layout.bytes(&tags)?;
    let is_big = tags.source().is_big_endian;
    let mut samples: Vec<f32> = bytes
        .chunks_exact(bits / 8)
        .map(|stored| {
            let mut number = [0; 8];
            number[8 - stored.len()..].copy_from_slice(stored);
            if !is_big {
                number[8 - stored.len()..].reverse();
            }
            convert(number)
        })
        .collect();
    if let (Meaning::Gray { is_inverted: true }, 8 | 16, 1) = (layout.meaning, bits, format) {
        let most = ((1_u32 << bits) - 1) as f32;
        samples.iter_mut().for_each(|sample| *sample = most - *sample);
    }
    let depth = match (bits, format) {
        (8, 1) => Depth::Bits8,
        (16, 1) => Depth::Bits16,
        _ => Depth::Other,
    };
    let has_alpha = matches!(tags.numbers(338).last(), Some(1 | 2)) && channels > 1;
    let orientation =
        tags.number(274).and_then(|value| u32::try_from(value).ok()).map_or(Orientation::Upright, Orientation::from_exif);
    // As Pillow turns what it loads.
    let (samples, height, width) = orientation.turn(&samples, height, width, channels);
    let image = BandImage { height, width, channels, samples, depth, has_alpha, orientation: Orientation::Upright };
    Ok(Some(Ok(image)))
}
