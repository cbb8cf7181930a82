//! The steps of preprocessing, one by one, with the rounding of those who defined them: torchvision's transforms, and FiftyOne's
//! `MinResize`, `MaxResize` and `PatchSize` (`fiftyone/utils/torch.py`).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{bands::MAX_CHANNELS, error::MediaError, geometry::Crop, image::RgbImage, resample::Interpolation};

/// One step. Written as a JSON object whose `op` is the name in snake case: `{"op": "resize_smaller", "size": 520}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum PreprocessStep {
    /// Takes the image at its full depth, with this many channels, in place of 8-bit red, green and blue. Only as the first step;
    /// `normalize` then says what samples are divided by.
    Read {
        /// From 1 to 32.
        channels: usize,
        /// The range of samples in the files.
        samples: SampleRange,
    },
    /// Red, green, blue to blue, green, red. Once.
    Bgr,
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
        /// Whether half of an odd rest is rounded down, as transformers does; else to the even neighbour, as torchvision does.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        rounds_down: bool,
    },
    /// Cuts the middle out so that both sides are multiples of `of` (FiftyOne `PatchSize`).
    CenterCropMultiple {
        /// The number that both sides shall be multiples of.
        of: usize,
    },
    /// Adds to the bottom and the right, or around the image, so that both sides are multiples of `of`.
    PadMultiple {
        /// The number that both sides shall be multiples of.
        of: usize,
        /// Of what; black if not given.
        #[serde(default, skip_serializing_if = "Fill::is_black")]
        fill: Fill,
        /// Whether the image is in the middle; false if not given.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        centered: bool,
    },
    /// Adds to the bottom and the right, or around the image, so that it has at least this size.
    Pad {
        /// Least height.
        height: usize,
        /// Least width.
        width: usize,
        /// Of what; black if not given.
        #[serde(default, skip_serializing_if = "Fill::is_black")]
        fill: Fill,
        /// Whether the image is in the middle; false if not given.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        centered: bool,
    },
    /// To this size with the image's shape kept, in the middle of padding: Ultralytics' `LetterBox`, which resizes as OpenCV's
    /// `INTER_LINEAR` does.
    Letterbox {
        /// New height.
        height: usize,
        /// New width.
        width: usize,
        /// Padding; 114 if not given.
        #[serde(default = "letterbox_fill")]
        fill: Fill,
        /// Pads to the next multiple of this only (Ultralytics' `auto` with its `stride`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<usize>,
    },
    /// Samples, divided by `divide_by`, become `(sample - mean) / std`. Only as the last step; if absent, samples are divided by 255.
    Normalize {
        /// Of each channel.
        mean: Vec<f32>,
        /// Of each channel.
        std: Vec<f32>,
        /// What samples are divided by; 255 if not given. 1 leaves them as they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        divide_by: Option<f32>,
    },
}

/// The range of the samples in files that are read at full depth; others are refused, as they would be too dark or too bright.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SampleRange {
    /// 8 bits, or other numbers from 0 to 255.
    #[serde(rename = "0-255")]
    Bits8,
    /// 16 bits, or other numbers from 0 to 65535.
    #[serde(rename = "0-65535")]
    Bits16,
    /// Any, such as reflectances.
    #[serde(rename = "as-is")]
    AsIs,
}

impl fmt::Display for SampleRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SampleRange::Bits8 => "of 0 to 255",
            SampleRange::Bits16 => "of 0 to 65535",
            SampleRange::AsIs => "as they are",
        })
    }
}

/// What padding consists of: a level of the image, or what `normalize` makes 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fill {
    /// A sample before it is divided and normalised, such as 114.
    Sample(f32),
    /// The word `mean`.
    Word(FillWord),
}

/// See [`Fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FillWord {
    /// Padding is 0 in the model's input.
    Mean,
}

impl Default for Fill {
    fn default() -> Self {
        Fill::Sample(0.0)
    }
}

impl Fill {
    fn is_black(&self) -> bool {
        *self == Fill::default()
    }

    /// The sample that stands in the padding until it is normalised.
    pub(super) fn sample(self) -> f32 {
        if let Fill::Sample(sample) = self { sample } else { 0.0 }
    }
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fill::Sample(0.0) => f.write_str("black"),
            Fill::Sample(sample) => write!(f, "{sample}"),
            Fill::Word(FillWord::Mean) => f.write_str("the mean"),
        }
    }
}

fn letterbox_fill() -> Fill {
    Fill::Sample(114.0)
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
        let around = |centered: &bool| if *centered { "around" } else { "at the bottom and right" };
        match self {
            PreprocessStep::Read { channels: 1, samples } => write!(f, "read 1 channel, samples {samples}"),
            PreprocessStep::Read { channels, samples } => write!(f, "read {channels} channels, samples {samples}"),
            PreprocessStep::Bgr => f.write_str("to blue, green, red"),
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
            PreprocessStep::CenterCrop { height, width, .. } => write!(f, "center crop to {height}x{width}"),
            PreprocessStep::CenterCropMultiple { of } => write!(f, "center crop to multiples of {of}"),
            PreprocessStep::PadMultiple { of, fill, centered: false } if fill.is_black() => write!(f, "pad to multiples of {of}"),
            PreprocessStep::PadMultiple { of, fill, centered } => {
                write!(f, "pad to multiples of {of} with {fill} {}", around(centered))
            }
            PreprocessStep::Pad { height, width, fill, centered } => {
                write!(f, "pad to at least {height}x{width} with {fill} {}", around(centered))
            }
            PreprocessStep::Letterbox { height, width, fill, stride } => {
                write!(f, "letterbox to {height}x{width}, padded with {fill}")?;
                stride.map_or(Ok(()), |stride| write!(f, " to multiples of {stride}"))
            }
            PreprocessStep::Normalize { mean, std, divide_by: None | Some(255.0) } => {
                write!(f, "normalize with mean {mean:?}, std {std:?}")
            }
            PreprocessStep::Normalize { mean, std, divide_by: Some(1.0) } => {
                write!(f, "normalize samples as they are with mean {mean:?}, std {std:?}")
            }
            PreprocessStep::Normalize { mean, std, divide_by: Some(divisor) } => {
                write!(f, "divide by {divisor}, normalize with mean {mean:?}, std {std:?}")
            }
        }
    }
}

fn yes() -> bool {
    true
}

/// A resize or a crop with its numbers worked out for one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Change {
    Resize {
        height: usize,
        width: usize,
        interpolation: Interpolation,
        antialias: bool,
    },
    Crop(Crop, Fill),
    /// Resized to the first size, then cut.
    Letterbox {
        height: usize,
        width: usize,
        crop: Crop,
        fill: Fill,
    },
}

impl PreprocessStep {
    /// What padding of this step consists of, if it is one that pads.
    pub(super) fn fill(&self) -> Option<Fill> {
        match self {
            PreprocessStep::PadMultiple { fill, .. }
            | PreprocessStep::Pad { fill, .. }
            | PreprocessStep::Letterbox { fill, .. } => Some(*fill),
            PreprocessStep::CenterCrop { .. } => Some(Fill::default()),
            _ => None,
        }
    }

    /// How many channels the step leaves of so many.
    ///
    /// # Errors
    /// It takes another number.
    pub(super) fn channels_after(&self, before: usize) -> Result<usize, MediaError> {
        match self {
            PreprocessStep::Read { channels, .. } if !(1..=MAX_CHANNELS).contains(channels) => {
                Err(MediaError::preprocess(format!("`read` has {channels} channels; 1 to {MAX_CHANNELS} are possible")))
            }
            PreprocessStep::Read { channels, .. } => Ok(*channels),
            PreprocessStep::Grayscale { channels } if [1, 3].contains(channels) && [1, 3].contains(&before) => Ok(*channels),
            PreprocessStep::Grayscale { .. } => {
                Err(MediaError::preprocess(format!("`grayscale` has 1 or 3 channels, and takes so many, not {before}")))
            }
            PreprocessStep::Bgr if before != 3 => Err(MediaError::preprocess(format!("`bgr` takes 3 channels, not {before}"))),
            _ => Ok(before),
        }
    }

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
            PreprocessStep::CenterCrop { height: new_h, width: new_w, rounds_down } => {
                positive("center_crop", &[*new_h, *new_w])?;
                let offset = |from: usize, to: usize| match rounds_down {
                    true if from > to => ((from - to) / 2) as i64,
                    _ => centered(from, to),
                };
                let (top, left) = (offset(height, *new_h), offset(width, *new_w));
                Some(Change::Crop(Crop { top, left, height: *new_h, width: *new_w }, Fill::default()))
            }
            PreprocessStep::CenterCropMultiple { of } => {
                positive("center_crop_multiple", &[*of])?;
                let (new_h, new_w) = (height / of * of, width / of * of);
                ((new_h, new_w) != (height, width)).then(|| {
                    let (top, left) = (centered(height, new_h), centered(width, new_w));
                    Change::Crop(Crop { top, left, height: new_h, width: new_w }, Fill::default())
                })
            }
            PreprocessStep::PadMultiple { of, fill, centered } => {
                positive("pad_multiple", &[*of])?;
                let multiple = |side: usize| side.checked_next_multiple_of(*of);
                let (Some(new_h), Some(new_w)) = (multiple(height), multiple(width)) else {
                    return Err(MediaError::preprocess("`pad_multiple` has a size beyond all numbers"));
                };
                padded((height, width), (new_h, new_w), *fill, *centered)
            }
            PreprocessStep::Pad { height: least_h, width: least_w, fill, centered } => {
                positive("pad", &[*least_h, *least_w])?;
                padded((height, width), (height.max(*least_h), width.max(*least_w)), *fill, *centered)
            }
            PreprocessStep::Letterbox { height: new_h, width: new_w, fill, stride } => {
                positive("letterbox", &[*new_h, *new_w, stride.unwrap_or(1)])?;
                let ratio = (*new_h as f64 / h).min(*new_w as f64 / w);
                // A narrow image would become one of no pixels.
                let (inner_h, inner_w) = (rounded(h * ratio).max(1), rounded(w * ratio).max(1));
                let missing = |side: usize, inner: usize| {
                    let missing = side.saturating_sub(inner);
                    stride.map_or(missing, |stride| missing % stride)
                };
                // Ultralytics: half of it, from which 0.1 is taken before it is rounded.
                let before = |missing: usize| rounded((missing as f64 / 2.0 - 0.1).max(0.0));
                let (rows, columns) = (missing(*new_h, inner_h), missing(*new_w, inner_w));
                let crop = Crop {
                    top: -(before(rows) as i64),
                    left: -(before(columns) as i64),
                    height: inner_h + rows,
                    width: inner_w + columns,
                };
                Some(Change::Letterbox { height: inner_h, width: inner_w, crop, fill: *fill })
            }
            PreprocessStep::Read { .. }
            | PreprocessStep::Bgr
            | PreprocessStep::Grayscale { .. }
            | PreprocessStep::Normalize { .. } => None,
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

/// The change that pads an image from one size to another.
fn padded(from: (usize, usize), to: (usize, usize), fill: Fill, is_centered: bool) -> Option<Change> {
    let before = |from: usize, to: usize| if is_centered { -(((to - from) / 2) as i64) } else { 0 };
    let crop = Crop { top: before(from.0, to.0), left: before(from.1, to.1), height: to.0, width: to.1 };
    (from != to).then_some(Change::Crop(crop, fill))
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
