//! PBM, PGM, PPM and PFM. Levels whose largest is not 255 are scaled as Pillow scales them, which no library does.

use super::picture::{Picture, Samples};

/// Decodes a file. `check` sees height and width before any pixel memory is taken.
///
/// The outer error is a broken file, the inner one what `check` returned.
pub(super) fn decode<E>(bytes: &[u8], check: impl FnOnce(usize, usize) -> Result<(), E>) -> Result<Result<Picture, E>, String> {
    let kind = bytes.get(1).copied().unwrap_or_default();
    let mut reader = Reader { rest: bytes.get(2..).unwrap_or_default() };
    let (width, height) = (reader.number()?, reader.number()?);
    if let Err(refusal) = check(height as usize, width as usize) {
        return Ok(Err(refusal));
    }
    let (height, width) = (height as usize, width as usize);
    let samples = match kind {
        b'1' => Samples::Gray(reader.bits(height * width)?),
        b'4' => Samples::Gray(reader.packed_bits(height, width)?),
        b'f' => Samples::Floats(reader.floats(height, width)?),
        _ => {
            let most = reader.number()?;
            if !(1..65536).contains(&most) {
                return Err(format!("its largest level is {most}; 1 to 65535 are possible"));
            }
            let is_color = matches!(kind, b'3' | b'6');
            let count = height * width * if is_color { 3 } else { 1 };
            let levels = if kind <= b'3' { reader.text(count, most)? } else { reader.binary(count, most)? };
            let scale = |wanted: u32| {
                move |level: u16| {
                    let scaled = f64::from(level) / f64::from(most) * f64::from(wanted);
                    scaled.round_ties_even().min(f64::from(wanted))
                }
            };
            match is_color {
                true => Samples::Rgb(levels.into_iter().map(scale(255)).map(|level| level as u8).collect()),
                false if most > 255 => {
                    Samples::Integers(levels.into_iter().map(scale(65535)).map(|level| level as i32).collect())
                }
                false => Samples::Gray(levels.into_iter().map(scale(255)).map(|level| level as u8).collect()),
            }
        }
    };
    // OpenCV does not scale levels.
    let is_a_mask = matches!(&samples, Samples::Gray(_) | Samples::Rgb(_)) && Reader::largest(bytes) == Some(255);
    Ok(Ok(Picture { is_a_mask, ..Picture::new(height, width, samples) }))
}

/// Whether [`decode`] gives other levels than those of the file.
pub(super) fn changes_levels(bytes: &[u8]) -> bool {
    match (bytes.get(1), Reader::largest(bytes)) {
        (Some(b'2' | b'5'), Some(most)) => !matches!(most, 255 | 65535),
        (Some(b'3' | b'6'), Some(most)) => most != 255,
        _ => false,
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

const CUT_OFF: &str = "the file ends before the image does (truncated)";

impl<'a> Reader<'a> {
    /// The largest level, of the kinds that say one.
    fn largest(bytes: &[u8]) -> Option<u32> {
        let mut reader = Reader { rest: bytes.get(2..)? };
        let [_, _, most] = [(); 3].map(|()| reader.number().ok());
        most.filter(|_| matches!(bytes[1], b'2' | b'3' | b'5' | b'6'))
    }

    /// The next word; a `#` begins a comment. What ends it, one byte, is gone.
    fn word(&mut self) -> Result<&'a [u8], String> {
        loop {
            self.rest = self.rest.trim_ascii_start();
            if self.rest.first() != Some(&b'#') {
                break;
            }
            let end = self.rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(self.rest.len());
            self.rest = &self.rest[end..];
        }
        let length = self.rest.iter().position(u8::is_ascii_whitespace).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest.get(1..).unwrap_or_default();
        if word.is_empty() { Err(CUT_OFF.to_owned()) } else { Ok(word) }
    }

    fn number(&mut self) -> Result<u32, String> {
        let word = self.word()?;
        let number = std::str::from_utf8(word).ok().filter(|word| word.len() <= 10).and_then(|word| word.parse().ok());
        number.ok_or_else(|| {
            format!("it says `{}` where a number should be", String::from_utf8_lossy(&word[..word.len().min(20)]).escape_debug())
        })
    }

    fn text(&mut self, count: usize, most: u32) -> Result<Vec<u16>, String> {
        // No more in advance than the file can hold.
        let mut levels = Vec::with_capacity(count.min(self.rest.len()));
        for _ in 0..count {
            match self.number()? {
                level if level <= most => levels.push(level as u16),
                level => return Err(format!("it holds the level {level}, and says that {most} is the largest")),
            }
        }
        Ok(levels)
    }

    fn binary(&mut self, count: usize, most: u32) -> Result<Vec<u16>, String> {
        if most < 256 {
            return Ok(self.bytes(count)?.iter().copied().map(u16::from).collect());
        }
        Ok(self.bytes(2 * count)?.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect())
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], String> {
        self.rest.get(..count).ok_or_else(|| CUT_OFF.to_owned())
    }

    /// 0 and 1 in text, with or without spaces between; 1 is black.
    fn bits(&mut self, count: usize) -> Result<Vec<u8>, String> {
        let mut levels = Vec::with_capacity(count.min(self.rest.len()));
        let mut is_comment = false;
        for byte in self.rest {
            match byte {
                _ if levels.len() == count => break,
                b'\n' | b'\r' => is_comment = false,
                _ if is_comment => {}
                b'#' => is_comment = true,
                b'0' => levels.push(255),
                b'1' => levels.push(0),
                byte if byte.is_ascii_whitespace() => {}
                _ => return Err("it holds more than 0 and 1".to_owned()),
            }
        }
        if levels.len() == count { Ok(levels) } else { Err(CUT_OFF.to_owned()) }
    }

    fn packed_bits(&mut self, height: usize, width: usize) -> Result<Vec<u8>, String> {
        let per_row = width.div_ceil(8);
        let rows = self.bytes(height * per_row)?.chunks_exact(per_row);
        let level = |row: &[u8], x: usize| if row[x / 8] >> (7 - x % 8) & 1 == 1 { 0 } else { 255 };
        Ok(rows.flat_map(|row| (0..width).map(move |x| level(row, x))).collect())
    }

    /// The last row comes first; a negative scale says that the low byte does.
    fn floats(&mut self, height: usize, width: usize) -> Result<Vec<f32>, String> {
        let word = self.word()?;
        let scale: f64 = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()).unwrap_or_default();
        if scale == 0.0 || !scale.is_finite() {
            return Err("its scale is not a number".to_owned());
        }
        let float = |four: &[u8]| {
            let four = [four[0], four[1], four[2], four[3]];
            if scale < 0.0 { f32::from_le_bytes(four) } else { f32::from_be_bytes(four) }
        };
        let rows = self.bytes(4 * height * width)?.rchunks_exact(4 * width);
        Ok(rows.flat_map(|row| row.chunks_exact(4).map(float)).collect())
    }
}
