//! The strips and tiles of a TIFF: bytes as they would be without compression.

use std::io::Read;

use flate2::read::ZlibDecoder;
use weezl::{BitOrder, LzwStatus, decode::Configuration};

use super::directory::{Directory, Source};
use crate::jpeg;

/// How chunks are stored.
pub(super) struct Packing<'a> {
    compression: u64,
    predictor: u64,
    /// Whether the first pixel of a byte is in its lowest bit.
    is_reversed: bool,
    jpeg_tables: Option<&'a [u8]>,
    /// Whether JPEGs hold luminance and chroma, to be made colours.
    is_ycbcr: bool,
    /// Of fax codes.
    is_two_dimensional: bool,
}

/// The extent of one chunk, as stored.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Samples of each pixel in this chunk.
    pub(super) samples: usize,
    pub(super) bits: usize,
}

impl Extent {
    pub(super) fn bytes_per_row(&self) -> usize {
        (self.columns * self.samples * self.bits).div_ceil(8)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes_per_row() * self.rows
    }
}

impl<'a> Packing<'a> {
    pub(super) fn of(tags: &Directory<'a>) -> Result<Packing<'a>, String> {
        let compression = tags.number(259).unwrap_or(1);
        let name = match compression {
            1 | 3 | 4 | 5 | 7 | 8 | 32946 | 32773 | 50000 => None,
            2 => Some("CCITT run lengths"),
            6 => Some("JPEG of the old kind"),
            34887 => Some("LERC"),
            34925 => Some("LZMA"),
            50001 => Some("WebP"),
            _ => Some("an unknown method"),
        };
        if let Some(name) = name {
            return Err(format!("its compression ({name}, {compression}) is not read: write it with LZW, Deflate or none"));
        }
        Ok(Packing {
            compression,
            predictor: tags.number(317).unwrap_or(1),
            is_reversed: tags.number(266) == Some(2),
            jpeg_tables: tags.bytes(347),
            is_ycbcr: tags.number(262) == Some(6),
            is_two_dimensional: tags.number(292).is_some_and(|options| options & 1 == 1),
        })
    }

    pub(super) fn is_raw(&self) -> bool {
        self.compression == 1
    }

    pub(super) fn is_jpeg(&self) -> bool {
        self.compression == 7
    }

    /// The chunk of `length` bytes at `start`.
    pub(super) fn unpack(&self, source: Source<'_>, start: u64, length: u64, extent: Extent) -> Result<Vec<u8>, String> {
        let wanted = extent.bytes();
        // Pillow looks at no lengths of what is not compressed.
        let length = if self.is_raw() { wanted as u64 } else { length };
        let stored = source.get(start, length).ok_or("the file ends before the image does (truncated)")?;
        let reversed: Vec<u8>;
        let stored = match self.is_reversed && !self.is_jpeg() {
            true => {
                reversed = stored.iter().map(|byte| byte.reverse_bits()).collect();
                &reversed
            }
            false => stored,
        };
        let mut bytes = match self.compression {
            1 => stored.to_vec(),
            3 | 4 => self.fax(stored, extent)?,
            5 => lzw(stored, wanted)?,
            7 => self.jpeg(stored, extent)?,
            32773 => packbits(stored, wanted),
            50000 => {
                zstd::bulk::decompress(stored, wanted).map_err(|error| format!("its Zstandard data are damaged: {error}"))?
            }
            _ => {
                let mut bytes = Vec::new();
                let inflated = ZlibDecoder::new(stored).take(wanted as u64).read_to_end(&mut bytes);
                inflated.map_err(|error| format!("its Deflate data are damaged: {error}"))?;
                bytes
            }
        };
        if bytes.len() < wanted {
            return Err(format!("a strip or tile holds {} bytes instead of {wanted}: it is damaged", bytes.len()));
        }
        bytes.truncate(wanted);
        if matches!(self.compression, 5 | 8 | 32946 | 50000) {
            self.undo_predictor(&mut bytes, extent, source.is_big_endian)?;
        }
        Ok(bytes)
    }

    fn undo_predictor(&self, bytes: &mut [u8], extent: Extent, is_big_endian: bool) -> Result<(), String> {
        let (samples, row) = (extent.samples, extent.bytes_per_row().max(1));
        match (self.predictor, extent.bits) {
            (1, _) => {}
            (2, 8) => {
                for row in bytes.chunks_exact_mut(row) {
                    for at in samples..row.len() {
                        row[at] = row[at].wrapping_add(row[at - samples]);
                    }
                }
            }
            (2, 16 | 32) => {
                let size = extent.bits / 8;
                let number = |bytes: &[u8]| {
                    let fold = |number: u32, byte: &u8| number << 8 | u32::from(*byte);
                    if is_big_endian { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) }
                };
                for row in bytes.chunks_exact_mut(row) {
                    for at in (samples * size..row.len()).step_by(size) {
                        let sum = number(&row[at..at + size]).wrapping_add(number(&row[at - samples * size..][..size]));
                        match is_big_endian {
                            true => row[at..at + size].copy_from_slice(&sum.to_be_bytes()[4 - size..]),
                            false => row[at..at + size].copy_from_slice(&sum.to_le_bytes()[..size]),
                        }
                    }
                }
            }
            // Floats: differences of bytes, the bytes of one place beside each other, the highest place first.
            (3, 32) => {
                for row in bytes.chunks_exact_mut(row) {
                    for at in samples..row.len() {
                        row[at] = row[at].wrapping_add(row[at - samples]);
                    }
                    let (places, count) = (row.to_vec(), row.len() / 4);
                    for (at, value) in row.chunks_exact_mut(4).enumerate() {
                        for (place, byte) in value.iter_mut().enumerate() {
                            *byte = places[count * if is_big_endian { place } else { 3 - place } + at];
                        }
                    }
                }
            }
            (predictor, bits) => return Err(format!("its predictor {predictor} of {bits} bits is not read")),
        }
        Ok(())
    }

    fn fax(&self, stored: &[u8], extent: Extent) -> Result<Vec<u8>, String> {
        let width = u16::try_from(extent.columns).map_err(|_| "it is too wide for fax codes")?;
        if extent.bits != 1 || extent.samples != 1 || (self.compression == 3 && self.is_two_dimensional) {
            return Err("fax codes of this kind are not read: write it with LZW, Deflate or none".to_owned());
        }
        let (wanted, per_row) = (extent.bytes(), extent.bytes_per_row());
        let mut bytes: Vec<u8> = Vec::with_capacity(wanted);
        let line = |transitions: &[u16]| {
            if bytes.len() < wanted {
                let start = bytes.len();
                bytes.resize(start + per_row, 0);
                for (x, color) in fax::decoder::pels(transitions, width).enumerate() {
                    if color == fax::Color::Black {
                        bytes[start + x / 8] |= 0x80 >> (x % 8);
                    }
                }
            }
        };
        // No line takes more codes; without an end a small strip could hold all of a large file.
        let input = stored.iter().copied().take((extent.columns * 4 + 64) * extent.rows);
        match self.compression {
            3 => drop(fax::decoder::decode_g3(input, line)),
            _ => drop(fax::decoder::decode_g4(input, width, u16::try_from(extent.rows).ok(), line)),
        }
        Ok(bytes)
    }

    fn jpeg(&self, stored: &[u8], extent: Extent) -> Result<Vec<u8>, String> {
        if extent.bits != 8 {
            return Err("only JPEGs of 8 bits are read".to_owned());
        }
        let tables = self.jpeg_tables.and_then(|tables| tables.strip_suffix(b"\xff\xd9")).unwrap_or_default();
        let body = if tables.is_empty() { stored } else { stored.strip_prefix(b"\xff\xd8").unwrap_or(stored) };
        let file = [tables, body].concat();
        // A strip may be padded at its end, and must not be smaller.
        let check = |height: usize, width: usize| match (height >= extent.rows, width == extent.columns) {
            (true, true) if height <= extent.rows + 16 => Ok(()),
            _ => Err(format!("a JPEG of {height} x {width} pixels in a strip or tile of {} x {}", extent.rows, extent.columns)),
        };
        let (samples, channels) = jpeg::decode_stored(&file, self.is_ycbcr, check)??;
        match channels == extent.samples {
            true => Ok(samples),
            false => Err(format!("a JPEG of {channels} channels in an image of {}", extent.samples)),
        }
    }
}

fn lzw(stored: &[u8], wanted: usize) -> Result<Vec<u8>, String> {
    // TIFFs of 1988 and before have the bits the other way round.
    if stored.first() == Some(&0) && stored.get(1).is_some_and(|byte| byte & 1 == 1) {
        return Err("its LZW codes are of the old kind, which is not read: write it again".to_owned());
    }
    let mut decoder = Configuration::with_tiff_size_switch(BitOrder::Msb, 8).with_yield_on_full_buffer(true).build();
    let mut bytes = vec![0; wanted];
    let (mut consumed, mut filled) = (0, 0);
    while filled < wanted {
        let result = decoder.decode_bytes(&stored[consumed..], &mut bytes[filled..]);
        consumed += result.consumed_in;
        filled += result.consumed_out;
        match result.status {
            Ok(LzwStatus::Ok) if result.consumed_in + result.consumed_out > 0 => {}
            Ok(_) => break,
            Err(error) => return Err(format!("its LZW data are damaged: {error}")),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn packbits(mut stored: &[u8], wanted: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some((&control, rest)) = stored.split_first()
        && bytes.len() < wanted
    {
        let count = match control as i8 {
            -128 => 0,
            control @ 0.. => {
                let count = (control as usize + 1).min(rest.len());
                bytes.extend_from_slice(&rest[..count]);
                count
            }
            control => {
                let Some(byte) = rest.first() else { break };
                bytes.resize(bytes.len() + usize::from(control.unsigned_abs()) + 1, *byte);
                1
            }
        };
        stored = &rest[count..];
    }
    bytes
}
