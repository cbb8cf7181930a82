//! Resizing 8-bit RGB, bit for bit as Pillow's `Image.resize` does it.
//!
//! The algorithm is Pillow's (`src/libImaging/Resample.c`, described in its documentation under "Filters"): a separable
//! convolution whose kernel widens with the scale when shrinking, one pass along the rows and one along the columns, both in fixed
//! point with 22 fractional bits and rounded to 8 bits in between. SIMD crates such as fast_image_resize keep fewer bits and
//! differ by one level in some pixels; a ReLU network answers that with visibly other shallow heatmaps.

use std::{f64::consts::PI, fmt};

use super::{error::MediaError, image::RgbImage};

/// The filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// A triangle of radius 1.
    #[default]
    Bilinear,
    /// Keys' cubic with `a = -0.5`, radius 2.
    Bicubic,
    /// A windowed sinc of radius 3.
    Lanczos,
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Interpolation::Nearest => "nearest",
            Interpolation::Bilinear => "bilinear",
            Interpolation::Bicubic => "bicubic",
            Interpolation::Lanczos => "lanczos",
        })
    }
}

impl Interpolation {
    fn radius(self) -> f64 {
        match self {
            Interpolation::Nearest => 0.5,
            Interpolation::Bilinear => 1.0,
            Interpolation::Bicubic => 2.0,
            Interpolation::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Interpolation::Nearest => f64::from(x < 0.5),
            Interpolation::Bilinear => (1.0 - x).max(0.0),
            Interpolation::Bicubic => {
                const A: f64 = -0.5;
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Interpolation::Lanczos => {
                let sinc = |x: f64| {
                    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
                };
                if x < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 }
            }
        }
    }
}

/// Resizes the whole image to `[height, width]`. Without `antialias` the kernel keeps its radius when shrinking.
///
/// An image of that size already is returned as it is, as in Pillow.
///
/// # Errors
/// The new size is zero or beyond 2^31 bytes, or `antialias` is off for a filter other than nearest and bilinear.
pub fn resize_rgb(
    image: &RgbImage,
    height: usize,
    width: usize,
    interpolation: Interpolation,
    antialias: bool,
) -> Result<RgbImage, MediaError> {
    let fits = |h: usize, w: usize| h.checked_mul(w)?.checked_mul(3).filter(|&n| n < 1 << 31);
    let columns_first = columns_first((image.height, image.width), (height, width));
    // The picture between the passes counts too: an extreme shape may be small before and after.
    let between = if columns_first { fits(height, image.width) } else { fits(image.height, width) };
    if height == 0 || width == 0 || fits(height, width).is_none() || between.is_none() {
        return Err(MediaError::preprocess(format!(
            "an image of {} x {} pixels cannot be resized to {height} x {width}",
            image.height, image.width
        )));
    }
    if !antialias && matches!(interpolation, Interpolation::Bicubic | Interpolation::Lanczos) {
        // torch computes bicubic without antialiasing by another kernel (a = -0.75), on tensors, not on 8-bit pixels.
        return Err(MediaError::preprocess("`antialias = false` is known for `nearest` and `bilinear` only"));
    }
    if (height, width) == (image.height, image.width) {
        return Ok(image.clone());
    }
    let pixels = if interpolation == Interpolation::Nearest {
        nearest(image, height, width)
    } else {
        let across = Kernels::new(image.width, width, interpolation, antialias);
        let down = Kernels::new(image.height, height, interpolation, antialias);
        // A side that keeps its length takes no pass.
        let narrow = |pixels: &[u8]| match width == image.width {
            true => pixels.to_vec(),
            false => across.along_rows(pixels, image.width),
        };
        let shorten = |pixels: &[u8], width: usize| match height == image.height {
            true => pixels.to_vec(),
            false => down.along_columns(pixels, width),
        };
        if columns_first { narrow(&shorten(&image.pixels, image.width)) } else { shorten(&narrow(&image.pixels), width) }
    };
    Ok(RgbImage { orientation: image.orientation, ..RgbImage::new(height, width, pixels) })
}

/// Since version 13 Pillow begins with the pass along the columns where the height loses more than twice as many pixels as the
/// width (its pull request 9549); found by comparing 3,400 shapes. Earlier versions always began along the rows, which gives
/// other roundings in some pixels.
fn columns_first(from: (usize, usize), to: (usize, usize)) -> bool {
    let lost = |from: usize, to: usize| from as i128 - to as i128;
    to.0 < from.0 && 2 * lost(from.1, to.1) < lost(from.0, to.0)
}

/// Pillow's nearest neighbour, including how it adds up the position (`ImagingScaleAffine`).
fn nearest(image: &RgbImage, height: usize, width: usize) -> Vec<u8> {
    let rows = nearest_positions(image.height, height);
    let columns = nearest_positions(image.width, width);
    let mut pixels = Vec::with_capacity(height * width * 3);
    for &row in &rows {
        let row = &image.pixels[row * image.width * 3..][..image.width * 3];
        for &column in &columns {
            pixels.extend_from_slice(&row[column * 3..column * 3 + 3]);
        }
    }
    pixels
}

fn nearest_positions(from: usize, to: usize) -> Vec<usize> {
    let scale = from as f64 / to as f64;
    let mut position = scale * 0.5;
    (0..to)
        .map(|_| {
            let at = (position as usize).min(from - 1);
            position += scale;
            at
        })
        .collect()
}

const FRACTION_BITS: u32 = 32 - 8 - 2;

/// One convolution kernel for each position along a resized side.
struct Kernels {
    /// First source position and number of weights, for each output position.
    spans: Vec<(usize, usize)>,
    /// `spans.len()` rows of `stride` fixed-point weights.
    weights: Vec<i32>,
    stride: usize,
}

impl Kernels {
    fn new(from: usize, to: usize, interpolation: Interpolation, antialias: bool) -> Self {
        let scale = from as f64 / to as f64;
        let widening = if antialias { scale.max(1.0) } else { 1.0 };
        let radius = interpolation.radius() * widening;
        let stride = radius.ceil() as usize * 2 + 1;
        let mut spans = Vec::with_capacity(to);
        let mut weights = vec![0; to * stride];
        let mut real = vec![0.0; stride];
        for (position, weights) in weights.chunks_exact_mut(stride).enumerate() {
            let center = (position as f64 + 0.5) * scale;
            // Casts truncate and stop at zero, as the C code does with its own check.
            let first = (center - radius + 0.5) as usize;
            let count = ((center + radius + 0.5) as usize).min(from) - first;
            let mut total = 0.0;
            for (i, real) in real[..count].iter_mut().enumerate() {
                // One over the widening is multiplied, not divided by: the last bit of the weights depends on it.
                *real = interpolation.weight(((i + first) as f64 - center + 0.5) * (1.0 / widening));
                total += *real;
            }
            for (fixed, &real) in weights.iter_mut().zip(&real[..count]) {
                let share = if total == 0.0 { real } else { real / total };
                *fixed = (share * f64::from(1 << FRACTION_BITS) + 0.5_f64.copysign(share)) as i32;
            }
            spans.push((first, count));
        }
        Kernels { spans, weights, stride }
    }

    fn along_rows(&self, pixels: &[u8], width: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(pixels.len() / width * self.spans.len());
        for row in pixels.chunks_exact(width * 3) {
            for (&(first, count), weights) in self.spans.iter().zip(self.weights.chunks_exact(self.stride)) {
                let mut sums = [HALF; 3];
                let source = row[first * 3..(first + count) * 3].chunks_exact(3);
                for (pixel, &weight) in source.zip(weights) {
                    for (sum, &sample) in sums.iter_mut().zip(pixel) {
                        *sum += i32::from(sample) * weight;
                    }
                }
                out.extend_from_slice(&sums.map(to_level));
            }
        }
        out
    }

    fn along_columns(&self, pixels: &[u8], width: usize) -> Vec<u8> {
        let length = width * 3;
        let mut out = Vec::with_capacity(self.spans.len() * length);
        let mut sums = vec![0; length];
        for (&(first, count), weights) in self.spans.iter().zip(self.weights.chunks_exact(self.stride)) {
            sums.fill(HALF);
            let rows = pixels[first * length..(first + count) * length].chunks_exact(length);
            for (row, &weight) in rows.zip(weights) {
                for (sum, &sample) in sums.iter_mut().zip(row) {
                    *sum += i32::from(sample) * weight;
                }
            }
            out.extend(sums.iter().map(|&sum| to_level(sum)));
        }
        out
    }
}

/// So that the shift rounds to nearest.
const HALF: i32 = 1 << (FRACTION_BITS - 1);

fn to_level(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::read_array_file;
    use std::path::Path;

    /// `testdata/resize_*.npy` hold what Pillow made of `testdata/color_rgb.png`; see `make.py`.
    #[test]
    fn equals_pillow_bit_for_bit() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
        let image = crate::read_image(&folder.join("color_rgb.png"), &Default::default(), Default::default()).unwrap();
        for (name, interpolation) in [
            ("nearest", Interpolation::Nearest),
            ("bilinear", Interpolation::Bilinear),
            ("bicubic", Interpolation::Bicubic),
            ("lanczos", Interpolation::Lanczos),
        ] {
            for (height, width) in [(18, 26), (37, 20), (18, 60), (50, 53), (80, 101), (5, 7)] {
                let file = folder.join(format!("resize_{name}_{height}x{width}.npy"));
                let expected = read_array_file(&file, 1 << 20).unwrap();
                let ours = resize_rgb(&image, height, width, interpolation, true).unwrap();
                assert_eq!(expected.shape, [height, width, 3]);
                assert_eq!(expected.values, crate::ArrayValues::U8(ours.pixels), "{name} {height} x {width}");
            }
        }
    }

    #[test]
    fn without_antialiasing_shrinking_by_an_odd_factor_picks_the_middle() {
        let image = RgbImage::new(1, 9, (0..27).collect());
        let small = resize_rgb(&image, 1, 3, Interpolation::Bilinear, false).unwrap();
        assert_eq!(small.pixels, [3, 4, 5, 12, 13, 14, 21, 22, 23]);
    }

    #[test]
    fn sizes_beyond_memory_are_refused() {
        let image = RgbImage::new(1, 2, vec![0; 6]);
        assert!(resize_rgb(&image, 0, 5, Interpolation::Bilinear, true).is_err());
        assert!(resize_rgb(&image, 1 << 20, 1 << 20, Interpolation::Bilinear, true).is_err());
        assert!(resize_rgb(&image, usize::MAX, 2, Interpolation::Nearest, true).is_err());
        assert!(resize_rgb(&image, 4, 4, Interpolation::Bicubic, false).is_err());
    }
}
