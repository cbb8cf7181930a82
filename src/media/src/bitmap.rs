//! Bitmaps, icons and Targa files, where Pillow reads them otherwise than the decoder does.

use super::picture::{Picture, Samples};

/// Brings colours of 5 and 6 bits to 8 as Pillow does, which rounds down.
pub(super) fn scale_as_pillow(bytes: &[u8], picture: &mut Picture) {
    if bytes.get(28..30) != Some(&[16, 0]) {
        return;
    }
    let has_masks = bytes.get(30..34) == Some(&[3, 0, 0, 0]);
    let bits = [0, 1, 2].map(|channel: usize| match bytes.get(54 + 4 * channel..58 + 4 * channel) {
        Some(mask) if has_masks => mask.iter().map(|byte| byte.count_ones()).sum(),
        _ => 5,
    });
    scale(picture, bits);
}

/// Whether no colours are packed in other bits than 8 each, which OpenCV scales otherwise.
pub(super) fn is_of_whole_bytes(bytes: &[u8]) -> bool {
    let is_of_the_old_kind = bytes.get(14..18) == Some(&[12, 0, 0, 0]);
    !is_of_the_old_kind && bytes.get(28..30) != Some(&[16, 0]) && bytes.get(30..34) != Some(&[3, 0, 0, 0])
}

/// As [`scale_as_pillow`] of a Targa file, whose colours, or those of whose palette, have 5 bits.
pub(super) fn scale_targa_as_pillow(bytes: &[u8], picture: &mut Picture) {
    let Some(&[_, _, kind, _, _, _, _, palette_bits, _, _, _, _, _, _, _, _, depth, _]) = bytes.first_chunk() else { return };
    let bits = if kind & 3 == 1 { palette_bits } else { depth };
    if kind & 3 < 3 && matches!(bits, 15 | 16) {
        scale(picture, [5; 3]);
    }
}

fn scale(picture: &mut Picture, bits: [u32; 3]) {
    let (samples, channels) = match &mut picture.samples {
        Samples::Rgb(samples) => (samples, 3),
        Samples::Rgba(samples) => (samples, 4),
        _ => return,
    };
    let scales = bits.map(|bits| (1u32 << bits.min(8)) - 1);
    for pixel in samples.chunks_exact_mut(channels) {
        for (level, most) in pixel.iter_mut().zip(scales) {
            let stored = (u32::from(*level) * most + 127) / 255;
            *level = (stored * 255 / most.max(1)) as u8;
        }
    }
}

/// Whether run lengths leave pixels out.
pub(super) fn skips_pixels(bytes: &[u8]) -> bool {
    let number = |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let (width, pixels_per_byte) = match (number(30), bytes.get(28)) {
        (1, Some(8)) => (number(18), 1),
        (2, Some(4)) => (number(18), 2),
        _ => return false,
    };
    let (mut at, mut column) = (number(10), 0);
    while let Some(&[count, value]) = bytes.get(at..at + 2) {
        at += 2;
        match (count, value) {
            // The end of a row, or of the picture.
            (0, 0 | 1) if column < width && (value == 0 || column > 0) => return true,
            (0, 0) => column = 0,
            (0, 1) => break,
            (0, 2) => return true,
            (0, count) => {
                column += usize::from(count);
                at += usize::from(count).div_ceil(pixels_per_byte).next_multiple_of(2);
            }
            (count, _) => column += usize::from(count),
        }
    }
    false
}

/// What an icon's file holds.
pub(super) enum IconContent<'a> {
    Png(&'a [u8]),
    /// A bitmap, made a file of its own.
    Bitmap(Vec<u8>),
}

/// The largest icon, of several the one of the fewest bits.
pub(super) fn largest_icon(bytes: &[u8]) -> Option<IconContent<'_>> {
    let count = usize::from(u16::from_le_bytes([*bytes.get(4)?, *bytes.get(5)?]));
    let entries = bytes.get(6..6 + 16 * count)?.chunks_exact(16);
    let side = |byte: u8| if byte == 0 { 256 } else { usize::from(byte) };
    let entry = entries.min_by_key(|entry| {
        let bits = match (u16::from_le_bytes([entry[6], entry[7]]), entry[2]) {
            (0, 0) => 256,
            (0, colors) => usize::from(colors).next_power_of_two().ilog2() as usize,
            (bits, _) => usize::from(bits),
        };
        (std::cmp::Reverse(side(entry[0]) * side(entry[1])), bits)
    })?;
    let number = |at: usize| u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]) as usize;
    let content = bytes.get(number(12)..)?;
    if content.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some(IconContent::Png(content));
    }
    // Its height is that of the colours and of the mask below them.
    let height = u32::from_le_bytes(content.get(8..12)?.try_into().ok()?);
    let bits = u16::from_le_bytes(content.get(14..16)?.try_into().ok()?);
    let header = u32::from_le_bytes(content.get(..4)?.try_into().ok()?);
    let declared = u32::from_le_bytes(content.get(32..36)?.try_into().ok()?);
    let colors = if bits <= 8 { if declared == 0 { 1 << bits } else { declared.min(256) } } else { 0 };
    let mut file = b"BM".to_vec();
    file.extend((content.len() as u32).wrapping_add(14).to_le_bytes());
    file.extend([0; 4]);
    file.extend(header.wrapping_add(14 + 4 * colors).to_le_bytes());
    file.extend_from_slice(content);
    file[14 + 8..14 + 12].copy_from_slice(&(height / 2).to_le_bytes());
    Some(IconContent::Bitmap(file))
}
