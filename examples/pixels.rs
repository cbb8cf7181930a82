//! What camflow makes of image and mask files, for `scripts/lab/images.py`, which compares it with Pillow and OpenCV.
//!
//! Reads lines `image PATH`, `mask PATH` or `instance PATH` from standard input and answers each with one JSON object: `error`,
//! or `shape` and `pixels` (base64: bytes of an image or an RGB mask, i64 of a gray mask).
#![expect(clippy::print_stdout, reason = "the answers")]

use std::{
    io::{self, BufRead},
    path::Path,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use camflow::media::{ExifPolicy, ImageLimits, InstanceMask, LabelMask, MaskValue, MediaError, read_image};

struct Pixels {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn image(path: &Path) -> Result<Pixels, MediaError> {
    let image = read_image(path, &ImageLimits::default(), ExifPolicy::Ignore)?;
    Ok(Pixels { shape: vec![image.height, image.width, 3], bytes: image.pixels })
}

fn mask(path: &Path) -> Result<Pixels, MediaError> {
    let mask = LabelMask::read(path, &ImageLimits::default())?;
    let pixels = mask.height * mask.width;
    let is_rgb = mask.values().iter().any(|(value, _)| matches!(value, MaskValue::Rgb(_)));
    let (mut numbers, mut colors) = (vec![0i64; pixels], vec![[0u8; 3]; pixels]);
    for (value, _) in mask.values() {
        for (at, _) in mask.select(&value)?.pixels.iter().enumerate().filter(|(_, selected)| **selected != 0) {
            match value {
                MaskValue::Index(number) => numbers[at] = number,
                MaskValue::Rgb(color) => colors[at] = color,
                MaskValue::Object => {}
            }
        }
    }
    Ok(match is_rgb {
        true => Pixels { shape: vec![mask.height, mask.width, 3], bytes: colors.concat() },
        false => Pixels { shape: vec![mask.height, mask.width], bytes: numbers.into_iter().flat_map(i64::to_le_bytes).collect() },
    })
}

fn instance(path: &Path) -> Result<Pixels, MediaError> {
    let mask = InstanceMask::read(path, &ImageLimits::default())?;
    Ok(Pixels { shape: vec![mask.height, mask.width], bytes: mask.pixels })
}

fn main() -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (kind, path) = line.split_once(' ').ok_or_else(|| io::Error::other(format!("`{line}` is no line `KIND PATH`")))?;
        let read = match kind {
            "mask" => mask,
            "instance" => instance,
            _ => image,
        };
        let answer = match read(Path::new(path)) {
            Ok(Pixels { shape, bytes }) => serde_json::json!({ "shape": shape, "pixels": BASE64_STANDARD.encode(bytes) }),
            Err(error) => serde_json::json!({ "error": error.to_string() }),
        };
        println!("{answer}");
    }
    Ok(())
}
