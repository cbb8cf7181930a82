//! What a decoder leaves of an image file: samples as they are stored, before they become colours or class numbers.

use image::{ColorType, DynamicImage};

/// Samples of the first image in a file.
pub(super) struct Picture {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) samples: Samples,
    /// Whether the file is gray without an alpha channel, although its decoder made one: a PNG may declare one level
    /// transparent, which Pillow and OpenCV both ignore.
    pub(super) alpha_is_a_level: bool,
    /// Whether OpenCV, and so FiftyOne's `get_mask`, takes the same samples from the file.
    pub(super) is_a_mask: bool,
}

/// Row by row, the samples of a pixel beside each other.
pub(super) enum Samples {
    Gray(Vec<u8>),
    GrayAlpha(Vec<u8>),
    Rgb(Vec<u8>),
    Rgba(Vec<u8>),
    Gray16(Vec<u16>),
    GrayAlpha16(Vec<u16>),
    Rgb16(Vec<u16>),
    Rgba16(Vec<u16>),
    /// Gray, of 16 bits with a sign or of 32.
    Integers(Vec<i32>),
    /// Gray.
    Floats(Vec<f32>),
}

impl TryFrom<DynamicImage> for Picture {
    type Error = ColorType;

    /// Fails for types of samples that no reader of files here makes, with that type.
    fn try_from(image: DynamicImage) -> Result<Picture, ColorType> {
        let (height, width) = (image.height() as usize, image.width() as usize);
        let samples = match image {
            DynamicImage::ImageLuma8(image) => Samples::Gray(image.into_raw()),
            DynamicImage::ImageLumaA8(image) => Samples::GrayAlpha(image.into_raw()),
            DynamicImage::ImageRgb8(image) => Samples::Rgb(image.into_raw()),
            DynamicImage::ImageRgba8(image) => Samples::Rgba(image.into_raw()),
            DynamicImage::ImageLuma16(image) => Samples::Gray16(image.into_raw()),
            DynamicImage::ImageLumaA16(image) => Samples::GrayAlpha16(image.into_raw()),
            DynamicImage::ImageRgb16(image) => Samples::Rgb16(image.into_raw()),
            DynamicImage::ImageRgba16(image) => Samples::Rgba16(image.into_raw()),
            other => return Err(other.color()),
        };
        Ok(Picture::new(height, width, samples))
    }
}

impl Picture {
    pub(super) fn new(height: usize, width: usize, samples: Samples) -> Picture {
        Picture { height, width, samples, alpha_is_a_level: false, is_a_mask: true }
    }

    /// Gray of 8 bits from gray of 16.
    pub(super) fn without_low_bytes(self) -> Picture {
        let samples = match self.samples {
            Samples::Gray16(samples) => Samples::Gray(samples.into_iter().map(|sample| (sample >> 8) as u8).collect()),
            samples => samples,
        };
        Picture { samples, ..self }
    }

    /// Pillow's `convert("RGB")`.
    pub(super) fn into_rgb(self) -> Vec<u8> {
        let high = |sample: u16| (sample >> 8) as u8;
        match self.samples {
            Samples::Rgb(samples) => samples,
            Samples::Gray(samples) => samples.iter().flat_map(|&v| [v; 3]).collect(),
            Samples::GrayAlpha(samples) => samples.chunks_exact(2).flat_map(|v| [v[0]; 3]).collect(),
            Samples::Rgba(samples) => samples.chunks_exact(4).flat_map(|v| [v[0], v[1], v[2]]).collect(),
            Samples::Gray16(samples) => samples.iter().flat_map(|&v| [v.min(255) as u8; 3]).collect(),
            // A gray image whose transparency is one level, not a channel: Pillow's mode `I;16`, which clips.
            Samples::GrayAlpha16(samples) if self.alpha_is_a_level => {
                samples.chunks_exact(2).flat_map(|v| [v[0].min(255) as u8; 3]).collect()
            }
            Samples::GrayAlpha16(samples) => samples.chunks_exact(2).flat_map(|v| [high(v[0]); 3]).collect(),
            Samples::Rgb16(samples) => samples.iter().map(|&v| high(v)).collect(),
            Samples::Rgba16(samples) => samples.chunks_exact(4).flat_map(|v| [high(v[0]), high(v[1]), high(v[2])]).collect(),
            Samples::Integers(samples) => samples.iter().flat_map(|&v| [v.clamp(0, 255) as u8; 3]).collect(),
            // A cast clips, and takes what is no number for 0.
            Samples::Floats(samples) => samples.iter().flat_map(|&v| [v as u8; 3]).collect(),
        }
    }

    /// Whether a pixel of a colour picture is transparent.
    pub(super) fn is_transparent(&self) -> bool {
        matches!(&self.samples, Samples::Rgba(samples) if samples.chunks_exact(4).any(|pixel| pixel[3] < 255))
    }

    /// Whether [`Picture::into_rgb`] clips levels: gray of more than 8 bits, which turns white where it is bright, and black
    /// where it is of fractions.
    pub(super) fn is_clipped(&self) -> bool {
        match &self.samples {
            Samples::Gray16(samples) => samples.iter().any(|v| *v > 255),
            Samples::GrayAlpha16(samples) => self.alpha_is_a_level && samples.iter().step_by(2).any(|v| *v > 255),
            Samples::Integers(samples) => samples.iter().any(|v| !(0..=255).contains(v)),
            Samples::Floats(samples) => {
                samples.iter().any(|v| !(0.0..256.0).contains(v))
                    || (samples.iter().all(|v| *v <= 1.0) && samples.iter().any(|v| *v > 0.0))
            }
            _ => false,
        }
    }
}
