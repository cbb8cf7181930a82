//! Which format a file is of, by its content, and what to say of those that are not read.

use super::{jpeg, tiff};

/// A format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Tiff,
    Png,
    WebP,
    Gif,
    Bmp,
    Ico,
    Tga,
    Pcx,
    Sgi,
    Qoi,
    /// PBM, PGM, PPM and PFM.
    Portable,
}

/// What begins in a way that everybody knows, and what it is.
const KNOWN: &[(usize, &[u8], &str)] = &[
    (4, b"ftypheic", HEIF),
    (4, b"ftypheix", HEIF),
    (4, b"ftyphevc", HEIF),
    (4, b"ftypmif1", HEIF),
    (4, b"ftypmsf1", HEIF),
    (4, b"ftypcrx ", "is a raw photograph (CR3): develop it to TIFF or JPEG"),
    (4, b"ftypavi", "is an AVIF image: convert it to PNG or JPEG"),
    (4, b"ftyp", "is a video: extract its frames, or give the dataset of its frames"),
    (0, b"\x1a\x45\xdf\xa3", "is a video: extract its frames, or give the dataset of its frames"),
    (0, b"\xff\x0a", JPEG_XL),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", JPEG_XL),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", JPEG_2000),
    (0, b"\xff\x4f\xff\x51", JPEG_2000),
    (0, b"version https://git-lfs.github.com/spec/", "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (0, b"%PDF", "is a PDF document: convert its page to PNG"),
    (0, b"%!PS", "is PostScript, which has no pixels: convert it to PNG"),
    (0, b"\xc5\xd0\xd3\xc6", "is PostScript, which has no pixels: convert it to PNG"),
    (0, b"8BPS", "is a Photoshop document: export it as PNG"),
    (
        0,
        b"\x93NUMPY",
        "is a numpy array, which models read that are exported with `--samples`: export it so, or write the array as PNG",
    ),
    (0, b"\x89HDF", "is an HDF5 file: write its image as PNG or TIFF"),
    (0, b"SIMPLE  =", "is a FITS image: convert it to TIFF or PNG"),
    (128, b"DICM", "is a DICOM file: convert it to PNG"),
    (0, b"PK\x03\x04", "is a zip archive: unpack it"),
    (0, b"\x1f\x8b", "is compressed with gzip: unpack it"),
    (0, b"v/1\x01", "is an OpenEXR image: convert it to TIFF or PNG"),
    (0, b"#?RADIANCE", "is a Radiance HDR image: convert it to PNG"),
    (0, b"DDS ", "is a DirectDraw texture: convert it to PNG"),
    (0, b"#define", "is an X bitmap: convert it to PNG"),
    (0, b"/* XPM */", "is an X pixmap: convert it to PNG"),
    (0, b"\x59\xa6\x6a\x95", "is a Sun raster image: convert it to PNG"),
    (0, b"Image type", "is an IM image: convert it to PNG"),
    (0, b"P7", "is a PAM image: convert it to PNG"),
    (0, b"PF", "is a PFM image in colour, which FiftyOne does not read either: convert it to PNG or TIFF"),
    (0, b"icns", "is an Apple icon: convert it to PNG"),
    (0, b"BLP1", "is a Blizzard texture: convert it to PNG"),
    (0, b"BLP2", "is a Blizzard texture: convert it to PNG"),
];

const HEIF: &str = "is a HEIC or HEIF photograph, which FiftyOne does not read either: convert it to JPEG or PNG";
const JPEG_2000: &str = "is a JPEG 2000 image: convert it to PNG or TIFF";
const JPEG_XL: &str = "is a JPEG XL image, which FiftyOne does not read either: convert it to PNG";

impl Format {
    /// Of a file's content.
    ///
    /// # Errors
    /// What it is instead, as the end of a sentence that begins with its path.
    pub(super) fn of(bytes: &[u8]) -> Result<Format, String> {
        let begins = |start: &[u8]| bytes.starts_with(start);
        let is_webp = begins(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
        Ok(match bytes {
            _ if jpeg::is_jpeg(bytes) => Format::Jpeg,
            _ if tiff::is_tiff(bytes) => Format::Tiff,
            _ if begins(b"\x89PNG\r\n\x1a\n") => Format::Png,
            _ if is_webp => Format::WebP,
            _ if begins(b"GIF87a") || begins(b"GIF89a") => Format::Gif,
            _ if begins(b"BM") => Format::Bmp,
            _ if begins(b"\0\0\x01\0") => Format::Ico,
            _ if begins(b"qoif") => Format::Qoi,
            _ if begins(b"\x01\xda") => Format::Sgi,
            [b'P', b'1'..=b'6' | b'f', byte, ..] if byte.is_ascii_whitespace() || *byte == b'#' => Format::Portable,
            [10, 0 | 2 | 3 | 5, 1, ..] => Format::Pcx,
            _ => match other(bytes) {
                Some(what) => return Err(what),
                // It has no mark of its own, and so is asked last.
                None if is_tga(bytes) => Format::Tga,
                None => return Err("does not begin like an image file".to_owned()),
            },
        })
    }
}

/// Whether the bytes are a plausible header of a Targa file, which has no mark.
fn is_tga(bytes: &[u8]) -> bool {
    let Some(&[_, map @ (0 | 1), kind, _, _, _, _, _, _, _, _, _, w0, w1, h0, h1, depth, flags]) = bytes.first_chunk() else {
        return false;
    };
    let is_color = matches!((kind & !8, depth, map), (1, 8, 1) | (2, 15 | 16 | 24 | 32, _) | (3, 1 | 8 | 16, 0));
    is_color && kind & !8 != 0 && (w0, w1) != (0, 0) && (h0, h1) != (0, 0) && flags & 0xc0 == 0
}

/// What a file is that is no image, or one that is not read.
fn other(bytes: &[u8]) -> Option<String> {
    let begins = |at: usize, start: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(start));
    if let Some((_, _, what)) = KNOWN.iter().find(|(at, start, _)| begins(*at, start)) {
        return Some((*what).to_owned());
    }
    let start = &bytes[..bytes.len().min(512)];
    let text = std::str::from_utf8(start.trim_ascii_start()).unwrap_or_default().to_ascii_lowercase();
    if text.contains("<svg") {
        return Some("is an SVG drawing, which has no pixels: convert it to PNG".to_owned());
    }
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        return Some("is a web page, perhaps the error of a server: download it again".to_owned());
    }
    if text.starts_with("<?xml") || text.starts_with('{') || text.starts_with('[') {
        return Some("is text, perhaps the error of a server: download it again".to_owned());
    }
    (!bytes.is_empty() && bytes.iter().all(|byte| *byte == 0))
        .then(|| "holds nothing but zeros: copy or download it again".to_owned())
}
