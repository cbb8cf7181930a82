//! Resizing, bit for bit as Pillow's `Image.resize` does it, of 8-bit RGB and of floats (its mode `F`).
//!
//! The algorithm is Pillow's (`src/libImaging/Resample.c`, described in its documentation under "Filters"): a separable
//! convolution whose kernel widens with the scale when shrinking, one pass along the rows and one along the columns, both in fixed
//! point with 22 fractional bits and rounded to 8 bits in between; of floats in doubles, rounded to floats in between. SIMD crates such as fast_image_resize keep fewer bits and
//! differ by one level in some pixels; a ReLU network answers that with visibly other shallow heatmaps.

use std::{f64::consts::PI, fmt};

use super::{bands::BandImage, error::MediaError, image::RgbImage};

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
    let from = (image.height, image.width);
    let pixels = resize(&image.pixels, from, (height, width), 3, interpolation, antialias)?;
    Ok(RgbImage { orientation: image.orientation, ..RgbImage::new(height, width, pixels) })
}

/// As [`resize_rgb`], of each channel by itself.
///
/// # Errors
/// As for [`resize_rgb`].
pub(super) fn resize_bands(
    image: &BandImage,
    height: usize,
    width: usize,
    interpolation: Interpolation,
    antialias: bool,
) -> Result<BandImage, MediaError> {
    let from = (image.height, image.width);
    let samples = resize(&image.samples, from, (height, width), image.channels, interpolation, antialias)?;
    Ok(BandImage { height, width, samples, ..image.clone_without_samples() })
}

fn resize<T: Sample>(
    pixels: &[T],
    from: (usize, usize),
    (height, width): (usize, usize),
    channels: usize,
    interpolation: Interpolation,
    antialias: bool,
) -> Result<Vec<T>, MediaError> {
    let bytes = channels * size_of::<T>();
    let fits = |h: usize, w: usize| h.checked_mul(w)?.checked_mul(bytes).filter(|&n| n < 1 << 31);
    let columns_first = columns_first(from, (height, width));
    // The picture between the passes counts too: an extreme shape may be small before and after.
    let between = if columns_first { fits(height, from.1) } else { fits(from.0, width) };
    if height == 0 || width == 0 || fits(height, width).is_none() || between.is_none() {
        return Err(MediaError::preprocess(format!(
            "an image of {} x {} pixels cannot be resized to {height} x {width}",
            from.0, from.1
        )));
    }
    if !antialias && matches!(interpolation, Interpolation::Bicubic | Interpolation::Lanczos) {
        // torch computes bicubic without antialiasing by another kernel (a = -0.75), on tensors, not on 8-bit pixels.
        return Err(MediaError::preprocess("`antialias = false` is known for `nearest` and `bilinear` only"));
    }
    if (height, width) == from {
        return Ok(pixels.to_vec());
    }
    if interpolation == Interpolation::Nearest {
        return Ok(nearest(pixels, from, (height, width), channels));
    }
    let across = Kernels::<T>::new(from.1, width, interpolation, antialias);
    let down = Kernels::<T>::new(from.0, height, interpolation, antialias);
    // A side that keeps its length takes no pass.
    let narrow = |pixels: &[T]| match width == from.1 {
        true => pixels.to_vec(),
        false => across.along_rows(pixels, from.1, channels),
    };
    let shorten = |pixels: &[T], width: usize| match height == from.0 {
        true => pixels.to_vec(),
        false => down.along_columns(pixels, width * channels),
    };
    Ok(if columns_first { narrow(&shorten(pixels, from.1)) } else { shorten(&narrow(pixels), width) })
}

/// A sample, and the arithmetic in which it is resized.
pub(super) trait Sample: Copy {
    /// Of kernels.
    type Weight: Copy + Default;
    /// What samples times weights are added up in.
    type Sum: Copy;
    /// Where sums begin, so that the result is rounded to nearest.
    const START: Self::Sum;

    fn weight(share: f64) -> Self::Weight;
    fn add(sum: &mut Self::Sum, sample: Self, weight: Self::Weight);
    fn of(sum: Self::Sum) -> Self;
    /// OpenCV's: of four neighbours, the shares of the second column and of the second row.
    fn between(corners: [[Self; 2]; 2], x: f32, y: f32) -> Self;
}

impl Sample for u8 {
    type Weight = i32;
    type Sum = i32;
    const START: i32 = 1 << (FRACTION_BITS - 1);

    fn weight(share: f64) -> i32 {
        (share * f64::from(1 << FRACTION_BITS) + 0.5_f64.copysign(share)) as i32
    }

    fn add(sum: &mut i32, sample: u8, weight: i32) {
        *sum += i32::from(sample) * weight;
    }

    fn of(sum: i32) -> u8 {
        (sum >> FRACTION_BITS).clamp(0, 255) as u8
    }

    /// In fixed point of 11 bits (`INTER_RESIZE_COEF_BITS`), as `HResizeLinear` and `VResizeLinear` in its `resize.cpp`.
    fn between(corners: [[u8; 2]; 2], x: f32, y: f32) -> u8 {
        let fixed = |share: f32| ((1.0 - share) * 2048.0).round_ties_even() as i32;
        let fixed = |share: f32| [fixed(share), (share * 2048.0).round_ties_even() as i32];
        let [left, right] = fixed(x);
        let rows = corners.map(|[a, b]| i32::from(a) * left + i32::from(b) * right);
        let [upper, lower] = fixed(y);
        ((((upper * (rows[0] >> 4)) >> 16) + ((lower * (rows[1] >> 4)) >> 16) + 2) >> 2) as u8
    }
}

impl Sample for f32 {
    type Weight = f64;
    type Sum = f64;
    const START: f64 = 0.0;

    fn weight(share: f64) -> f64 {
        share
    }

    fn add(sum: &mut f64, sample: f32, weight: f64) {
        *sum += f64::from(sample) * weight;
    }

    fn of(sum: f64) -> f32 {
        sum as f32
    }

    fn between(corners: [[f32; 2]; 2], x: f32, y: f32) -> f32 {
        let rows = corners.map(|[a, b]| a * (1.0 - x) + b * x);
        rows[0] * (1.0 - y) + rows[1] * y
    }
}

/// `cv2.resize` with `INTER_LINEAR`: no kernel widens, whatever the scale.
pub(super) fn resize_linear<T: Sample>(
    pixels: &[T],
    from: (usize, usize),
    (height, width): (usize, usize),
    channels: usize,
) -> Vec<T> {
    let places = |from: usize, to: usize| -> Vec<(usize, usize, f32)> {
        let scale = from as f64 / to as f64;
        let place = |position: usize| {
            let at = ((position as f64 + 0.5) * scale - 0.5) as f32;
            let inside = |index: i64| index.clamp(0, from as i64 - 1) as usize;
            (inside(at.floor() as i64), inside(at.floor() as i64 + 1), at - at.floor())
        };
        (0..to).map(place).collect()
    };
    let (rows, mut columns) = (places(from.0, height), places(from.1, width));
    // Beyond the border a row is mixed with itself, which may cost a level; a column is not.
    columns.iter_mut().filter(|(left, right, _)| left == right).for_each(|(.., share)| *share = 0.0);
    let mut resized = Vec::with_capacity(height * width * channels);
    for &(upper, lower, y) in &rows {
        let row = |row: usize| &pixels[row * from.1 * channels..][..from.1 * channels];
        let (upper, lower) = (row(upper), row(lower));
        for &(left, right, x) in &columns {
            for channel in 0..channels {
                let (left, right) = (left * channels + channel, right * channels + channel);
                resized.push(T::between([[upper[left], upper[right]], [lower[left], lower[right]]], x, y));
            }
        }
    }
    resized
}

/// Since version 13 Pillow begins with the pass along the columns where the height loses more than twice as many pixels as the
/// width (its pull request 9549); found by comparing 3,400 shapes. Earlier versions always began along the rows, which gives
/// other roundings in some pixels.
fn columns_first(from: (usize, usize), to: (usize, usize)) -> bool {
    let lost = |from: usize, to: usize| from as i128 - to as i128;
    to.0 < from.0 && 2 * lost(from.1, to.1) < lost(from.0, to.0)
}

/// Pillow's nearest neighbour, including how it adds up the position (`ImagingScaleAffine`).
fn nearest<T: Copy>(pixels: &[T], from: (usize, usize), (height, width): (usize, usize), channels: usize) -> Vec<T> {
    let rows = nearest_positions(from.0, height);
    let columns = nearest_positions(from.1, width);
    let mut picked = Vec::with_capacity(height * width * channels);
    for &row in &rows {
        let row = &pixels[row * from.1 * channels..][..from.1 * channels];
        for &column in &columns {
            picked.extend_from_slice(&row[column * channels..][..channels]);
        }
    }
    picked
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
struct Kernels<T: Sample> {
    /// First source position and number of weights, for each output position.
    spans: Vec<(usize, usize)>,
    /// `spans.len()` rows of `stride` weights.
    weights: Vec<T::Weight>,
    stride: usize,
}

impl<T: Sample> Kernels<T> {
    fn new(from: usize, to: usize, interpolation: Interpolation, antialias: bool) -> Self {
        let scale = from as f64 / to as f64;
        let widening = if antialias { scale.max(1.0) } else { 1.0 };
        let radius = interpolation.radius() * widening;
        let stride = radius.ceil() as usize * 2 + 1;
        let mut spans = Vec::with_capacity(to);
        let mut weights = vec![T::Weight::default(); to * stride];
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
            for (weight, &real) in weights.iter_mut().zip(&real[..count]) {
                *weight = T::weight(if total == 0.0 { real } else { real / total });
            }
            spans.push((first, count));
        }
        Kernels { spans, weights, stride }
    }

    fn along_rows(&self, pixels: &[T], width: usize, channels: usize) -> Vec<T> {
        match channels {
            3 => self.along_rows_of::<3>(pixels, width),
            _ => {
                let mut out = Vec::with_capacity(pixels.len() / width * self.spans.len());
                for row in pixels.chunks_exact(width * channels) {
                    for (&(first, count), weights) in self.spans.iter().zip(self.weights.chunks_exact(self.stride)) {
                        for channel in 0..channels {
                            let mut sum = T::START;
                            let source = row[first * channels + channel..].iter().step_by(channels).take(count);
                            source.zip(weights).for_each(|(&sample, &weight)| T::add(&mut sum, sample, weight));
                            out.push(T::of(sum));
                        }
                    }
                }
                out
            }
        }
    }

    /// Of a number of channels that the compiler knows, which is faster.
    fn along_rows_of<const CHANNELS: usize>(&self, pixels: &[T], width: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(pixels.len() / width * self.spans.len());
        for row in pixels.chunks_exact(width * CHANNELS) {
            for (&(first, count), weights) in self.spans.iter().zip(self.weights.chunks_exact(self.stride)) {
                let mut sums = [T::START; CHANNELS];
                let source = row[first * CHANNELS..(first + count) * CHANNELS].chunks_exact(CHANNELS);
                for (pixel, &weight) in source.zip(weights) {
                    for (sum, &sample) in sums.iter_mut().zip(pixel) {
                        T::add(sum, sample, weight);
                    }
                }
                out.extend_from_slice(&sums.map(T::of));
            }
        }
        out
    }

    fn along_columns(&self, pixels: &[T], length: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(self.spans.len() * length);
        let mut sums = vec![T::START; length];
        for (&(first, count), weights) in self.spans.iter().zip(self.weights.chunks_exact(self.stride)) {
            sums.fill(T::START);
            let rows = pixels[first * length..(first + count) * length].chunks_exact(length);
            for (row, &weight) in rows.zip(weights) {
                for (sum, &sample) in sums.iter_mut().zip(row) {
                    T::add(sum, sample, weight);
                }
            }
            out.extend(sums.iter().map(|&sum| T::of(sum)));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::read_array_file;
    use std::path::Path;

    /// `testdata/resize_*.npy` hold what Pillow made of `testdata/color_rgb.png`; see `make.py`.
    #[test]
    fn equals_pillow_bit_for_bit() {
        let folder = Path::new("testdata");
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
