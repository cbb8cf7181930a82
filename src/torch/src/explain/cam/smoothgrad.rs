//! SmoothGrad: *SmoothGrad: removing noise by adding noise*, Smilkov et al., 2017, <https://arxiv.org/abs/1706.03825>.
//!
//! The gradient in an image changes with every bit of it; its mean over noisy images does not. With image `x` (`[C, H, W]`), score `y`
//! and normal noise `e_1 ... e_n`:
//!
//! ```text
//! sigma  = 0.15 * (max x - min x)
//! g      = 1/n sum_k dy/dx(x + sigma * e_k)
//! L[i,j] = sum_c |g[c,i,j]|
//! ```
//!
//! `n` is 25 (`--cam-samples`), `sigma` is in the units of the model's input, and over channels the magnitudes are summed up, as in the
//! authors' code; Captum's `NoiseTunnel` over `Saliency` without `abs` gives `g`. The noise follows from the sample, so that a second run
//! gives the same map. It has no target layer, and `--eigen-smooth` does not apply.

use tch::{Kind, Tensor};

use super::{
    CamMethod, Reduction, Whole,
    inputs::{Asked, OtherImages, sum_of_magnitudes},
};
use crate::{
    explain::{
        ExplainError,
        sampling::{Draws, Sampling},
    },
    program::send,
};

/// Noisy images: those of the authors' code.
const SAMPLES: usize = 25;
/// Deviation of the noise, by the range of the image's values.
const NOISE: f64 = 0.15;

/// SmoothGrad.
pub(super) struct SmoothGrad;

impl CamMethod for SmoothGrad {
    type Evidence<'a> = OtherImages<'a, true>;

    fn saliency(&self, evidence: &OtherImages<'_, true>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        evidence.of_samples::<Self>(smoothed)
    }

    fn whole(&self, sampling: Sampling) -> Whole {
        Whole::image(&format!("the image, {} with noise", sampling.samples_or(SAMPLES)))
    }
}

/// The map `[T, H, W]` of one sample for each of its scores.
fn smoothed(asked: &Asked<'_>) -> Result<Tensor, ExplainError> {
    let image = asked.probe.image();
    let (_, channels, height, width) = image.size4()?;
    let deviation = image.f_max()?.f_sub(&image.f_min()?)?.f_mul_scalar(NOISE)?;
    let draws = Draws::of(asked.key);
    let count = asked.sampling.samples_or(SAMPLES) as i64;
    let share = Tensor::f_full([1], 1.0 / count as f64, (image.kind(), image.device()))?;
    let sum = asked.gradients(count, |first, number| {
        let each = (channels * height * width) as u64;
        let noise = draws.normals(first as u64 * each, number as u64 * each);
        let noise = send(&noise, &[number, channels, height, width], image.device())?.f_to_kind(image.kind())?;
        Ok((image.f_add(&noise.f_mul(&deviation)?)?, share.f_expand([number], false)?))
    })?;
    Ok(sum_of_magnitudes(&sum.f_to_kind(Kind::Float)?)?)
}
