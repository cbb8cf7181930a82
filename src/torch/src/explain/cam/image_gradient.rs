//! The gradient in the image: *Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps*, Simonyan,
//! Vedaldi and Zisserman, ICLR 2014 workshop, <https://arxiv.org/abs/1312.6034>.
//!
//! A pixel matters as much as the score changes with it. With image `x` (`[C, H, W]`) and score `y`:
//!
//! ```text
//! L[i,j] = max_c |dy/dx[c,i,j]|
//! ```
//!
//! The magnitudes of the gradient are those of Captum's `Saliency`; over channels the largest counts, as in the paper. It has no target
//! layer, and `--eigen-smooth` does not apply.

use tch::Tensor;

use super::{
    CamMethod, Reduction, Whole,
    inputs::{ImageGradient, largest_magnitude},
};
use crate::explain::{ExplainError, sampling::Sampling};

/// The plain gradient.
pub(super) struct Saliency;

impl CamMethod for Saliency {
    type Evidence<'a> = ImageGradient;

    fn saliency(&self, evidence: &ImageGradient, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(largest_magnitude(&evidence.0)?)
    }

    fn whole(&self, _sampling: Sampling) -> Whole {
        Whole::image("the image")
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn the_largest_magnitude_over_channels() {
        let evidence = ImageGradient(tensor(&[1.0, -2.0, 0.5, -3.0, 1.0, 0.25], [1, 2, 1, 3]));
        let map = Saliency.saliency(&evidence, Reduction::Sum).expect("saliency");
        assert_near(&values(&map), &[3.0, 2.0, 0.5]);
    }
}
