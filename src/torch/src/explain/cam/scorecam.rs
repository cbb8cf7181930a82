//! Score-CAM: *Score-Weighted Visual Explanations for Convolutional Neural Networks*, Wang et al., CVPRW 2020,
//! <https://arxiv.org/abs/1910.01279>.
//!
//! A channel weighs as much as its activation, laid over the image as a mask, raises the score. With activation `A`
//! (`[C, H', W']`), image `x` (`[3, H, W]`) and score `y`:
//!
//! ```text
//! M_c    = upsample(A_c) to [H, W], scaled to [0, 1] by its own minimum and maximum
//! w      = softmax over c of y(x * M_c)
//! L[i,j] = sum_c w_c * A[c,i,j]
//! ```
//!
//! Upsampling is bilinear with aligned corners and the scaling's epsilon is 1e-8, as in pytorch_grad_cam's `ScoreCAM`. No
//! gradient; as many forward passes as channels, as many at a time as `--cam-batch-size` says, shared by all classes of a sample.

use tch::{Kind, TchError, Tensor};

use super::{CamMethod, Reduction, evidence::ImageVariants};
use crate::{
    explain::{
        ExplainError,
        probe::{Probe, score_all},
        target::Score,
    },
    program::ExecError,
};

const EPSILON: f64 = 1e-8;

/// Score-CAM.
pub(super) struct ScoreCam;

impl CamMethod for ScoreCam {
    type Evidence<'a> = ImageVariants<'a>;

    fn saliency(&self, evidence: &ImageVariants<'_>, reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(reduction.of_weighted(&evidence.activation, &evidence.weights::<Self>(weights)?)?)
    }
}

/// Channel weights `[T, C]` of one sample, for each of its `T` scores; `activation` is `[1, C, H', W']`.
///
/// # Errors
/// A node of the graph fails, for want of memory say.
fn weights(probe: &Probe<'_>, activation: &Tensor, scores: &[&Score]) -> Result<Tensor, ExecError> {
    let (height, width) = (probe.image().size()[2], probe.image().size()[3]);
    let num_channels = activation.size()[1];
    let mut columns = Vec::new();
    for (first, count) in probe.options.batches(num_channels) {
        let channels = activation.f_narrow(1, first, count);
        let masked = channels.and_then(|channels| probe.image().f_mul(&masks(&channels, (height, width))?));
        let masked = masked.map_err(|error| probe.failed("mask", &error))?;
        let logits = probe.plan.forward(&masked)?;
        columns.push(score_all(&logits, scores).map_err(|error| probe.failed("score", &error))?);
    }
    let weights = Tensor::f_cat(&columns, 1).and_then(|raised| raised.f_softmax(1, None::<Kind>));
    weights.map_err(|error| probe.failed("softmax", &error))
}

/// The masks `[B, 1, H, W]` of channels `[1, B, H', W']`.
fn masks(channels: &Tensor, (height, width): (i64, i64)) -> Result<Tensor, TchError> {
    let dims: &[i64] = &[2, 3];
    let large = channels.f_upsample_bilinear2d([height, width], true, None::<f64>, None::<f64>)?;
    let (least, largest) = (large.f_amin(dims, true)?, large.f_amax(dims, true)?);
    let scaled = large.f_sub(&least)?.f_div(&largest.f_sub(&least)?.f_add_scalar(EPSILON)?)?;
    scaled.f_transpose(0, 1)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn masks_reach_from_zero_to_one_with_aligned_corners() {
        let found = masks(&tensor(&[2.0, 4.0, 7.0, 7.0], [1, 2, 1, 2]), (1, 3)).expect("masks");
        assert_eq!(found.size(), [2, 1, 1, 3]);
        assert_near(&values(&found), &[0.0, 0.5, 1.0, 0.0, 0.0, 0.0]);
    }
}
