//! Eigen-CAM: *Class Activation Map using Principal Components*, Muhammad and Yeasin, IJCNN 2020,
//! <https://arxiv.org/abs/2008.00299>.
//!
//! The projection of the activation `A` (`[C, H', W']`) onto its first principal component over pixels. No class, no gradient:
//! what stands out to the layer. How it is computed, and its sign, are in `projection.rs`. The same as pytorch_grad_cam's
//! `EigenCAM`, whose sign is arbitrary.

use tch::Tensor;

use super::{CamMethod, Reduction, evidence::Activation, projection};
use crate::explain::ExplainError;

/// Eigen-CAM.
pub(super) struct EigenCam;

impl CamMethod for EigenCam {
    type Evidence<'a> = Activation<'a>;

    fn saliency(&self, evidence: &Activation<'_>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(projection::first_component(&evidence.activation)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn a_rank_one_activation_is_its_own_projection() {
        // A = (1, 2) x (0, 0, 3): centred pixels are multiples of (1, 2) / sqrt(5) by -1, -1 and 2 times sqrt(5).
        let activation = tensor(&[0.0, 0.0, 3.0, 0.0, 0.0, 6.0], [1, 2, 1, 3]);
        let map = projection::first_component(&activation).expect("projection");
        let root = 5f32.sqrt();
        assert_near(&values(&map), &[-root, -root, 2.0 * root]);
    }
}
