//! CAM: *Learning Deep Features for Discriminative Localization*, Zhou et al., CVPR 2016, <https://arxiv.org/abs/1512.04150>.
//!
//! Where nothing but global pooling and one linear layer stands behind a layer, the score is a sum over its places, and the map shows
//! that sum. With activation `A` (`[C, H', W']`), the linear layer's weights `w_c` for the class and its bias `b`:
//!
//! ```text
//! y      = b + sum_c w_c * 1/(H' W') * sum_{i,j} A[c,i,j]
//! w_c    = sum_{i,j} dy/dA[c,i,j]                      the gradient is w_c / (H' W') at every place, whatever the image
//! L[i,j] = sum_c w_c * A[c,i,j]
//! ```
//!
//! The weights are taken from the gradient, so that it does not matter how a network writes its pooling and its last layer, or whether a
//! batch norm stands between them. That they are weights and no gradient of something else, two pictures of noise tell before a run
//! (`explain/trial/head.rs`): layers whose gradient is another at another place, or for another image, are refused. There `gradcam` gives
//! what CAM would be; here the two maps are the same up to the factor `H' W'`. The same as torch-cam's `CAM`.

use tch::{Kind, Tensor};

use super::{CamMethod, Gradients, Reduction};
use crate::explain::ExplainError;

/// CAM.
pub(super) struct OriginalCam;

impl CamMethod for OriginalCam {
    type Evidence<'a> = Gradients;

    fn saliency(&self, evidence: &Gradients, reduction: Reduction) -> Result<Tensor, ExplainError> {
        let weights = evidence.gradient.f_sum_dim_intlist([2i64, 3].as_slice(), false, None::<Kind>)?;
        Ok(reduction.of_weighted(&evidence.activation, &weights)?)
    }

    fn for_classifiers(&self) -> Option<&'static str> {
        Some("takes the weights of a classifier's last layer")
    }

    fn needs_linear_head(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn weights_are_those_of_the_layer_behind_the_mean() {
        // Behind a mean over four places the weights 3 and -1 give gradients of 0.75 and -0.25 everywhere.
        let activation = tensor(&[1.0, 2.0, 3.0, 4.0, 2.0, 0.0, 4.0, 8.0], [1, 2, 2, 2]);
        let gradient = tensor(&[0.75, 0.75, 0.75, 0.75, -0.25, -0.25, -0.25, -0.25], [1, 2, 2, 2]);
        let map = OriginalCam.saliency(&Gradients::new(activation, gradient), Reduction::Sum).expect("saliency");
        assert_near(&values(&map), &[1.0, 6.0, 5.0, 4.0]);
    }
}
