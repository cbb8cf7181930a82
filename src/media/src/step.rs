//! The steps of preprocessing, one by one, with the rounding of those who defined them: torchvision's transforms, and FiftyOne's
//! `MinResize`, `MaxResize` and `PatchSize` (`fiftyone/utils/torch.py`).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{error::MediaError, image::RgbImage, resample::Interpolation};

/// One step. Written as a JSON object whose `op` is the name in snake case: `{"op": "resize_smaller", "size": 520}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum PreprocessStep {
    /// To Pillow's `L` of the pixels: one channel, or three that are equal. Once, anywhere before `normalize`.
    Grayscale {
        /// 1 or 3.
        channels: usize,
    },
    /// To exactly this size, whatever the shape (torchvision `Resize((height, width))`).
    Resize {
        /// New height.
        height: usize,
        /// New width.
        width: usize,
        /// The filter; bilinear if not given.
        #[serde(default)]
        interpolation: Interpolation,
        /// Whether the kernel widens when shrinking; true if not given.
        #[serde(default = "yes")]
        antialias: bool,
    },
    /// So that the smaller side becomes `size` and the shape stays (torchvision `Resize(size)`).
    ResizeSmaller {
        /// New length of the smaller side.
        size: usize,
        /// The filter; bilinear if not given.
        #[serde(default)]
        interpolation: Interpolation,
        /// Whether the kernel widens when shrinking; true if not given.
        #[serde(default = "yes")]
        antialias: bool,
    },
    /// Enlarges an image that is smaller than this, keeping its shape (FiftyOne `MinResize`). Give `size`, or `height` and
    /// `width`.
    ResizeMin {
        /// Least height and least width.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<usize>,
        /// Least height.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        height: Option<usize>,
        /// Least width.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        width: Option<usize>,
        /// The filter; bilinear if not given.
        #[serde(default)]
        interpolation: Interpolation,
        /// Whether the kernel widens when shrinking; true if not given.
        #[serde(default = "yes")]
        antialias: bool,
    },
    /// Shrinks an image that is larger than this, keeping its shape (FiftyOne `MaxResize`). Give `size`, or `height` and
    /// `width`.
    ResizeMax {
        /// Greatest height and greatest width.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size: Option<usize>,
        /// Greatest height.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        height: Option<usize>,
        /// Greatest width.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        width: Option<usize>,
        /// The filter; bilinear if not given.
        #[serde(default)]
        interpolation: Interpolation,
        /// Whether the kernel widens when shrinking; true if not given.
        #[serde(default = "yes")]
        antialias: bool,
    },
    /// Cuts the middle out; a smaller image is padded with black around it (torchvision `CenterCrop`).
    CenterCrop {
        /// New height.
        height: usize,
        /// New width.
        width: usize,
    },
    /// Cuts the middle out so that both sides are multiples of `of` (FiftyOne `PatchSize`).
    CenterCropMultiple {
        /// The number that both sides shall be multiples of.
        of: usize,
    },
    /// Adds black at the bottom and at the right so that both sides are multiples of `of`.
    PadMultiple {
        /// The number that both sides shall be multiples of.
        of: usize,
    },
    /// Samples in `[0, 1]` become `(sample - mean) / std`. Only as the last step; if absent, samples stay in `[0, 1]`.
    Normalize {
        /// Of red, green and blue, or of gray.
        mean: Vec<f32>,
        /// Of red, green and blue, or of gray.
        std: Vec<f32>,
    },
}

/// As a person reads it: `resize the smaller side to 520 (bilinear, antialiased)`.
impl fmt::Display for PreprocessStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = |interpolation: &Interpolation, antialias: &bool| {
            format!("({interpolation}{})", if *antialias { ", antialiased" } else { "" })
        };
        let least = |size: &Option<usize>, height: &Option<usize>, width: &Option<usize>| match (size, height, width) {
            (Some(size), ..) => size.to_string(),
            (None, height, width) => format!("{}x{}", height.unwrap_or_default(), width.unwrap_or_default()),
        };
        match self {
            PreprocessStep::Grayscale { channels: 1 } => write!(f, "to grayscale, 1 channel"),
            PreprocessStep::Grayscale { channels } => write!(f, "to grayscale, {channels} equal channels"),
            PreprocessStep::Resize { height, width, interpolation, antialias } => {
                write!(f, "resize to {height}x{width} {}", filter(interpolation, antialias))
            }
            PreprocessStep::ResizeSmaller { size, interpolation, antialias } => {
                write!(f, "resize the smaller side to {size} {}", filter(interpolation, antialias))
            }
            PreprocessStep::ResizeMin { size, height, width, interpolation, antialias } => {
                write!(f, "enlarge to at least {} {}", least(size, height, width), filter(interpolation, antialias))
            }
            PreprocessStep::ResizeMax { size, height, width, interpolation, antialias } => {
                write!(f, "shrink to at most {} {}", least(size, height, width), filter(interpolation, antialias))
            }
            PreprocessStep::CenterCrop { height, width } => write!(f, "center crop to {height}x{width}"),
            PreprocessStep::CenterCropMultiple { of } => write!(f, "center crop to multiples of {of}"),
            PreprocessStep::PadMultiple { of } => write!(f, "pad to multiples of {of}"),
            PreprocessStep::Normalize { mean, std } => write!(f, "normalize with mean {mean:?}, std {std:?}"),
        }
    }
}

fn yes() -> bool {
    true
}

/// A resize or a crop with its numbers worked out for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    Resize { height: usize, width: usize, interpolation: Interpolation, antialias: bool },
    Crop(Crop),
}

/// A window on an image; may reach beyond it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Crop {
    pub(super) top: i64,
    pub(super) left: i64,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl PreprocessStep {
    /// What the step does to an image of this size; `None` if nothing.
    pub(super) fn change(&self, height: usize, width: usize) -> Result<Option<Change>, MediaError> {
        let resize = |height, width, interpolation: &Interpolation, antialias: &bool| {
            let (interpolation, antialias) = (*interpolation, *antialias);
            Some(Change::Resize { height, width, interpolation, antialias })
        };
        let (h, w) = (height as f64, width as f64);
        Ok(match self {
            PreprocessStep::Resize { height, width, interpolation, antialias } => {
                positive("resize", &[*height, *width])?;
                resize(*height, *width, interpolation, antialias)
            }
            PreprocessStep::ResizeSmaller { size, interpolation, antialias } => {
                positive("resize_smaller", &[*size])?;
                // torchvision: int(size * long / short), a division of integers rounded to the nearest double.
                let other = |long: usize, short: usize| (size.saturating_mul(long) as f64 / short as f64) as usize;
                let (height, width) = if width <= height { (other(height, width), *size) } else { (*size, other(width, height)) };
                resize(height, width, interpolation, antialias)
            }
            PreprocessStep::ResizeMin { size, height: least_h, width: least_w, interpolation, antialias } => {
                let (least_h, least_w) = two_sides("resize_min", *size, *least_h, *least_w)?;
                if height >= least_h && width >= least_w {
                    return Ok(None);
                }
                let factor = (least_h as f64 / h).max(least_w as f64 / w);
                resize(rounded(factor * h), rounded(factor * w), interpolation, antialias)
            }
            PreprocessStep::ResizeMax { size, height: most_h, width: most_w, interpolation, antialias } => {
                let (most_h, most_w) = two_sides("resize_max", *size, *most_h, *most_w)?;
                if height <= most_h && width <= most_w {
                    return Ok(None);
                }
                let factor = (most_h as f64 / h).min(most_w as f64 / w);
                resize(rounded(factor * h), rounded(factor * w), interpolation, antialias)
            }
            PreprocessStep::CenterCrop { height: new_h, width: new_w } => {
                positive("center_crop", &[*new_h, *new_w])?;
                Some(Change::Crop(Crop {
                    top: centered(height, *new_h),
                    left: centered(width, *new_w),
                    height: *new_h,
                    width: *new_w,
                }))
            }
            PreprocessStep::CenterCropMultiple { of } => {
                positive("center_crop_multiple", &[*of])?;
                let (new_h, new_w) = (height / of * of, width / of * of);
                ((new_h, new_w) != (height, width)).then(|| {
                    Change::Crop(Crop { top: centered(height, new_h), left: centered(width, new_w), height: new_h, width: new_w })
                })
            }
            PreprocessStep::PadMultiple { of } => {
                positive("pad_multiple", &[*of])?;
                let padded = |side: usize| side.checked_next_multiple_of(*of);
                let (Some(new_h), Some(new_w)) = (padded(height), padded(width)) else {
                    return Err(MediaError::preprocess("`pad_multiple` has a size beyond all numbers"));
                };
                ((new_h, new_w) != (height, width)).then_some(Change::Crop(Crop { top: 0, left: 0, height: new_h, width: new_w }))
            }
            PreprocessStep::Grayscale { .. } | PreprocessStep::Normalize { .. } => None,
        })
    }
}

/// Pillow's `convert("L")` (`L24` in its `Convert.c`): the luma of ITU-R 601-2, in whole numbers.
pub(super) fn to_gray(image: &mut RgbImage) {
    for pixel in image.pixels.chunks_exact_mut(3) {
        let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
        pixel.fill(((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8);
    }
}

fn positive(op: &str, sizes: &[usize]) -> Result<(), MediaError> {
    if sizes.contains(&0) {
        return Err(MediaError::preprocess(format!("`{op}` has a size of 0")));
    }
    Ok(())
}

fn two_sides(op: &str, size: Option<usize>, height: Option<usize>, width: Option<usize>) -> Result<(usize, usize), MediaError> {
    let (height, width) = match (size, height, width) {
        (Some(size), None, None) => (size, size),
        (None, Some(height), Some(width)) => (height, width),
        _ => {
            return Err(MediaError::preprocess(format!("`{op}` needs either `size` or both `height` and `width`")));
        }
    };
    positive(op, &[height, width])?;
    Ok((height, width))
}

/// Python's `int(round(x))`: halves go to the even neighbour.
fn rounded(x: f64) -> usize {
    x.round_ties_even() as usize
}

/// Where torchvision's `center_crop` begins along one side; negative where it pads.
fn centered(from: usize, to: usize) -> i64 {
    if to > from { -(((to - from) / 2) as i64) } else { ((from - to) as f64 / 2.0).round_ties_even() as i64 }
}

impl Crop {
    /// The window's pixels; black where it reaches beyond the image.
    pub(super) fn cut(self, image: &RgbImage) -> Result<RgbImage, MediaError> {
        let bytes = self.height.checked_mul(self.width).and_then(|n| n.checked_mul(3));
        let Some(bytes) = bytes.filter(|&bytes| bytes < 1 << 31) else {
            return Err(MediaError::preprocess(format!(
                "a crop of {} x {} pixels is beyond what memory allows",
                self.height, self.width
            )));
        };
        let mut pixels = vec![0; bytes];
        // The part of the window that lies on the image.
        let first = self.left.max(0);
        let count = (self.left + self.width as i64).min(image.width as i64) - first;
        for y in 0..self.height {
            let row = self.top + y as i64;
            if count > 0 && (0..image.height as i64).contains(&row) {
                let from = (row as usize * image.width + first as usize) * 3;
                let to = (y * self.width + (first - self.left) as usize) * 3;
                let length = count as usize * 3;
                pixels[to..to + length].copy_from_slice(&image.pixels[from..from + length]);
            }
        }
        Ok(RgbImage { orientation: image.orientation, ..RgbImage::new(self.height, self.width, pixels) })
    }
}
