//! What camflow makes of image and mask files, for `scripts/lab/images.py`, which compares it with Pillow and OpenCV, and for
//! `tests/python/test_full_depth.py`.
//!
//! Reads lines `image PATH`, `mask PATH`, `instance PATH`, or `input PATH` and, behind a tab, preprocessing steps in JSON, from
//! standard input and answers each with one JSON object: `error`, or `shape` and `pixels` (base64: bytes of an image or an RGB mask,
//! i64 of a gray mask, f32 of a model's input) and, of an input, the `region`: height and width of the frame, top and left.
#![expect(clippy::print_stdout, reason = "the answers")]

use std::{
    io::{self, BufRead},
    path::Path,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use camflow::media::{
    ExifPolicy, FileContent, FrameRegion, ImageLimits, InstanceMask, LabelMask, MaskValue, MediaError, Preprocess, read_image,
};

struct Pixels {
    shape: Vec<usize>,
    bytes: Vec<u8>,
    region: Option<FrameRegion>,
}

fn image(path: &Path) -> Result<Pixels, MediaError> {
    let image = read_image(path, &ImageLimits::default(), ExifPolicy::Ignore)?;
    Ok(Pixels { shape: vec![image.height, image.width, 3], bytes: image.pixels, region: None })
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
    let (sides, region) = ([mask.height, mask.width], None);
    Ok(match is_rgb {
        true => Pixels { shape: [&sides[..], &[3]].concat(), bytes: colors.concat(), region },
        false => Pixels { shape: sides.to_vec(), bytes: numbers.into_iter().flat_map(i64::to_le_bytes).collect(), region },
    })
}

fn instance(path: &Path) -> Result<Pixels, MediaError> {
    let mask = InstanceMask::read(path, &ImageLimits::default())?;
    Ok(Pixels { shape: vec![mask.height, mask.width], bytes: mask.pixels, region: None })
}

fn input(path: &Path, steps: &str) -> Result<Pixels, Box<dyn std::error::Error>> {
    let (preprocess, limits): (Preprocess, _) = (serde_json::from_str(steps)?, ImageLimits::default());
    let content = FileContent::read(path, limits.max_bytes)?;
    let input = preprocess.apply_to(&preprocess.parse(path, &content.bytes, &limits, ExifPolicy::Ignore)?)?;
    let bytes = input.pixels.to_floats(&preprocess.normalization()).into_iter().flat_map(f32::to_le_bytes).collect();
    Ok(Pixels { shape: vec![preprocess.channels(), input.height, input.width], bytes, region: Some(input.region) })
}

fn main() -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (kind, path) = line.split_once(' ').ok_or_else(|| io::Error::other(format!("`{line}` is no line `KIND PATH`")))?;
        let read = match (kind, path.split_once('\t')) {
            ("input", Some((path, steps))) => input(Path::new(path), steps),
            ("mask", _) => mask(Path::new(path)).map_err(Into::into),
            ("instance", _) => instance(Path::new(path)).map_err(Into::into),
            _ => image(Path::new(path)).map_err(Into::into),
        };
        let answer = match read {
            Ok(Pixels { shape, bytes, region }) => serde_json::json!({
                "shape": shape,
                "pixels": BASE64_STANDARD.encode(bytes),
                "region": region.map(|region| (region.frame_height, region.frame_width, region.top, region.left)),
            }),
            Err(error) => serde_json::json!({ "error": error.to_string() }),
        };
        println!("{answer}");
    }
    Ok(())
}
