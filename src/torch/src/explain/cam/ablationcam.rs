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
//! No gradient. The graph is run on from the layer instead of being run again ([`crate::program::Plan::resume`]), many channels
//! at a time, for all classes of a sample at once.

use tch::{TchError, Tensor};

use super::{
    CamMethod, Reduction,
    evidence::{ActivationVariants, Original},
};
use crate::{
    explain::{
        ExplainError,
        layout::{of_image, repeated},
        probe::{Probe, score_all},
        target::Score,
    },
    program::ExecError,
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
    let mut columns = Vec::new();
    for (first, count) in probe.options.batches(num_channels) {
        let ablated = repeated(activation, layer, count).map_err(torch)?;
        for row in 0..count {
            let channel = first + row;
            let place =
                of_image(&ablated, layer, row).and_then(|one| one.f_select(channel_dim as i64, channel)).map_err(torch)?;
            let _ = { place }.f_fill_(f64::from(values[(channel % REFERENCE_BATCH) as usize])).map_err(torch)?;
        }
        let logits = probe.resume(tap, &ablated, count)?;
        columns.push(score_all(&logits, scores).map_err(torch)?);
    }
    let whole = score_all(&probe.logits().map_err(torch)?, scores).map_err(torch)?; // [T, 1]
    let without = Tensor::f_cat(&columns, 1).map_err(torch)?; // [T, C]
    whole.f_sub(&without).and_then(|lost| lost.f_div(&whole)).map_err(torch)
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
    fn zero_behind_a_relu_and_very_low_elsewhere() {
        assert!(ablation_values(0.0).iter().all(|value| *value == 0.0));
        let low = ablation_values(-1.5);
        assert_eq!((low[0], low[1]), (-1.5 - 1e7, -2e7 - 2.0));
        assert_eq!(low.len(), 32);
    }
}
