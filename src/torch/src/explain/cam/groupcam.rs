//! Group-CAM: *Group Score-Weighted Visual Explanations for Deep Convolutional Networks*, Zhang et al., 2021,
//! <https://arxiv.org/abs/2103.13859>.
//!
//! Score-CAM of groups of channels, which Grad-CAM's weights make one mask of. With activation `A` (`[C, H', W']`), score `y`, the class's
//! probability `p`, image `x` (`[3, H, W]`), the same blurred `x'`, and `G` groups of channels that follow each other:
//!
//! ```text
//! w_c    = 1/(H' W') * sum_{i,j} dy/dA[c,i,j]
//! M_l    = relu(sum_{c in group l} w_c * A_c)
//! M_l    = M_l where it is above its 70th percentile, else 0
//! M_l    = upsample(M_l) to [H, W], scaled to [0, 1] by its own minimum and maximum
//! a_l    = p(x * M_l + x' * (1 - M_l)) - p(x')
//! L[i,j] = sum_l a_l * M_l[i,j]                          at the size of the image
//! ```
//!
//! As in the published code (its fourth version): 32 groups, of `ceil(C / 32)` channels each, the probability behind the softmax, bilinear
//! upsampling without aligned corners, and a Gaussian of deviation 50 that is cut off at 25 pixels to each side, with the image mirrored
//! at its border. Of a difference of two classes' scores `p` is the difference of their probabilities. Of images that are no larger than that the Gaussian is cut off one pixel before their side. 33 forward passes for each
//! class, whose groups are its own, as many at a time as `--cam-batch-size` says.

use tch::{Kind, TchError, Tensor};

use super::{CamMethod, Reduction, evidence::GradientsAndProbes, gradcam};
use crate::{
    explain::{ExplainError, probe::Probe, target::Score},
    program::{ExecError, send},
};

const GROUPS: i64 = 32;

/// The share of places that a group leaves out at least.
const PERCENTILE: f64 = 0.7;

/// Deviation and width to each side of the blur, in pixels.
const BLUR: f64 = 50.0;
const BLUR_RADIUS: i64 = 25;

/// Group-CAM.
pub(super) struct GroupCam;

impl CamMethod for GroupCam {
    type Evidence<'a> = GradientsAndProbes<'a>;

    fn saliency(&self, evidence: &GradientsAndProbes<'_>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        let weights = gradcam::weights(&evidence.gradients.gradient)?;
        let weighted = evidence.gradients.activation.f_mul(&weights.f_unsqueeze(2)?.f_unsqueeze(3)?)?;
        evidence.of_samples(|probe, score| {
            let own = weighted.f_narrow(0, probe.sample.row(), 1)?.f_to_kind(probe.image().kind())?;
            let (height, width) = (probe.image().size()[2], probe.image().size()[3]);
            let masks = masks(&own, [height, width])?;
            let gains = gains(probe, &masks, score)?;
            Ok(masks.f_mul(&gains.f_view([-1, 1, 1, 1])?)?.f_sum_dim_intlist([0i64, 1].as_slice(), false, None::<Kind>)?)
        })
    }
}

/// The masks `[G, 1, H, W]` of weighted channels `[1, C, H', W']`.
fn masks(weighted: &Tensor, size: [i64; 2]) -> Result<Tensor, TchError> {
    let sums = weighted.f_chunk(GROUPS, 1)?.into_iter().map(|group| group.f_sum_dim_intlist(1i64, true, None::<Kind>));
    let groups = Tensor::f_cat(&sums.collect::<Result<Vec<_>, _>>()?, 0)?.f_relu()?;
    let kept = groups.f_mul(&groups.f_gt_tensor(&percentile(&groups)?)?.f_to_kind(groups.kind())?)?;
    let large = kept.f_upsample_bilinear2d(size, false, None::<f64>, None::<f64>)?;
    let dims: &[i64] = &[2, 3];
    let shifted = large.f_sub(&large.f_amin(dims, true)?)?;
    let largest = shifted.f_amax(dims, true)?;
    // What is even is a mask of zeros.
    shifted.f_div(&largest.f_masked_fill(&largest.f_eq(0.0)?, 1.0)?)
}

/// What that share of the places of each map `[G, 1, H', W']` is below, `[G, 1, 1, 1]`: between two places as far as it is.
fn percentile(maps: &Tensor) -> Result<Tensor, TchError> {
    let (sorted, _) = maps.f_flatten(1, 3)?.f_sort(1, false)?;
    let place = PERCENTILE * (sorted.size()[1] - 1) as f64;
    let (below, above) = (sorted.f_select(1, place.floor() as i64)?, sorted.f_select(1, place.ceil() as i64)?);
    let between = below.f_add(&above.f_sub(&below)?.f_mul_scalar(place - place.floor())?)?;
    between.f_view([-1, 1, 1, 1])
}

/// How much more probable `[G]` the class is where each mask shows the image than where nothing does.
fn gains(probe: &Probe<'_>, masks: &Tensor, score: &Score) -> Result<Tensor, ExecError> {
    let torch = |error: TchError| probe.failed("mask", &error);
    let blurred = blurred(probe.image()).map_err(torch)?;
    let nothing = score.confidence_less_other(&probe.plan.forward(&blurred)?).map_err(torch)?;
    let difference = probe.image().f_sub(&blurred).map_err(torch)?;
    let mut found = Vec::new();
    for (first, count) in probe.options.batches(masks.size()[0]) {
        let shown = masks.f_narrow(0, first, count).and_then(|masks| difference.f_mul(&masks)?.f_add(&blurred)).map_err(torch)?;
        found.push(score.confidence_less_other(&probe.plan.forward(&shown)?).map_err(torch)?);
    }
    let gains = Tensor::f_cat(&found, 0).and_then(|found| found.f_sub(&nothing)?.f_to_kind(masks.kind()));
    gains.map_err(torch)
}

/// The image `[1, C, H, W]` without details.
fn blurred(image: &Tensor) -> Result<Tensor, TchError> {
    let (_, channels, height, width) = image.size4()?;
    let radius = BLUR_RADIUS.min(height - 1).min(width - 1);
    let weights: Vec<f64> = (-radius..=radius).map(|offset| (-(offset * offset) as f64 / (2.0 * BLUR * BLUR)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let weights: Vec<f32> = weights.iter().map(|weight| (weight / total) as f32).collect();
    let length = weights.len() as i64;
    let weights = send(&weights, &[length], image.device())?.f_to_kind(image.kind())?;
    let along = |image: &Tensor, size: [i64; 2], pad: [i64; 4]| {
        let weights = weights.f_expand([channels, length], false)?.f_reshape([channels, 1, size[0], size[1]])?;
        image.f_reflection_pad2d(pad)?.f_conv2d(&weights, None::<Tensor>, 1, 0, 1, channels)
    };
    along(&along(image, [length, 1], [0, 0, radius, radius])?, [1, length], [radius, radius, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn of_eleven_places_the_three_highest_are_above_the_percentile() {
        // The 70th percentile of 0, ..., 10 is 7.
        let places: Vec<f32> = (0..11).map(|place| place as f32).collect();
        let found = masks(&tensor(&places, [1, 1, 1, 11]), [1, 11]).expect("masks");
        let mut wanted = [0.0; 11];
        wanted[8..].copy_from_slice(&[0.8, 0.9, 1.0]);
        assert_near(&values(&found), &wanted);
        // Between places: of 0, 2, 4 the 70th percentile is 2.8.
        assert_near(&values(&percentile(&tensor(&[4.0, 0.0, 2.0], [1, 1, 1, 3])).expect("percentile")), &[2.8]);
    }

    #[test]
    fn groups_are_of_channels_that_follow_each_other() {
        // 33 channels are groups of two, the last one of one; what is negative in sum is nothing.
        let mut channels = Tensor::zeros([1, 33, 1, 4], tch::kind::FLOAT_CPU);
        let _ = channels.narrow(1, 2, 2).narrow(3, 1, 1).fill_(1.0);
        let _ = channels.narrow(1, 32, 1).narrow(3, 3, 1).fill_(-1.0);
        channels = channels.contiguous();
        let found = masks(&channels, [1, 4]).expect("masks");
        assert_eq!(found.size(), [17, 1, 1, 4]);
        assert_eq!(values(&found.get(1)), [0.0, 1.0, 0.0, 0.0]);
        assert!(found.get(16).abs().max().double_value(&[]) == 0.0 && found.sum(Kind::Float).double_value(&[]) == 1.0);
    }

    #[test]
    fn blurring_keeps_what_is_even_and_takes_small_images() {
        for size in [[1, 3, 60, 70], [1, 3, 8, 5]] {
            let even = Tensor::full(size, 2.0, tch::kind::FLOAT_CPU);
            assert!(blurred(&even).expect("blurred").allclose(&even, 1e-5, 0.0, false));
        }
        let point = Tensor::zeros([1, 1, 101, 101], tch::kind::FLOAT_CPU);
        let _ = point.get(0).get(0).get(50).get(50).fill_(1.0);
        let spread = blurred(&point).expect("blurred");
        assert_eq!(spread.count_nonzero(None).int64_value(&[]), 51 * 51);
        assert!((spread.sum(None::<Kind>).double_value(&[]) - 1.0).abs() < 1e-5);
    }
}
