//! Seg-Eigen-CAM: *Eigen-Value-Based Visual Explanations for Semantic Segmentation Models*, Chung and Ying, Applied Sciences 15(13),
//! 2025, <https://doi.org/10.3390/app15137562>.
//!
//! Eigen-CAM made for one class of a segmentation: the projection of `|g| * A` (gradient and activation, both `[C, H', W']`) onto its
//! first principal component over pixels (eq. 10 to 13). Where Eigen-Grad-CAM has `g`, its magnitude counts: what speaks against the
//! class matters to it, too. The sign, which a component lacks, is that of the largest magnitude (eq. 13), as for all of this kind
//! here; see `projection.rs`. The same as pytorch_grad_cam's `SegEigenCAM`.

use tch::Tensor;

use super::{CamMethod, Gradients, Reduction, projection};
use crate::explain::ExplainError;

/// Seg-Eigen-CAM.
pub(super) struct SegEigenCam;

impl CamMethod for SegEigenCam {
    type Evidence<'a> = Gradients;

    fn saliency(&self, evidence: &Gradients, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(projection::first_component(&evidence.gradient.f_abs()?.f_mul(&evidence.activation)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn a_gradient_counts_by_its_magnitude() {
        // Only the first channel has a gradient: |-1| * (0, 0, 3) centred is (-1, -1, 2).
        let activation = tensor(&[0.0, 0.0, 3.0, 90.0, 0.0, 6.0], [1, 2, 1, 3]);
        let gradient = tensor(&[1.0, 1.0, -1.0, 0.0, 0.0, 0.0], [1, 2, 1, 3]);
        let map = SegEigenCam.saliency(&Gradients::new(activation, gradient), Reduction::Sum).expect("projection");
        assert_near(&values(&map), &[-1.0, -1.0, 2.0]);
    }
}
