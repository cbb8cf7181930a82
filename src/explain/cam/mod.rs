//! CAM methods, one file each: from activations and gradients to a saliency map.

mod gradcam;

use tch::{TchError, Tensor};

use crate::names::Choice;

/// A class-activation method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Grad-CAM (Selvaraju et al., 2017).
    Gradcam,
}

impl Choice for Method {
    const ALL: &'static [Self] = &[Method::Gradcam];

    fn name(self) -> &'static str {
        match self {
            Method::Gradcam => "gradcam",
        }
    }
}

impl Method {
    /// The saliency `[N, H', W']`, not yet clipped, of an activation and the score's gradient, both `[N, C, H', W']`.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub fn saliency(self, activation: &Tensor, gradient: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Method::Gradcam => gradcam::saliency(activation, gradient),
        }
    }
}
