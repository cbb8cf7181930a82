//! How methods at the image itself ask the model: how often, from where, and what is left to chance.

use std::{f64::consts::TAU, num::NonZeroUsize};

use rayon::iter::{IntoParallelIterator, ParallelIterator};
use tch::{Kind, TchError, Tensor};

use crate::program::send;
use camflow_names::Choice;

/// What can be chosen of methods that ask the model about other images than the one that is explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// How many noisy images SmoothGrad takes, steps integrated gradients, masks RISE; `None`: as many as the method has by itself.
    pub samples: Option<NonZeroUsize>,
    /// The image without content.
    pub baseline: Baseline,
    /// The side in pixels of the square that occlusion covers; `None`: an eighth of the input's smaller side.
    pub window: Option<NonZeroUsize>,
}

impl Sampling {
    /// How many images a method asks about that has so many by itself.
    pub(super) fn samples_or(self, own: usize) -> usize {
        self.samples.map_or(own, NonZeroUsize::get)
    }
}

/// An image without content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Baseline {
    /// That of the method.
    #[default]
    Own,
    /// Black, before the image is normalised.
    Black,
    /// Zero in the model's input: the mean colour of the images that a model was trained on, where its input is normalised by that.
    Zero,
    /// The mean colour of the image itself.
    Mean,
}

impl Choice for Baseline {
    const ALL: &'static [Self] = &[Baseline::Own, Baseline::Black, Baseline::Zero, Baseline::Mean];

    fn name(self) -> &'static str {
        match self {
            Baseline::Own => "own",
            Baseline::Black => "black",
            Baseline::Zero => "zero",
            Baseline::Mean => "mean",
        }
    }
}

impl Baseline {
    /// This one, of a method that has another by itself.
    pub(super) fn or(self, own: Baseline) -> Baseline {
        if self == Baseline::Own { own } else { self }
    }

    /// Like an image `[1, C, H, W]`, where black has these values in its channels.
    ///
    /// # Errors
    /// libtorch fails.
    pub(super) fn like(self, image: &Tensor, black: &[f32]) -> Result<Tensor, TchError> {
        let colour = match self {
            Baseline::Black => send(black, &[1, black.len() as i64, 1, 1], image.device())?.f_to_kind(image.kind())?,
            Baseline::Zero | Baseline::Own => return image.f_zeros_like(),
            Baseline::Mean => image.f_mean_dim([2i64, 3].as_slice(), true, None::<Kind>)?,
        };
        colour.f_expand_as(image)
    }
}

/// Numbers by chance that follow from a text, each by its place: the same in every run and on every machine. SplitMix64 (Steele et al.,
/// *Fast splittable pseudorandom number generators*, 2014) of the text's FNV-1a hash.
pub(super) struct Draws(u64);

impl Draws {
    /// Of a text.
    pub(super) fn of(key: &str) -> Self {
        Draws(key.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
    }

    /// Uniform in (0, 1].
    pub(super) fn uniform(&self, place: u64) -> f64 {
        let mut mixed = self.0.wrapping_add((place + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((mixed >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal numbers from a place on, by Box and Muller's transform: each has two uniform ones of its own.
    pub(super) fn normals(&self, start: u64, count: u64) -> Vec<f32> {
        let normal = |place: u64| {
            let (length, angle) = (self.uniform(2 * place), self.uniform(2 * place + 1));
            ((-2.0 * length.ln()).sqrt() * (TAU * angle).cos()) as f32
        };
        (start..start + count).into_par_iter().map(normal).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_follows_from_text_and_place() {
        let draws = Draws::of("a");
        // SplitMix64 of the hash of `a`, 0xaf63dc4c8601ec8c, by another implementation.
        let first: Vec<u64> = (0..2).map(|place| (draws.uniform(place) * (1u64 << 53) as f64) as u64 - 1).collect();
        assert_eq!(draws.0, 0xaf63_dc4c_8601_ec8c);
        assert_eq!(first, [3348254856819568, 8990286608259697]);
        assert_eq!(draws.normals(3, 4), draws.normals(0, 10)[3..7]);
        assert_ne!(draws.normals(0, 4), Draws::of("b").normals(0, 4));
        let numbers = Tensor::from_slice(&draws.normals(0, 40_000));
        let (mean, deviation) = (numbers.mean(None::<Kind>).double_value(&[]), numbers.std(true).double_value(&[]));
        assert!(mean.abs() < 0.02 && (deviation - 1.0).abs() < 0.02, "{mean} {deviation}");
    }

    #[test]
    fn baselines_are_black_zero_or_the_mean() {
        let image = Tensor::from_slice(&[1f32, 3.0, -2.0, 6.0]).view([1, 2, 1, 2]);
        let like = |baseline: Baseline| Vec::<f32>::try_from(baseline.like(&image, &[-4.0, -5.0]).expect("like").flatten(0, -1));
        assert_eq!(like(Baseline::Black).expect("values"), [-4.0, -4.0, -5.0, -5.0]);
        assert_eq!(like(Baseline::Zero).expect("values"), [0.0; 4]);
        assert_eq!(like(Baseline::Mean).expect("values"), [2.0, 2.0, 2.0, 2.0]);
    }
}
