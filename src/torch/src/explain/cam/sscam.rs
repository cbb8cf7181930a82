//! SS-CAM: *Smoothed Score-CAM for Sharper Visual Feature Localization*, Wang et al., 2020, <https://arxiv.org/abs/2006.14255>.
//!
//! Score-CAM whose scores are means over masks with noise. With activation `A` (`[C, H', W']`), image `x` (`[3, H, W]`), score `y` and
//! normal noise `e_n` of deviation `sigma`, another for each channel, pixel and `n`:
//!
//! ```text
//! M_c    = upsample(A_c scaled to [0, 1] by its own minimum and maximum) to [H, W]
//! w      = softmax over c of 1/N * sum_n y(x * (M_c + e_n))
//! L[i,j] = sum_c w_c * A[c,i,j]
//! ```
//!
//! This is the paper's first variant, noise in the masks. Numbers are those of torch-cam's `SSCAM` with the same noise: 35 times noise of
//! deviation 2, bilinear upsampling without aligned corners, an epsilon of 1e-8 in the scaling. What both subtract, the score of the
//! image, is nothing in a softmax. The noise follows from sample, layer and channel (`explain/noise.rs`), so that a second run gives the
//! same map. No gradient; 35 forward passes a channel, as many at a time as `--cam-batch-size` says, shared by all classes of a sample.

use tch::{TchError, Tensor};

use super::{CamMethod, Reduction, evidence::ImageVariants, iscam};
use crate::explain::{ExplainError, noise};

const VARIANTS: i64 = 35;

const DEVIATION: f64 = 2.0;

/// SS-CAM.
pub(super) struct SsCam;

impl CamMethod for SsCam {
    type Evidence<'a> = ImageVariants<'a>;

    fn saliency(&self, evidence: &ImageVariants<'_>, reduction: Reduction) -> Result<Tensor, ExplainError> {
        let weights = evidence.weights::<Self>(|probe, activation, scores| {
            let key = evidence.key(probe.sample);
            iscam::weights(probe, activation, scores, VARIANTS, |masks, variant, first| noisy(masks, &key, variant, first))
        })?;
        Ok(reduction.of_weighted(&evidence.activation, &weights)?)
    }
}

/// Masks `[B, 1, H, W]` of the channels from a number on, with the noise of a variant.
fn noisy(masks: &Tensor, key: &str, variant: i64, first: i64) -> Result<Tensor, TchError> {
    let (count, _, height, width) = masks.size4()?;
    let names: Vec<String> = (first..first + count).map(|channel| format!("{key}\0{channel}\0{variant}")).collect();
    let noise = noise::normal(&names, height * width, masks.device())?.f_mul_scalar(DEVIATION)?;
    masks.f_add(&noise.f_view([count, 1, height, width])?.f_to_kind(masks.kind())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_same_in_any_batch_and_another_for_each_channel_and_variant() {
        let masks = Tensor::zeros([3, 1, 60, 50], tch::kind::FLOAT_CPU);
        let all = noisy(&masks, "sample", 4, 0).expect("noise");
        let last = noisy(&masks.narrow(0, 0, 1), "sample", 4, 2).expect("noise");
        assert_eq!(all.get(2), last.get(0));
        for other in
            [all.get(0), noisy(&masks, "sample", 5, 0).expect("noise").get(2), noisy(&masks, "b", 4, 0).expect("noise").get(2)]
        {
            let alike = (other * all.get(2)).mean(None).double_value(&[]);
            assert!(alike.abs() < 0.3, "{alike}");
        }
        assert!((all.std(true).double_value(&[]) - DEVIATION).abs() < 0.05);
    }
}
