//! What GIFs look like around a first frame that is smaller than the picture.

use super::picture::{Picture, Samples};

/// Gives the pixels outside of the first frame the colour that Pillow gives them: that of the transparent index, or of index 0.
pub(super) fn fill_around_first_frame(bytes: &[u8], picture: &mut Picture) {
    let Some(Frame { left, top, width, height, color }) = first_frame(bytes) else { return };
    let (samples, channels) = match &mut picture.samples {
        Samples::Rgb(samples) => (samples, 3),
        Samples::Rgba(samples) => (samples, 4),
        _ => return,
    };
    if (left, top) == (0, 0) && width >= picture.width && height >= picture.height {
        return;
    }
    for (y, row) in samples.chunks_exact_mut(picture.width * channels).enumerate() {
        for (x, pixel) in row.chunks_exact_mut(channels).enumerate() {
            if !(top..top + height).contains(&y) || !(left..left + width).contains(&x) {
                pixel[..3].copy_from_slice(&color);
            }
        }
    }
}

struct Frame {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    /// Of the index that stands for what the frame leaves open.
    color: [u8; 3],
}

fn first_frame(bytes: &[u8]) -> Option<Frame> {
    let palette = |flags: u8, start: usize| {
        let length = if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
        Some((bytes.get(start..start + length)?, start + length))
    };
    let (global, mut at) = palette(*bytes.get(10)?, 13)?;
    let mut open = 0;
    loop {
        match bytes.get(at)? {
            0x21 => {
                if bytes.get(at + 1..at + 3)? == [0xf9, 4] && bytes.get(at + 3)? & 1 == 1 {
                    open = usize::from(*bytes.get(at + 6)?);
                }
                at += 2;
                while let length @ 1.. = usize::from(*bytes.get(at)?) {
                    at += 1 + length;
                }
                at += 1;
            }
            0x2c => {
                let number = |at: usize| Some(usize::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
                let (local, _) = palette(*bytes.get(at + 9)?, at + 10)?;
                let colors = if local.is_empty() { global } else { local };
                let color = colors.get(3 * open..)?.first_chunk().copied()?;
                return Some(Frame {
                    left: number(at + 1)?,
                    top: number(at + 3)?,
                    width: number(at + 5)?,
                    height: number(at + 7)?,
                    color,
                });
            }
            _ => return None,
        }
    }
}
