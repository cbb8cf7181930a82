//! Guided Grad-CAM: the product of guided backpropagation and Grad-CAM, *Grad-CAM: Visual Explanations from Deep Networks via
//! Gradient-based Localization*, Selvaraju et al., ICCV 2017, <https://arxiv.org/abs/1610.02391>.
//!
//! Where Grad-CAM says the class is, with the detail of guided backpropagation. With the guided gradient `g` (`[C, H, W]`) and
//! Grad-CAM's heatmap `M` of a layer, upsampled to `[H, W]` and scaled to `[0, 1]`:
//!
//! ```text
//! L[i,j] = M[i,j] * max_c |g[c,i,j]|
//! ```
//!
//! As the product that pytorch_grad_cam's documentation makes of its `GradCAM` and `GuidedBackpropReLUModel`. With `--eigen-smooth`
//! Grad-CAM is smoothed.

use tch::Tensor;

use super::{
    CamMethod, GradCam, Reduction,
    inputs::{GuidedAtLayer, largest_magnitude},
};
use crate::explain::{ExplainError, heatmap::heatmaps};

/// Guided Grad-CAM.
pub(super) struct GuidedGradCam;

impl CamMethod for GuidedGradCam {
    type Evidence<'a> = GuidedAtLayer;

    fn saliency(&self, evidence: &GuidedAtLayer, reduction: Reduction) -> Result<Tensor, ExplainError> {
        let guided = largest_magnitude(&evidence.guided)?;
        let (_, height, width) = guided.size3()?;
        let coarse = GradCam.saliency(&evidence.layer, reduction)?;
        Ok(heatmaps(&[coarse], Some((height as usize, width as usize)))?.f_mul(&guided)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Gradients,
        testing::{assert_near, tensor, values},
    };
    use super::*;

    #[test]
    fn each_pixel_counts_as_much_as_the_layer_has_there() {
        // One channel of weight 2: (2, 0, 6) becomes (1/3, 0, 1).
        let layer = Gradients::new(tensor(&[1.0, 0.0, 3.0], [1, 1, 1, 3]), tensor(&[2.0; 3], [1, 1, 1, 3]));
        let guided = tensor(&[0.5, 4.0, -1.0, -3.0, 1.0, 0.5], [1, 2, 1, 3]);
        let map = GuidedGradCam.saliency(&GuidedAtLayer { guided, layer }, Reduction::Sum).expect("saliency");
        assert_near(&values(&map), &[1.0, 0.0, 1.0]);
    }
}
