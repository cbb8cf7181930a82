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

/// With how many classes a class is compared, where there are that many.
const COMPARISONS: i64 = 3;

const EPSILON: f64 = 1e-9;

/// The score (0-dimensional) of a class, from a sample's logits `[K]`.
pub fn score(logits: &Tensor, class: i64) -> Result<Tensor, TchError> {
    let own = logits.f_select(0, class)?;
    let distance = logits.f_detach()?.f_sub(&own.f_detach()?)?.f_abs()?;
    // The class itself is nearest; one with the same logit must not take its place.
    let _ = distance.f_select(0, class)?.f_fill_(-1.0)?;
    let nearest = distance.f_argsort_stable(true, 0, false)?;
    let count = COMPARISONS.min(logits.size()[0] - 1);
    let others = nearest.f_narrow(0, 1, count)?;
    let weights = logits.f_softmax(0, None::<Kind>)?.f_index_select(0, &others)?;
    let differences = own.f_sub(&logits.f_index_select(0, &others)?)?;
    let total = weights.f_sum(None::<Kind>)?.f_add_scalar(EPSILON)?;
    weights.f_mul(&differences)?.f_sum(None::<Kind>)?.f_div(&total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_classes_are_compared_by_their_probability() {
        // Of class 0 (logit 2) the nearest are 1.5, 1 and 3; 9 is left out.
        let logits = Tensor::from_slice(&[2f64, 1.0, 9.0, 1.5, 3.0]);
        let weights = [1f64, 1.5, 3.0].map(f64::exp);
        let wanted = (weights[0] * 1.0 + weights[1] * 0.5 - weights[2] * 1.0) / weights.iter().sum::<f64>();
        let found = score(&logits, 0).expect("score").double_value(&[]);
        assert!((found - wanted).abs() < 1e-5, "{found} {wanted}");
    }

    #[test]
    fn two_classes_have_one_comparison() {
        let logits = Tensor::from_slice(&[2f64, 1.0]);
        assert!((score(&logits, 0).expect("score").double_value(&[]) - 1.0).abs() < 1e-6);
    }
}
