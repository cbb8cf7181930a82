//! What preprocessing works on: 8-bit colours, or samples at full depth. Each step gives of either what its reference gives.

use std::borrow::Cow;

use super::{
    bands::BandImage,
    error::MediaError,
    geometry::Crop,
    image::RgbImage,
    input::Normalization,
    resample::{Interpolation, resize_bands, resize_linear, resize_rgb},
    step::{Fill, to_gray},
};

/// An image between two steps.
pub(super) enum Pixels<'a> {
    /// u8, as Pillow has it below torchvision's transforms.
    Levels(Cow<'a, RgbImage>),
    /// f32.
    Bands(Cow<'a, BandImage>),
}

impl Pixels<'_> {
    pub(super) fn size(&self) -> (usize, usize) {
        match self {
            Pixels::Levels(image) => (image.height, image.width),
            Pixels::Bands(image) => (image.height, image.width),
        }
    }

    pub(super) fn resize(
        &mut self,
        (height, width): (usize, usize),
        filter: Interpolation,
        antialias: bool,
    ) -> Result<(), MediaError> {
        match self {
            Pixels::Levels(image) => *image = Cow::Owned(resize_rgb(image, height, width, filter, antialias)?),
            Pixels::Bands(image) => *image = Cow::Owned(resize_bands(image, height, width, filter, antialias)?),
        }
        Ok(())
    }

    /// As OpenCV's `INTER_LINEAR`.
    pub(super) fn resize_linear(&mut self, height: usize, width: usize) {
        if self.size() == (height, width) {
            return;
        }
        match self {
            Pixels::Levels(image) => {
                let pixels = resize_linear(&image.pixels, (image.height, image.width), (height, width), 3);
                *image = Cow::Owned(RgbImage { orientation: image.orientation, ..RgbImage::new(height, width, pixels) });
            }
            Pixels::Bands(image) => {
                let samples = resize_linear(&image.samples, (image.height, image.width), (height, width), image.channels);
                *image = Cow::Owned(BandImage { height, width, samples, ..image.clone_without_samples() });
            }
        }
    }

    pub(super) fn cut(&mut self, crop: Crop, fill: Fill) {
        match self {
            Pixels::Levels(image) => {
                let pixels = crop.window(&image.pixels, (image.height, image.width), 3, fill.sample() as u8);
                let cut = RgbImage { orientation: image.orientation, ..RgbImage::new(crop.height, crop.width, pixels) };
                *image = Cow::Owned(cut);
            }
            Pixels::Bands(image) => *image = Cow::Owned(image.cut(crop, fill.sample())),
        }
    }

    /// One channel, or three equal ones; 8-bit colours stay three.
    pub(super) fn make_gray(&mut self, channels: usize) {
        match self {
            Pixels::Levels(image) => to_gray(image.to_mut()),
            Pixels::Bands(image) => *image = Cow::Owned(image.to_gray(channels)),
        }
    }

    pub(super) fn exchange_red_and_blue(&mut self) {
        match self {
            Pixels::Levels(image) => image.to_mut().pixels.chunks_exact_mut(3).for_each(|pixel| pixel.reverse()),
            Pixels::Bands(image) => {
                let channels = image.channels;
                image.to_mut().samples.chunks_exact_mut(channels).for_each(|pixel| pixel.reverse());
            }
        }
    }

    /// f32 `[channels, height, width]`, normalised.
    pub(super) fn to_floats(&self, channels: usize, normalization: &Normalization) -> Vec<f32> {
        match self {
            Pixels::Levels(image) => normalization.of_levels(&image.pixels, 3, channels),
            Pixels::Bands(image) => normalization.apply(&image.samples, image.channels, channels, |sample| sample),
        }
    }
}
