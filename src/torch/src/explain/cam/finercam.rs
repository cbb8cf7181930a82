//! Finer-CAM: *Spotting the Difference Reveals Finer Details for Visual Explanation*, Zhang et al., CVPR 2025,
//! <https://arxiv.org/abs/2501.11309>.
//!
//! Grad-CAM of what sets a class apart from the classes most like it, instead of the class's own logit. With logits `l` (`[K]`),
//! class `k` and the three classes `j` whose logits are nearest to `l_k`:
//!
//! ```text
//! y = sum_j p_j * (l_k - l_j) / (sum_j p_j + 1e-9),    p = softmax(l)
//! ```
//!
//! and then Grad-CAM with `dy/dA`. Three comparisons and no scaling of `l_j` are the defaults of pytorch_grad_cam's `FinerCAM`.
//! For classifiers only: a segmentation has no single list of logits.

use tch::{Kind, TchError, Tensor};

use super::{CamMethod, Gradients, Reduction, gradcam};
use crate::explain::{
    ExplainError,
    grid::SampleIndex,
    pass::Objective,
    target::{Score, index_tensor},
};

/// With how many classes a class is compared, where there are that many.
const COMPARISONS: i64 = 3;

const EPSILON: f64 = 1e-9;

/// Finer-CAM.
pub(super) struct FinerCam;

impl CamMethod for FinerCam {
    type Evidence<'a> = Gradients<Comparison>;

    fn saliency(&self, evidence: &Gradients<Comparison>, reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(reduction.of_weighted(&evidence.activation, &gradcam::weights(&evidence.gradient)?)?)
    }

    fn of_classes(&self, activation: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>, TchError> {
        gradcam::GradCam.of_classes(activation, gradient)
    }

    fn for_classifiers(&self) -> Option<&'static str> {
        Some("compares the scores of a classifier's classes")
    }

    fn check_output(&self, logits: &Tensor) -> Result<(), ExplainError> {
        if logits.dim() != 2 {
            return Err(ExplainError::Unsuitable(
                "finercam compares the logits of a classifier [N, K]; this model gives a map of them, use another method".into(),
            ));
        }
        if logits.size()[1] == 1 {
            return Err(ExplainError::Unsuitable(
                "finercam compares a class with others; this model's output has one channel, use another method".into(),
            ));
        }
        Ok(())
    }
}

/// The score `y`.
pub(super) struct Comparison;

impl Objective for Comparison {
    fn values(output: &Tensor, scores: &[(SampleIndex, &Score)]) -> Result<Tensor, TchError> {
        let rows: Vec<i64> = scores.iter().map(|(sample, _)| sample.row()).collect();
        let classes: Vec<i64> = scores.iter().map(|(_, score)| score.class).collect();
        let logits = output.f_index_select(0, &index_tensor(&rows, output)?)?;
        compared(&logits, &index_tensor(&classes, output)?.f_unsqueeze(1)?)
    }
}

/// The score `[n]` of each class (`[n, 1]`) in logits `[n, K]`.
fn compared(logits: &Tensor, classes: &Tensor) -> Result<Tensor, TchError> {
    let own = logits.f_gather(1, classes, false)?;
    let distance = logits.f_detach()?.f_sub(&own.f_detach()?)?.f_abs()?;
    // The class itself is nearest; one with the same logit must not take its place.
    let distance = distance.f_scatter_value(1, classes, -1.0)?;
    let nearest = distance.f_argsort_stable(true, 1, false)?;
    let count = COMPARISONS.min(logits.size()[1] - 1);
    let others = nearest.f_narrow(1, 1, count)?;
    let weights = logits.f_softmax(1, None::<Kind>)?.f_gather(1, &others, false)?;
    let differences = own.f_sub(&logits.f_gather(1, &others, false)?)?;
    let total = weights.f_sum_dim_intlist(1i64, false, None::<Kind>)?.f_add_scalar(EPSILON)?;
    weights.f_mul(&differences)?.f_sum_dim_intlist(1i64, false, None::<Kind>)?.f_div(&total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(logits: &[f64], class: i64) -> f64 {
        let logits = Tensor::from_slice(logits).unsqueeze(0);
        compared(&logits, &Tensor::from_slice(&[class]).unsqueeze(1)).expect("score").double_value(&[0])
    }

    #[test]
    fn the_nearest_classes_are_compared_by_their_probability() {
        // Of class 0 (logit 2) the nearest are 1.5, 1 and 3; 9 is left out.
        let weights = [1f64, 1.5, 3.0].map(f64::exp);
        let wanted = (weights[0] * 1.0 + weights[1] * 0.5 - weights[2] * 1.0) / weights.iter().sum::<f64>();
        let found = score(&[2.0, 1.0, 9.0, 1.5, 3.0], 0);
        assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
    }

    #[test]
    fn two_classes_have_one_comparison() {
        assert!((score(&[2.0, 1.0], 0) - 1.0).abs() < 1e-6);
    }
}
