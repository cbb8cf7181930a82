//! IS-CAM: *Integrated Score-CAM for axiomatic-based explanations*, Naidu et al., 2020, <https://arxiv.org/abs/2010.03023>.
//!
//! Score-CAM whose masks come up step by step, as an integral is taken. With activation `A` (`[C, H', W']`), image `x` (`[3, H, W]`) and
//! score `y`:
//!
//! ```text
//! M_c    = upsample(A_c scaled to [0, 1] by its own minimum and maximum) to [H, W]
//! s_i    = sum_{j<=i} j/N,    i = 1 ... N
//! w      = softmax over c of 1/N * sum_i y(x * s_i * M_c)
//! L[i,j] = sum_c w_c * A[c,i,j]
//! ```
//!
//! Numbers are those of torch-cam's `ISCAM`: 10 steps, sums of fractions as the paper's algorithm has them (the last is 5.5), bilinear
//! upsampling without aligned corners, an epsilon of 1e-8 in the scaling. What both subtract, the score of the image, is nothing in a
//! softmax. No gradient; ten forward passes a channel, as many at a time as `--cam-batch-size` says, shared by all classes of a sample.

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

const STEPS: i64 = 10;

/// IS-CAM.
pub(super) struct IsCam;

impl CamMethod for IsCam {
    type Evidence<'a> = ImageVariants<'a>;

    fn saliency(&self, evidence: &ImageVariants<'_>, reduction: Reduction) -> Result<Tensor, ExplainError> {
        let weights = evidence.weights::<Self>(|probe, activation, scores| {
            weights(probe, activation, scores, STEPS, |mask, step, _| mask.f_mul_scalar(factor(step)))
        })?;
        Ok(reduction.of_weighted(&evidence.activation, &weights)?)
    }
}

/// The sum of the fractions up to a step, from 0 on.
fn factor(step: i64) -> f64 {
    let number = step + 1;
    (number * (number + 1)) as f64 / (2 * STEPS) as f64
}

/// Channel weights `[T, C]` of one sample, for each of its `T` scores, from the mean of its scores over so many steps; `activation` is
/// `[1, C, H', W']`. `change` makes of masks `[B, 1, H, W]` those of a step, of the channels from a number on.
///
/// # Errors
/// A node of the graph fails, for want of memory say; those of `change`.
pub(super) fn weights(
    probe: &Probe<'_>,
    activation: &Tensor,
    scores: &[&Score],
    steps: i64,
    change: impl Fn(&Tensor, i64, i64) -> Result<Tensor, TchError>,
) -> Result<Tensor, ExecError> {
    let torch = |error: TchError| probe.failed("mask", &error);
    let size = [probe.image().size()[2], probe.image().size()[3]];
    let mut columns = Vec::new();
    for (first, count) in probe.options.batches(activation.size()[1]) {
        let masks = activation.f_narrow(1, first, count).and_then(|channels| masks(&channels, size)).map_err(torch)?;
        let mut sum: Option<Tensor> = None;
        for step in 0..steps {
            let masked = change(&masks, step, first).and_then(|masks| probe.image().f_mul(&masks)).map_err(torch)?;
            let given = score_all(&probe.plan.forward(&masked)?, scores).map_err(torch)?;
            sum = Some(sum.map_or_else(|| Ok(given.shallow_clone()), |sum| sum.f_add(&given)).map_err(torch)?);
        }
        columns.extend(sum);
    }
    let mean = Tensor::f_cat(&columns, 1).and_then(|sums| sums.f_div_scalar(steps as f64));
    mean.and_then(|mean| mean.f_softmax(1, None::<Kind>)).map_err(torch)
}

/// The masks `[B, 1, H, W]` of channels `[1, B, H', W']`.
fn masks(channels: &Tensor, size: [i64; 2]) -> Result<Tensor, TchError> {
    let dims: &[i64] = &[2, 3];
    let shifted = channels.f_sub(&channels.f_amin(dims, true)?)?;
    let scaled = shifted.f_div(&shifted.f_amax(dims, true)?.f_add_scalar(EPSILON)?)?;
    scaled.f_transpose(0, 1)?.f_upsample_bilinear2d(size, false, None::<f64>, None::<f64>)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn masks_are_scaled_before_they_are_enlarged() {
        let found = masks(&tensor(&[2.0, 4.0, 7.0, 7.0], [1, 2, 1, 2]), [1, 4]).expect("masks");
        assert_eq!(found.size(), [2, 1, 1, 4]);
        assert_near(&values(&found), &[0.0, 0.25, 0.75, 1.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn factors_add_up_the_fractions() {
        assert_eq!([0, 1, 2, 9].map(factor), [0.1, 0.3, 0.6, 5.5]);
    }
}
