//! PNGs that Pillow reads although they are damaged: the checksums of its pixel data are wrong, or the data end, as a complete
//! stream, before the image does. What is missing is black (or the palette's first colour).

use std::io::Read;

use flate2::{Compression, Crc, read::ZlibDecoder, write::ZlibEncoder};

use super::image::ImageLimits;

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The same picture as a sound file; `None` if the damage is of another kind, or the pixels are more than the limits allow.
pub(super) fn repaired(bytes: &[u8], limits: &ImageLimits) -> Option<Vec<u8>> {
    let mut rest = bytes.strip_prefix(SIGNATURE)?;
    let (mut header, mut before, mut data) = (None, Vec::new(), Vec::new());
    while let Some((chunk, after)) = next_chunk(rest) {
        match chunk.kind {
            b"IDAT" => data.extend_from_slice(chunk.data),
            // The data are one piece.
            _ if !data.is_empty() => break,
            _ if !chunk.is_sound => return None,
            b"IHDR" => header = Header::of(chunk.data),
            b"PLTE" | b"tRNS" => push_chunk(&mut before, chunk.kind, chunk.data),
            _ => {}
        }
        rest = after;
    }
    let header = header?;
    // The rows are counted below.
    if header.height as u64 * header.width as u64 > limits.max_pixels {
        return None;
    }
    let whole = header.row_bytes().map(|row| row as u64).sum::<u64>();
    // They are in memory three times, besides the file.
    if whole > limits.max_bytes / 4 || data.is_empty() {
        return None;
    }
    let mut rows = Vec::new();
    let mut stream = ZlibDecoder::new(&data[..]);
    // One byte more finds the end of the stream.
    match stream.by_ref().take(whole + 1).read_to_end(&mut rows) {
        Ok(_) => {}
        // All is there but the checksum at the end.
        Err(_) if rows.len() as u64 >= whole => {}
        Err(_) => return None,
    }
    let mut ends = header.row_bytes().scan(0, |end, row| {
        *end += row;
        Some(*end)
    });
    rows.truncate(whole as usize);
    // Half a row is one damage too many for Pillow.
    if !ends.any(|end| end == rows.len()) {
        return None;
    }
    rows.resize(whole as usize, 0);
    let mut stored = ZlibEncoder::new(Vec::new(), Compression::none());
    std::io::Write::write_all(&mut stored, &rows).ok()?;
    let mut file = SIGNATURE.to_vec();
    push_chunk(&mut file, b"IHDR", &header.bytes);
    file.extend(before);
    push_chunk(&mut file, b"IDAT", &stored.finish().ok()?);
    push_chunk(&mut file, b"IEND", &[]);
    Some(file)
}

struct Chunk<'a> {
    kind: &'a [u8; 4],
    data: &'a [u8],
    /// Whether its checksum is right.
    is_sound: bool,
}

/// The first chunk, and what follows it; `None` if it is cut off. Of pixel data what is there counts.
fn next_chunk(bytes: &[u8]) -> Option<(Chunk<'_>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    let (kind, content) = rest.split_first_chunk::<4>()?;
    let is_sound = match rest.get(..4 + length).zip(rest.get(4 + length..8 + length)) {
        Some((checked, crc)) => checksum(checked).to_be_bytes() == crc,
        None if kind == b"IDAT" => false,
        None => return None,
    };
    let data = &content[..length.min(content.len())];
    Some((Chunk { kind, data, is_sound }, content.get(length + 4..).unwrap_or_default()))
}

fn push_chunk(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    file.extend((data.len() as u32).to_be_bytes());
    let start = file.len();
    file.extend_from_slice(kind);
    file.extend_from_slice(data);
    let crc = checksum(&file[start..]);
    file.extend(crc.to_be_bytes());
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

struct Header {
    bytes: [u8; 13],
    height: usize,
    width: usize,
    bits_per_pixel: usize,
    is_interlaced: bool,
}

impl Header {
    fn of(bytes: &[u8]) -> Option<Header> {
        let bytes: [u8; 13] = bytes.try_into().ok()?;
        let side = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
        let channels = match bytes[9] {
            0 | 3 => 1,
            2 => 3,
            4 => 2,
            6 => 4,
            _ => return None,
        };
        let bits_per_pixel = channels * usize::from(bytes[8]);
        Some(Header { bytes, height: side(4), width: side(0), bits_per_pixel, is_interlaced: bytes[12] == 1 })
    }

    /// The bytes of each row, with that of its filter, in the order of the stream.
    fn row_bytes(&self) -> impl Iterator<Item = usize> + '_ {
        const PASSES: [[usize; 4]; 7] =
            [[0, 0, 8, 8], [0, 4, 8, 8], [4, 0, 8, 4], [0, 2, 4, 4], [2, 0, 4, 2], [0, 1, 2, 2], [1, 0, 2, 1]];
        let passes: &[[usize; 4]] = if self.is_interlaced { &PASSES } else { &[[0, 0, 1, 1]] };
        passes.iter().flat_map(|[y, x, down, right]| {
            let rows = self.height.saturating_sub(*y).div_ceil(*down);
            let columns = self.width.saturating_sub(*x).div_ceil(*right);
            let rows = if columns == 0 { 0 } else { rows };
            std::iter::repeat_n(1 + (columns * self.bits_per_pixel).div_ceil(8), rows)
        })
    }
}
