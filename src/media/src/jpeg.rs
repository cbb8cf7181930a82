//! JPEG to RGB and back. Reading is bit for bit as Pillow decodes it: libjpeg's slow integer DCT and its "fancy" upsampling of chroma, a file that
//! ends early is an error, and four-channel files are read in Adobe's inverted polarity.

use std::{
    cell::Cell,
    io::{self, BufRead, Read},
    panic::{AssertUnwindSafe, catch_unwind},
};

use mozjpeg::{ColorSpace, Compress, DctMethod, Decompress};

use super::{error::MediaError, image::RgbImage};

/// Decoded samples, as stored in the file: gray or RGB.
pub(super) struct Jpeg {
    pub(super) height: usize,
    pub(super) width: usize,
    /// `[height, width]` or `[height, width, 3]`.
    pub(super) samples: Vec<u8>,
    pub(super) is_gray: bool,
    /// Whether the file has four channels of ink.
    pub(super) is_cmyk: bool,
}

/// A progressive file needs about ten scans. Each goes over all pixels, whatever it brings, so that a small file with thousands of
/// them would be decoded for hours.
const MAX_SCANS: usize = 100;

/// Whether the bytes begin as a JPEG file does.
pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xd8\xff")
}

/// Decodes a complete JPEG file. `check` sees height and width before any pixel memory is taken.
///
/// The outer error is a broken file, the inner one what `check` returned.
pub(super) fn decode<E>(bytes: &[u8], check: impl FnOnce(usize, usize) -> Result<(), E>) -> Result<Result<Jpeg, E>, String> {
    let decoded = match decode_as(bytes, check, |stored| match stored {
        ColorSpace::JCS_GRAYSCALE => ColorSpace::JCS_GRAYSCALE,
        ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK => ColorSpace::JCS_CMYK,
        _ => ColorSpace::JCS_RGB,
    })? {
        Ok(decoded) => decoded,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let Decoded { height, width, channels, samples } = decoded;
    let samples = if channels == 4 { samples.chunks_exact(4).flat_map(inverted_cmyk_to_rgb).collect() } else { samples };
    Ok(Ok(Jpeg { height, width, samples, is_gray: channels == 1, is_cmyk: channels == 4 }))
}

struct Decoded {
    height: usize,
    width: usize,
    channels: usize,
    samples: Vec<u8>,
}

/// Decodes to the colours that `wanted` makes of those in the file.
fn decode_as<E>(
    bytes: &[u8],
    check: impl FnOnce(usize, usize) -> Result<(), E>,
    wanted: impl FnOnce(ColorSpace) -> ColorSpace,
) -> Result<Result<Decoded, E>, String> {
    let scans = count_scans(bytes);
    if scans > MAX_SCANS {
        return Err(format!("its {scans} scans are more than the {MAX_SCANS} that are read: write it again with any program"));
    }
    let source = CompleteFile { rest: bytes, ran_out: &Cell::new(false) };
    let ran_out = source.ran_out;
    // libjpeg reports a fatal error by a function that must not return. mozjpeg unwinds from it with `resume_unwind`, which
    // does not call the panic hook: nothing is printed. All state of the decoder lives inside the closure.
    let outcome = catch_unwind(AssertUnwindSafe(|| decode_or_unwind(&source, check, wanted)));
    let reason = match outcome {
        Ok(Ok(checked)) => return Ok(checked),
        Ok(Err(error)) => error.to_string(),
        Err(payload) => match payload.downcast::<String>() {
            Ok(message) => message.trim_start_matches("libjpeg fatal error: ").to_owned(),
            Err(_) => "the JPEG decoder failed".to_owned(),
        },
    };
    Err(if ran_out.get() {
        "the file ends before the image does (truncated): copy or download it again".to_owned()
    } else {
        format!("not a valid JPEG: {reason}")
    })
}

/// The samples of a complete JPEG file as TIFF has them: without a change of colours, except from luminance and chroma if
/// `is_ycbcr`. Returned with their number of channels; `check` and errors are as for [`decode`].
pub(super) fn decode_stored<E>(
    bytes: &[u8],
    is_ycbcr: bool,
    check: impl FnOnce(usize, usize) -> Result<(), E>,
) -> Result<Result<(Vec<u8>, usize), E>, String> {
    decode_as(bytes, check, |stored| match stored {
        ColorSpace::JCS_YCbCr if is_ycbcr => ColorSpace::JCS_RGB,
        stored => stored,
    })
    .map(|checked| checked.map(|decoded| (decoded.samples, decoded.channels)))
}

/// A picture as a JPEG file of a quality from 1 to 100, for people to look at.
///
/// # Errors
/// The picture has no pixel, or more than a JPEG can have.
pub fn encode_jpeg(image: &RgbImage, quality: f32) -> Result<Vec<u8>, MediaError> {
    // libjpeg's errors unwind; see `decode`.
    let encoded = catch_unwind(|| -> io::Result<Vec<u8>> {
        let mut encoder = Compress::new(ColorSpace::JCS_RGB);
        encoder.set_size(image.width, image.height);
        encoder.set_quality(quality);
        let mut started = encoder.start_compress(Vec::new())?;
        started.write_scanlines(&image.pixels)?;
        started.finish()
    });
    match encoded {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(MediaError::encode(error.to_string())),
        Err(_) => Err(MediaError::encode(format!("{} x {} pixels make no JPEG", image.height, image.width))),
    }
}

/// How many scans the first image in the file has. Like libjpeg it skips what stands between the segments.
fn count_scans(bytes: &[u8]) -> usize {
    let (mut at, mut scans) = (2, 0);
    while let Some(&[first, marker]) = bytes.get(at..at + 2) {
        match (first, marker) {
            (0xff, 0xd9) => break,
            // No marker, or one without a length: what a scan holds is passed this way, too.
            (0..0xff, _) | (_, 0xff) => at += 1,
            (_, 0 | 1 | 0xd0..=0xd8) => at += 2,
            _ => {
                scans += usize::from(marker == 0xda);
                let length = bytes.get(at + 2..at + 4).map_or(2, |b| u16::from_be_bytes([b[0], b[1]]));
                at += 2 + usize::from(length);
            }
        }
    }
    scans
}

fn decode_or_unwind<E>(
    source: &CompleteFile,
    check: impl FnOnce(usize, usize) -> Result<(), E>,
    wanted: impl FnOnce(ColorSpace) -> ColorSpace,
) -> io::Result<Result<Decoded, E>> {
    let mut header = Decompress::new_reader(CompleteFile { rest: source.rest, ran_out: source.ran_out })?;
    let (width, height) = header.size();
    if let Err(refusal) = check(height, width) {
        return Ok(Err(refusal));
    }
    // libjpeg's defaults, said aloud because equality with Pillow hangs on them.
    header.dct_method(DctMethod::IntegerSlow);
    header.do_fancy_upsampling(true);

    let space = wanted(header.color_space());
    let mut started = header.to_colorspace(space)?;
    let samples: Vec<u8> = started.read_scanlines()?;
    // Reads on to the end marker, as Pillow does: a file without one is truncated.
    started.finish()?;
    let channels = samples.len() / (height * width).max(1);
    Ok(Ok(Decoded { height, width, channels, samples }))
}

/// Pillow's `CMYK;I` followed by its conversion to RGB: `255 - k - c * (255 - k) / 255`, with its rounding.
fn inverted_cmyk_to_rgb(cmyk: &[u8]) -> [u8; 3] {
    let white = i32::from(cmyk[3]);
    [0, 1, 2].map(|channel| {
        let product = i32::from(255 - cmyk[channel]) * white + 128;
        (white - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}

/// A file in memory whose end is an error. mozjpeg's own reader continues a file that ends early with an invented end marker,
/// which leaves the rest of the picture gray.
struct CompleteFile<'a> {
    rest: &'a [u8],
    ran_out: &'a Cell<bool>,
}

impl Read for CompleteFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for CompleteFile<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.ran_out.set(true);
            // Not `UnexpectedEof`: that is the one which mozjpeg papers over.
            return Err(io::Error::other("end of file"));
        }
        Ok(self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest = &self.rest[count..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unlimited(_: usize, _: usize) -> Result<(), String> {
        Ok(())
    }

    #[test]
    fn every_cut_of_a_file_is_an_error() {
        for file in [&include_bytes!("../testdata/color_420.jpg")[..], &include_bytes!("../testdata/color_progressive.jpg")[..]] {
            assert!(decode(file, unlimited).is_ok());
            for end in 1..file.len() {
                assert!(decode(&file[..end], unlimited).is_err(), "{end} of {} bytes", file.len());
            }
        }
    }

    #[test]
    fn scans_are_counted_and_limited() {
        assert_eq!(count_scans(include_bytes!("../testdata/color_420.jpg")), 1);
        let file = include_bytes!("../testdata/color_progressive.jpg");
        let scans = count_scans(file);
        assert!((2..20).contains(&scans), "{scans}");
        // The last scan again and again, garbage in between.
        let last = file.windows(2).rposition(|pair| pair == b"\xff\xda").unwrap();
        let mut bomb = file[..file.len() - 2].to_vec();
        for _ in 0..100 {
            bomb.extend_from_slice(b"garbage");
            bomb.extend_from_slice(&file[last..file.len() - 2]);
        }
        bomb.extend_from_slice(b"\xff\xd9");
        assert_eq!(count_scans(&bomb), scans + 100);
        assert!(decode(&bomb, unlimited).err().unwrap().contains("scans"));
    }

    #[test]
    fn a_truncated_file_is_called_so() {
        let file = include_bytes!("../testdata/color_420.jpg");
        let error = decode(&file[..file.len() - 40], unlimited).err().unwrap();
        assert!(error.contains("truncated"), "{error}");
    }

    #[test]
    fn damage_never_leaves_by_panic() {
        let file = include_bytes!("../testdata/color_420.jpg");
        for at in 2..file.len() {
            let mut damaged = file.to_vec();
            damaged[at] ^= 0xff;
            // A damaged file may decode to other pixels, as it does in Pillow; it must not take the process along.
            let _ = decode(&damaged, |height, width| if height * width > 1 << 20 { Err("too large".to_owned()) } else { Ok(()) });
        }
    }

    #[test]
    fn the_size_is_checked_before_decoding() {
        let file = include_bytes!("../testdata/color_420.jpg");
        let refused = decode(file, |height, width| Err((height, width))).unwrap();
        assert_eq!(refused.err(), Some((37, 53)));
    }
}
