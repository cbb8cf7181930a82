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
//! Channels that give one mask share a forward pass: those that are zero everywhere, of which there are many behind a ReLU, and those
//! that are the same but for their scale, as those are that answer at the same single place.
//!
//! Upsampling is bilinear with aligned corners and the scaling's epsilon is 1e-8, as in pytorch_grad_cam's `ScoreCAM`. No
//! gradient; as many forward passes as there are masks, as many at a time as `--cam-batch-size` says, shared by all classes of a sample.

use std::collections::HashMap;

use tch::{Kind, TchError, Tensor};

use super::{CamMethod, Reduction, evidence::ImageVariants};
use crate::{
    explain::{
        ExplainError,
        probe::{Probe, score_all},
        target::{Score, index_tensor},
    },
    program::{ExecError, to_host},
};

const EPSILON: f64 = 1e-8;

/// How far a channel has to vary for the epsilon to change its mask by less than 1e-6.
const LEAST_RANGE: f64 = 1e-2;

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
    let Distinct { channels: of_masks, mask_of } = Distinct::of(activation).map_err(|error| probe.failed("compare", &error))?;
    let mut columns = Vec::new();
    for (first, count) in probe.options.batches(of_masks.len() as i64) {
        let channels = index_tensor(&of_masks[first as usize..(first + count) as usize], activation)
            .and_then(|channels| activation.f_index_select(1, &channels));
        let masked = channels.and_then(|channels| probe.image().f_mul(&masks(&channels, (height, width))?));
        let masked = masked.map_err(|error| probe.failed("mask", &error))?;
        let logits = probe.plan.forward(&masked)?;
        columns.push(score_all(&logits, scores).map_err(|error| probe.failed("score", &error))?);
    }
    let raised = Tensor::f_cat(&columns, 1).and_then(|of_masks| of_masks.f_index_select(1, &index_tensor(&mask_of, activation)?));
    let weights = raised.and_then(|raised| raised.f_softmax(1, None::<Kind>));
    weights.map_err(|error| probe.failed("softmax", &error))
}

/// The channels that have masks of their own.
#[derive(Debug, PartialEq, Eq)]
struct Distinct {
    /// Of each mask the channel that it is made of.
    channels: Vec<i64>,
    /// Of each channel which of these is its mask.
    mask_of: Vec<i64>,
}

impl Distinct {
    /// Of channels `[1, C, H', W']`. Masks are the same where channels are, once each is scaled by its own minimum and maximum; of those
    /// that hardly vary the scaling's epsilon makes others.
    fn of(activation: &Tensor) -> Result<Self, TchError> {
        let channels = activation.f_select(0, 0)?.f_flatten(1, 2)?.f_to_kind(Kind::Float)?; // [C, P]
        let dims: &[i64] = &[1];
        let least = channels.f_amin(dims, true)?;
        let range = channels.f_amax(dims, true)?.f_sub(&least)?;
        let is_zero = channels.f_ne(0.0)?.f_any_dim(1, true)?.f_logical_not()?;
        let scaled = channels.f_sub(&least)?.f_div(&range)?.f_masked_fill(&is_zero, 0.0)?;
        let comparable = range.f_ge(LEAST_RANGE)?.f_logical_or(&is_zero)?.f_to_kind(Kind::Float)?;
        let (_, num_places) = channels.size2()?;
        let values: Vec<f32> = to_host(&Tensor::f_cat(&[&comparable, &scaled], 1)?)?;
        let mut known = HashMap::new();
        let mut distinct = Distinct { channels: Vec::new(), mask_of: Vec::new() };
        for (channel, values) in values.chunks_exact(num_places as usize + 1).enumerate() {
            let next = distinct.channels.len() as i64;
            let mask = match values[0] == 0.0 {
                true => next,
                false => *known.entry(values.iter().map(|value| value.to_bits()).collect::<Vec<_>>()).or_insert(next),
            };
            if mask == next {
                distinct.channels.push(channel as i64);
            }
            distinct.mask_of.push(mask);
        }
        Ok(distinct)
    }
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

    #[test]
    fn channels_of_one_mask_share_it() {
        let nan = f32::NAN;
        let channels = tensor(
            &[
                [0.0, 0.0, 0.0], // nothing
                [0.0, 2.0, 0.0],
                [1.0, 2.0, 3.0],
                [0.0, 0.3, 0.0], // the second, weaker
                [-0.0, 0.0, 0.0],
                [5.0, 5.0, 5.0], // by rounding alone it would not be zero
                [5.0, 5.0, 5.0],
                [0.0, 1e-3, 0.0], // the epsilon counts
                [2.0, 4.0, 6.0],  // the third, twice
                [nan, 1.0, 0.0],
                [0.0, 0.0, 0.7],
            ]
            .concat(),
            [1, 11, 1, 3],
        );
        let Distinct { channels, mask_of } = Distinct::of(&channels).expect("compared");
        assert_eq!(channels, [0, 1, 2, 5, 6, 7, 9, 10]);
        assert_eq!(mask_of, [0, 1, 2, 1, 0, 3, 4, 5, 2, 6, 7]);
    }
}
