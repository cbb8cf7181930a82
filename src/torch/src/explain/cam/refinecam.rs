//! RefineCAM: *How to Evaluate and Refine your CAM*, 2026, <https://arxiv.org/abs/2605.14641>.
//!
//! The product of the Grad-CAM++ maps of several layers. Early layers say exactly where edges are and little of the class, late ones the other way round; their product is left where both
//! speak. With the Grad-CAM++ map `L_l` of layer `l`:
//!
//! ```text
//! H_l = L_l clipped at 0, scaled to [0, 1], enlarged to the heatmap's size, scaled to [0, 1] again
//! H   = product over l of H_l, scaled to [0, 1]
//! ```
//!
//! As pytorch_grad_cam's `RefineCAM`, whose method of a layer is Grad-CAM++ unless another one is named (torch-cam's leaves the second
//! scaling out). One heatmap of all target layers, which have to be several.

use tch::Tensor;

use super::{CamMethod, Gradients, Reduction, gradcam_plus_plus::GradCamPlusPlus};
use crate::explain::{ExplainError, Fusion};

/// RefineCAM.
pub(super) struct RefineCam;

impl CamMethod for RefineCam {
    type Evidence<'a> = Gradients;

    fn saliency(&self, evidence: &Gradients, reduction: Reduction) -> Result<Tensor, ExplainError> {
        GradCamPlusPlus.saliency(evidence, reduction)
    }

    fn fusion(&self) -> Option<Fusion> {
        Some(Fusion::Product)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;
    use crate::explain::heatmap::upsample;

    #[test]
    fn what_one_layer_does_not_show_is_not_shown() {
        // A late layer of two places, which become four, and an early one of four.
        let late = tensor(&[0.0, 1.0], [1, 1, 2]);
        let early = tensor(&[1.0, 0.2, 0.0, 0.6], [1, 1, 4]);
        let fusion = RefineCam.fusion().expect("one map of several layers");
        let found = upsample(&[late, early], None, fusion).expect("heatmap");
        // [0, 0.25, 0.75, 1] * [1, 0.2, 0, 0.6] = [0, 0.05, 0, 0.6]
        assert_near(&values(&found), &[0.0, 0.05 / 0.6, 0.0, 1.0]);
    }
}
