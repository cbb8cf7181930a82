//! Ablation-CAM: *Visual Explanations for Deep Convolutional Network via Gradient-free Localization*, Desai and Ramaswamy,
//! WACV 2020, <https://openaccess.thecvf.com/content_WACV_2020/papers/Desai_Ablation-CAM_Visual_Explanations_for_Deep_Convolutional_Network_via_Gradient-free_Localization_WACV_2020_paper.pdf>.
//!
//! A channel weighs as much of the score as is lost without it. With activation `A` (`[C, H', W']`), score `y` and the score
//! `y_c` when channel `c` is ablated:
//!
//! ```text
//! w_c    = (y - y_c) / y
//! L[i,j] = sum_c w_c * A[c,i,j]
//! ```
//!
//! An ablated channel is 0 where the activation's minimum is 0 (behind a ReLU), as in the paper. Elsewhere 0 would be a value
//! like any other, and pytorch_grad_cam's `AblationCAM` puts a very low one: the minimum less 1e7, and less another 1e7 with each
//! further channel of its batch of 32. We do the same, whatever our own batch is, so that numbers agree.
//!
//! Where an ablated channel is 0, one that is 0 everywhere loses nothing, and is not asked for.
//!
//! No gradient. The graph is run on from the layer instead of being run again ([`crate::program::Plan::resume`]), many channels
//! at a time, for all classes of a sample at once.

use tch::{Kind, TchError, Tensor};

use super::{
    CamMethod, Reduction,
    evidence::{ActivationVariants, Original},
};
use crate::{
    explain::{
        ExplainError,
        layout::{of_image, repeated},
        probe::{Probe, score_all},
        target::{Score, index_tensor},
    },
    program::{ExecError, to_host},
};

/// How far below the minimum an ablated channel is put.
const ABLATION: f32 = 1e7;

/// pytorch_grad_cam's default batch, after which its values start again.
const REFERENCE_BATCH: i64 = 32;

/// Ablation-CAM.
pub(super) struct AblationCam;

impl CamMethod for AblationCam {
    type Evidence<'a> = ActivationVariants<'a>;

    fn saliency(&self, evidence: &ActivationVariants<'_>, reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(reduction.of_weighted(&evidence.activation, &evidence.of_samples::<Self>(weights)?)?)
    }
}

/// Channel weights `[T, C]` of one sample, for each of its `T` scores.
///
/// # Errors
/// A node of the graph fails, for want of memory say; or the graph cannot be run on from this layer for another batch size.
fn weights(probe: &Probe<'_>, original: &Original<'_>, scores: &[&Score]) -> Result<Tensor, ExecError> {
    let Original { tap, activation, layer, .. } = *original;
    let channel_dim = layer.layout.channel_dim(activation.dim());
    let torch = |error: TchError| probe.failed("ablate", &error);
    original.check_resume(probe)?;
    let num_channels = activation.size()[channel_dim];
    let minimum = activation.f_min().and_then(|minimum| minimum.f_double_value(&[])).map_err(torch)?;
    let values = ablation_values(minimum as f32);
    let whole = score_all(&probe.logits().map_err(torch)?, scores).map_err(torch)?; // [T, 1]
    // Without a channel that is 0 everywhere nothing is lost.
    let channels: Vec<i64> = match minimum == 0.0 {
        true => active(activation, channel_dim).map_err(torch)?,
        false => (0..num_channels).collect(),
    };
    if channels.is_empty() {
        return whole.f_sub(&whole).and_then(|lost| lost.f_div(&whole)?.f_repeat([1, num_channels])).map_err(torch);
    }
    let mut columns = Vec::new();
    for (first, count) in probe.options.batches(channels.len() as i64) {
        let ablated = repeated(activation, layer, count).map_err(torch)?;
        for row in 0..count {
            let channel = channels[(first + row) as usize];
            let place =
                of_image(&ablated, layer, row).and_then(|one| one.f_select(channel_dim as i64, channel)).map_err(torch)?;
            let _ = { place }.f_fill_(f64::from(values[(channel % REFERENCE_BATCH) as usize])).map_err(torch)?;
        }
        let logits = probe.resume(tap, &ablated, count)?;
        columns.push(score_all(&logits, scores).map_err(torch)?);
    }
    let without = Tensor::f_cat(&columns, 1).and_then(|without| {
        let all = whole.f_repeat([1, num_channels])?;
        all.f_index_copy(1, &index_tensor(&channels, &without)?, &without)
    });
    let without = without.map_err(torch)?; // [T, C]
    whole.f_sub(&without).and_then(|lost| lost.f_div(&whole)).map_err(torch)
}

/// The channels of an activation that are not 0 everywhere.
fn active(activation: &Tensor, channel_dim: usize) -> Result<Vec<i64>, TchError> {
    let of_channels = activation.f_transpose(0, channel_dim as i64)?.f_flatten(1, -1)?.f_ne(0.0)?;
    let is_active: Vec<u8> = to_host(&of_channels.f_any_dim(1, false)?.f_to_kind(Kind::Uint8)?)?;
    Ok((0..).zip(is_active).filter(|(_, is_active)| *is_active != 0).map(|(channel, _)| channel).collect())
}

/// What the channels of one reference batch are set to, one after another.
fn ablation_values(minimum: f32) -> Vec<f32> {
    let mut values = Vec::with_capacity(REFERENCE_BATCH as usize);
    let mut lowest = minimum;
    for _ in 0..REFERENCE_BATCH {
        if lowest != 0.0 {
            lowest -= ABLATION;
        }
        values.push(lowest);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_of_zeros_are_told_from_others() {
        let activation = Tensor::from_slice(&[0f32, 0.0, 0.0, 2.0, f32::NAN, 0.0, -0.0, 0.0]).view([1, 4, 1, 2]);
        assert_eq!(active(&activation, 1).expect("told"), [1, 2]);
        assert_eq!(active(&activation.permute([0, 2, 3, 1]), 3).expect("told"), [1, 2]);
    }

    #[test]
    fn zero_behind_a_relu_and_very_low_elsewhere() {
        assert!(ablation_values(0.0).iter().all(|value| *value == 0.0));
        let low = ablation_values(-1.5);
        assert_eq!((low[0], low[1]), (-1.5 - 1e7, -2e7 - 2.0));
        assert_eq!(low.len(), 32);
    }
}
