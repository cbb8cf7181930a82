//! Guided backpropagation: *Striving for Simplicity: The All Convolutional Net*, Springenberg et al., ICLR 2015 workshop,
//! <https://arxiv.org/abs/1412.6806>.
//!
//! The gradient in the image, where each ReLU also lets no negative gradient back. With `R` a ReLU's output and `g` the gradient that
//! comes to it:
//!
//! ```text
//! backward of ReLU: (R > 0) * (g > 0) * g
//! L[i,j] = max_c |dy/dx[c,i,j]|
//! ```
//!
//! The gradient is that of pytorch_grad_cam's `GuidedBackpropReLUModel`, which knows ReLUs that are modules; here the graph's operators
//! `relu` count, however they are written. Others (ReLU6, SiLU, GELU) keep their gradient, as there, and a network without any ReLU is
//! refused. Over channels the largest magnitude counts, as for the plain gradient (`saliency`). It has no target layer, and
//! `--eigen-smooth` does not apply.

use tch::Tensor;

use super::{
    CamMethod, Reduction, Whole,
    inputs::{GuidedGradient, largest_magnitude},
};
use crate::explain::{ExplainError, sampling::Sampling};

/// Guided backpropagation.
pub(super) struct GuidedBackprop;

impl CamMethod for GuidedBackprop {
    type Evidence<'a> = GuidedGradient;

    fn saliency(&self, evidence: &GuidedGradient, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(largest_magnitude(&evidence.0)?)
    }

    fn whole(&self, _sampling: Sampling) -> Whole {
        Whole::image("the image")
    }
}
