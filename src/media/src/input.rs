//! The pixels of a model's input, and what makes floats of them.

use std::borrow::Cow;

use super::image::RgbImage;

/// The pixels of a model's input.
#[derive(Clone, Debug, PartialEq)]
pub enum InputPixels {
    /// u8 `[height, width, channels]`, still to be normalised: a quarter of the bytes on the way to a device.
    Levels(Vec<u8>),
    /// f32 `[channels, height, width]`, normalised.
    Floats(Vec<f32>),
}

impl InputPixels {
    /// The first channels of an image.
    pub(super) fn of_levels(image: Cow<'_, RgbImage>, channels: usize) -> Self {
        InputPixels::Levels(match channels {
            3 => image.into_owned().pixels,
            _ => image.pixels.chunks_exact(3).flat_map(|pixel| &pixel[..channels]).copied().collect(),
        })
    }

    /// f32 `[channels, height, width]`, normalised: what a device makes of them.
    pub fn to_floats(&self, normalization: &Normalization) -> Vec<f32> {
        match self {
            InputPixels::Levels(levels) => {
                let channels = normalization.mean.len();
                normalization.of_levels(levels, channels, channels)
            }
            InputPixels::Floats(floats) => floats.clone(),
        }
    }
}

/// From samples to a model's input, with torchvision's arithmetic: all in f32, first the division, then the mean, then the deviation.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// What samples are divided by.
    pub divide_by: f32,
    /// Of each channel.
    pub mean: Vec<f32>,
    /// Of each channel.
    pub std: Vec<f32>,
}

impl Normalization {
    /// To `[0, 1]` and no further.
    pub(super) fn of_channels(channels: usize) -> Self {
        Normalization { divide_by: 255.0, mean: vec![0.0; channels], std: vec![1.0; channels] }
    }

    /// Of samples `[height, width, stride]` the first channels, as f32 `[channels, height, width]`.
    pub(super) fn apply<T: Copy>(&self, samples: &[T], stride: usize, channels: usize, to_float: impl Fn(T) -> f32) -> Vec<f32> {
        let mut floats = Vec::with_capacity(samples.len() / stride * channels);
        for channel in 0..channels {
            floats.extend(samples.chunks_exact(stride).map(|pixel| self.of_channel(channel, to_float(pixel[channel]))));
        }
        floats
    }

    /// The same of levels. With 256 of them a table gives the same bits as computing each.
    pub(super) fn of_levels(&self, levels: &[u8], stride: usize, channels: usize) -> Vec<f32> {
        let tables: Vec<[f32; 256]> =
            (0..channels).map(|channel| std::array::from_fn(|level| self.of_channel(channel, level as f32))).collect();
        let mut floats = Vec::with_capacity(levels.len() / stride * channels);
        for (channel, table) in tables.iter().enumerate() {
            floats.extend(levels.chunks_exact(stride).map(|pixel| table[usize::from(pixel[channel])]));
        }
        floats
    }

    fn of_channel(&self, channel: usize, sample: f32) -> f32 {
        (sample / self.divide_by - self.mean[channel]) / self.std[channel]
    }
}
