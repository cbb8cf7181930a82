//! TIFF to samples, by the layouts that Pillow knows: libraries undo the compression, what the bytes mean is said here.

mod bands;
mod chunks;
mod directory;

pub(super) use bands::decode_bands;
pub(super) use directory::is_tiff;

use self::{
    chunks::{Extent, Packing},
    directory::Directory,
};
use super::{
    orientation::Orientation,
    picture::{Picture, Samples},
};

/// A picture, and how it is to be turned.
pub(super) struct Tiff {
    pub(super) picture: Picture,
    pub(super) orientation: Orientation,
}

/// What the samples of a pixel mean.
#[derive(Clone, Copy, PartialEq)]
enum Meaning {
    Gray { is_inverted: bool },
    Rgb,
    Palette,
    Cmyk,
    YCbCr,
}

/// The layout of an image.
struct Layout {
    height: usize,
    width: usize,
    samples: usize,
    bits: usize,
    /// 1: unsigned, 2: signed, 3: floating point.
    format: u64,
    meaning: Meaning,
    /// The kinds of the samples beyond the colours: 0 unspecified, 1 associated alpha, 2 alpha.
    extra: Vec<u64>,
    is_planar: bool,
}

/// Decodes the first image of a TIFF. `check` sees height and width before any pixel memory is taken.
///
/// The outer error is a file that cannot be read, the inner one what `check` returned.
pub(super) fn decode<E>(
    bytes: &[u8],
    max_bytes: u64,
    check: impl FnOnce(usize, usize) -> Result<(), E>,
) -> Result<Result<Tiff, E>, String> {
    let tags = Directory::first(bytes).ok_or("its directory of tags is damaged or cut off")?;
    let side = |tag| tags.number(tag).and_then(|side| u32::try_from(side).ok()).map(|side| side as usize);
    let (width, height) = side(256).zip(side(257)).ok_or("it has no width or height")?;
    if let Err(refusal) = check(height, width) {
        return Ok(Err(refusal));
    }
    let layout = Layout::of(&tags, height, width)?;
    // As stored, as numbers and as colours they are in memory at once, unless all of that is the same; then only the file is beside it.
    let most = if layout.is_rgb_as_stored() { max_bytes.saturating_sub(bytes.len() as u64) } else { max_bytes / 3 };
    let stored = layout.whole().bytes() as u64;
    if stored > most {
        return Err(format!("its samples take {stored} bytes, the limit is {most}; make it smaller or take fewer bits"));
    }
    let samples = layout.read(&tags)?;
    let is_plain = layout.extra.is_empty() && matches!(layout.meaning, Meaning::Gray { .. } | Meaning::Rgb | Meaning::Palette);
    let orientation =
        tags.number(274).and_then(|value| u32::try_from(value).ok()).map_or(Orientation::Upright, Orientation::from_exif);
    // OpenCV multiplies colours by their alpha, converts others in its own way, and turns some.
    let is_a_mask = is_plain && orientation == Orientation::Upright && (layout.bits, layout.format) != (8, 2);
    let is_a_mask = is_a_mask && !(layout.meaning == Meaning::Palette && layout.bits < 8);
    Ok(Ok(Tiff { picture: Picture { is_a_mask, ..Picture::new(height, width, samples) }, orientation }))
}

impl Layout {
    /// As the file says it, of at most `most` samples for each pixel.
    fn stated(tags: &Directory<'_>, height: usize, width: usize, most: usize) -> Result<Layout, String> {
        let photometric = tags.number(262).unwrap_or(0);
        let meaning = match photometric {
            0 | 1 => Meaning::Gray { is_inverted: photometric == 0 },
            2 => Meaning::Rgb,
            3 => Meaning::Palette,
            5 => Meaning::Cmyk,
            6 => Meaning::YCbCr,
            8..=10 => return Err("its colours are CIE L*a*b*, which are not read: convert it to RGB".to_owned()),
            _ => return Err(format!("its kind of colours ({photometric}) is not read: convert it to RGB")),
        };
        let is_jpeg = tags.number(259) == Some(7);
        let count = tags.number(277).unwrap_or(if is_jpeg && matches!(photometric, 2 | 6) { 3 } else { 1 });
        let samples = usize::try_from(count).ok().filter(|count| (1..=most).contains(count));
        let samples = samples.ok_or_else(|| format!("{count} samples per pixel are not read: keep its colours alone"))?;
        let all_bits = match tags.numbers(258) {
            bits if bits.is_empty() => vec![1],
            bits => bits,
        };
        let bits = all_bits[0] as usize;
        let all_formats = tags.numbers(339);
        let format = all_formats.first().copied().unwrap_or(1);
        if all_bits.iter().take(samples).any(|other| *other != all_bits[0]) || all_formats.iter().any(|other| *other != format) {
            return Err("its samples are of several types: convert it to 8 bits per channel".to_owned());
        }
        let mut extra = tags.numbers(338);
        // Four undeclared samples of colour are taken for RGBA.
        if extra.is_empty() && meaning == Meaning::Rgb && samples == 4 {
            extra = vec![2];
        }
        Ok(Layout { height, width, samples, bits, format, meaning, extra, is_planar: tags.number(284) == Some(2) })
    }

    /// Of what Pillow reads.
    fn of(tags: &Directory<'_>, height: usize, width: usize) -> Result<Layout, String> {
        let layout = Layout::stated(tags, height, width, 6)?;
        let Layout { samples, bits, format, meaning, .. } = layout;
        let colors = match meaning {
            Meaning::Gray { .. } | Meaning::Palette => 1,
            Meaning::Rgb | Meaning::YCbCr => 3,
            Meaning::Cmyk => 4,
        };
        let is_known = match (meaning, bits, format) {
            (Meaning::Gray { .. } | Meaning::Palette, 1 | 2 | 4, 1) => samples == 1,
            (Meaning::Gray { .. }, 8, 1) | (Meaning::Palette, 8, 1) => samples <= 2,
            (Meaning::Gray { is_inverted: false }, 8, 2) => samples == 1,
            (Meaning::Gray { .. }, 16, 1) => samples == 1,
            (Meaning::Gray { is_inverted: false }, 16 | 32, 2) => samples == 1,
            (Meaning::Gray { is_inverted: false }, 32, 1) => samples == 1 && !tags.source().is_big_endian,
            (Meaning::Gray { .. }, 32, 3) => samples == 1,
            (Meaning::Rgb | Meaning::Cmyk, 8, 1) => true,
            (Meaning::Rgb, 16, 1) => samples <= 4,
            (Meaning::Cmyk, 16, 1) => samples == 4,
            (Meaning::YCbCr, 8, 1) => samples == 3,
            _ => false,
        };
        let is_inverted_alpha = meaning == Meaning::Gray { is_inverted: true } && samples > 1;
        if !is_known || is_inverted_alpha || samples != colors + layout.extra.len() {
            let kind = ["", "unsigned", "signed", "floating-point"].get(format as usize).unwrap_or(&"unknown");
            return Err(format!(
                "{samples} {kind} samples of {bits} bits per pixel of kind {} are not read: \
                 convert it to 8 bits per channel",
                tags.number(262).unwrap_or(0)
            ));
        }
        Ok(layout)
    }

    /// Whether the bytes of pixels are their colours.
    fn is_rgb_as_stored(&self) -> bool {
        (self.meaning, self.bits, self.samples) == (Meaning::Rgb, 8, 3)
    }

    fn read(&self, tags: &Directory<'_>) -> Result<Samples, String> {
        // What Pillow makes of such planes is no image.
        if self.is_planar && (!self.bits.is_multiple_of(8) || (self.bits == 16 && Packing::of(tags)?.is_raw())) {
            return Err("its planes are not read: write the samples of each pixel together".to_owned());
        }
        let bytes = self.bytes(tags)?;
        let is_big = tags.source().is_big_endian;
        let words = |bytes: &[u8]| -> Vec<u16> {
            let word = |pair: &[u8]| if is_big { [pair[0], pair[1]] } else { [pair[1], pair[0]] };
            bytes.chunks_exact(2).map(|pair| u16::from_be_bytes(word(pair))).collect()
        };
        let longs = |bytes: &[u8]| -> Vec<u32> {
            let long = |four: &[u8]| {
                let long = [four[0], four[1], four[2], four[3]];
                if is_big { u32::from_be_bytes(long) } else { u32::from_le_bytes(long) }
            };
            bytes.chunks_exact(4).map(long).collect()
        };
        Ok(match (self.meaning, self.bits, self.format) {
            (Meaning::Gray { is_inverted }, bits @ (1 | 2 | 4 | 8), _) if self.samples == 1 => {
                let scale = 255 / ((1u16 << bits) - 1) as u8;
                let levels = self.indices(&bytes).into_iter().map(|level| level * scale);
                Samples::Gray(levels.map(|level| if is_inverted { 255 - level } else { level }).collect())
            }
            (Meaning::Gray { .. }, 8, _) => match self.extra[..] {
                [0] => Samples::Gray(bytes.into_iter().step_by(2).collect()),
                _ => Samples::GrayAlpha(bytes),
            },
            // Pillow inverts 8 bits, not 16.
            (Meaning::Gray { .. }, 16, 1) => Samples::Gray16(words(&bytes)),
            (Meaning::Gray { .. }, 16, _) => {
                Samples::Integers(words(&bytes).into_iter().map(|word| i32::from(word as i16)).collect())
            }
            (Meaning::Gray { .. }, _, 3) => Samples::Floats(longs(&bytes).into_iter().map(f32::from_bits).collect()),
            (Meaning::Gray { .. }, ..) => Samples::Integers(longs(&bytes).into_iter().map(|long| long as i32).collect()),
            (Meaning::Palette, ..) => self.colors(&bytes, &tags.numbers(320))?,
            (Meaning::Rgb, 8, _) if self.is_rgb_as_stored() => Samples::Rgb(bytes),
            (Meaning::Rgb, 8, _) => self.rgb(&bytes),
            (Meaning::Rgb, ..) => {
                let words = words(&bytes);
                if self.extra.first() == Some(&1) {
                    let pixels = words.chunks_exact(4).flat_map(|pixel| {
                        let high = |word: u16| (word >> 8) as u8;
                        unmultiplied([high(pixel[0]), high(pixel[1]), high(pixel[2])], high(pixel[3]))
                    });
                    return Ok(Samples::Rgb(pixels.collect()));
                }
                Samples::Rgb16(words.chunks_exact(self.samples).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect())
            }
            (Meaning::Cmyk, bits, _) => {
                let bytes = if bits == 16 { words(&bytes).into_iter().map(|word| (word >> 8) as u8).collect() } else { bytes };
                Samples::Rgb(bytes.chunks_exact(self.samples).flat_map(cmyk_to_rgb).collect())
            }
            (Meaning::YCbCr, ..) if tags.number(259) == Some(7) => Samples::Rgb(bytes),
            (Meaning::YCbCr, ..) => Samples::Rgb(bytes.chunks_exact(3).flat_map(ycbcr_to_rgb).collect()),
        })
    }

    /// The samples of all pixels, each row in whole bytes, the samples of a pixel beside each other.
    fn bytes(&self, tags: &Directory<'_>) -> Result<Vec<u8>, String> {
        let packing = Packing::of(tags)?;
        // Those that are compressed come with fewer samples of colour, and libtiff's own arithmetic.
        if self.meaning == Meaning::YCbCr && !packing.is_raw() && !packing.is_jpeg() {
            return Err("its YCbCr colours are compressed, which is not read: convert it to RGB".to_owned());
        }
        let is_tiled = !tags.numbers(324).is_empty();
        let (places, lengths) = if is_tiled { (324, 325) } else { (273, 279) };
        let (places, lengths) = (tags.numbers(places), tags.numbers(lengths));
        let side = |tag, whole: usize| match tags.number(tag) {
            Some(side) => {
                usize::try_from(side).ok().filter(|side| *side > 0).ok_or("a side of its strips or tiles is 0".to_owned())
            }
            None => Ok(whole),
        };
        let (rows, columns) = if is_tiled {
            (side(323, self.height)?, side(322, self.width)?)
        } else {
            (side(278, self.height)?.min(self.height), self.width)
        };
        let planes = if self.is_planar { self.samples } else { 1 };
        let in_chunk = if self.is_planar { 1 } else { self.samples };
        // Tiles reach over the edge, by less than a tile.
        let is_far = |side: usize, whole: usize| side > whole.max(1 << 12).next_multiple_of(16);
        let chunk = Extent { rows, columns, samples: in_chunk, bits: self.bits };
        if is_far(rows, self.height) || is_far(columns, self.width) || chunk.bytes() > self.whole().bytes() + (1 << 24) {
            return Err("its tiles are much larger than the image".to_owned());
        }
        // Each takes time for its length.
        let total = lengths.iter().fold(0u64, |total, length| total.saturating_add(*length));
        if !packing.is_raw() && total > 4 * tags.source().bytes.len() as u64 {
            return Err("its strips or tiles are together much longer than the file".to_owned());
        }
        let mut bytes = vec![0; self.whole().bytes()];
        let across = self.width.div_ceil(columns);
        let per_plane = across * self.height.div_ceil(rows);
        // Pillow puts what is too much over what was there before.
        if places.len() < per_plane * planes || (packing.is_raw() && places.len() > per_plane * planes) {
            return Err(format!("it has {} strips or tiles instead of {}", places.len(), per_plane * planes));
        }
        for (index, &place) in places.iter().take(per_plane * planes).enumerate() {
            let (plane, y, x) = (index / per_plane, index % per_plane / across * rows, index % across * columns);
            let stored_rows = if is_tiled { rows } else { rows.min(self.height - y) };
            let extent = Extent { rows: stored_rows, columns, samples: in_chunk, bits: self.bits };
            let length = lengths.get(index).copied().unwrap_or(u64::MAX);
            let chunk = packing.unpack(tags.source(), place, length, extent)?;
            self.place(&mut bytes, &chunk, extent, (y, x), plane);
        }
        Ok(bytes)
    }

    fn whole(&self) -> Extent {
        Extent { rows: self.height, columns: self.width, samples: self.samples, bits: self.bits }
    }

    /// Puts a chunk in its place.
    fn place(&self, bytes: &mut [u8], chunk: &[u8], extent: Extent, (y, x): (usize, usize), plane: usize) {
        let row_bytes = (self.width * self.samples * self.bits).div_ceil(8);
        let columns = extent.columns.min(self.width - x);
        let size = self.bits / 8;
        for (row, stored) in chunk.chunks_exact(extent.bytes_per_row()).enumerate().take(self.height - y) {
            let target = &mut bytes[(y + row) * row_bytes..][..row_bytes];
            if self.is_planar {
                for (column, sample) in stored.chunks_exact(size).take(columns).enumerate() {
                    target[((x + column) * self.samples + plane) * size..][..size].copy_from_slice(sample);
                }
            } else {
                // The sides of tiles are multiples of 16, so that they begin at whole bytes.
                let start = x * self.samples * self.bits / 8;
                let count = (columns * self.samples * self.bits).div_ceil(8).min(row_bytes - start);
                target[start..][..count].copy_from_slice(&stored[..count]);
            }
        }
    }

    /// Numbers of up to 8 bits, one for each pixel.
    fn indices(&self, bytes: &[u8]) -> Vec<u8> {
        let row_bytes = (self.width * self.samples * self.bits).div_ceil(8).max(1);
        let per_byte = 8 / self.bits;
        let number = |row: &[u8], x: usize| {
            let shift = 8 - self.bits * (x % per_byte + 1);
            (u16::from(row[x / per_byte] >> shift) & ((1 << self.bits) - 1)) as u8
        };
        bytes.chunks_exact(row_bytes).flat_map(|row| (0..self.width).map(move |x| number(row, x))).collect()
    }

    fn colors(&self, bytes: &[u8], palette: &[u64]) -> Result<Samples, String> {
        let indices = if self.samples == 1 { self.indices(bytes) } else { bytes.iter().copied().step_by(2).collect() };
        let count = palette.len() / 3;
        if count == 0 {
            return Err("it has no palette".to_owned());
        }
        let color =
            |index: u8| [0, 1, 2].map(|channel| palette.get(channel * count + usize::from(index)).map_or(0, |v| (v >> 8) as u8));
        let is_inside = |index: &u8| usize::from(*index) < count;
        Ok(Samples::Rgb(indices.into_iter().flat_map(|index| if is_inside(&index) { color(index) } else { [0; 3] }).collect()))
    }

    fn rgb(&self, bytes: &[u8]) -> Samples {
        let pixels = bytes.chunks_exact(self.samples);
        Samples::Rgb(match self.extra.first() {
            Some(1) => pixels.flat_map(|pixel| unmultiplied([pixel[0], pixel[1], pixel[2]], pixel[3])).collect(),
            _ => pixels.flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
        })
    }
}

/// Colours that were multiplied by their alpha, as Pillow divides them.
fn unmultiplied(color: [u8; 3], alpha: u8) -> [u8; 3] {
    match alpha {
        0 => [0; 3],
        255 => color,
        _ => color.map(|level| (u32::from(level) * 255 / u32::from(alpha)).min(255) as u8),
    }
}

/// Pillow's conversion: `255 - k - c * (255 - k) / 255`, with its rounding.
fn cmyk_to_rgb(cmyk: &[u8]) -> [u8; 3] {
    let white = 255 - i32::from(cmyk[3]);
    [0, 1, 2].map(|channel| {
        let product = i32::from(cmyk[channel]) * white + 128;
        (white - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

/// Pillow's conversion of its mode `YCbCr`: tables of 6 fractional bits.
fn ycbcr_to_rgb(pixel: &[u8]) -> [u8; 3] {
    let (luma, blue, red) = (i32::from(pixel[0]), f64::from(pixel[1]) - 128.0, f64::from(pixel[2]) - 128.0);
    let part = |factor: f64, chroma: f64| (factor * chroma * 64.0 + 0.5) as i32;
    let level = |sum: i32| (luma + (sum >> 6)).clamp(0, 255) as u8;
    [level(part(1.402, red)), level(part(-0.34414, blue) + part(-0.71414, red)), level(part(1.772, blue))]
}
