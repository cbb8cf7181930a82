//! CAM methods, one file each with paper, formula and shapes: from what a run of the model left to a saliency map per layer.
//!
//! A method gives channels `[N, C, H', W']` whose sum is the saliency; with `--eigen-smooth` their projection onto the first
//! principal component takes the place of the sum.

mod ablationcam;
mod eigencam;
mod eigengradcam;
mod fem;
mod finercam;
mod fullgrad;
mod gradcam;
mod gradcam_elementwise;
mod gradcam_plus_plus;
mod hirescam;
mod kpcacam;
mod layercam;
mod probe;
mod projection;
mod randomcam;
mod scorecam;
mod shapleycam;
mod xgradcam;

use tch::{Kind, TchError, Tensor};

use crate::program::Influence;
pub use ablationcam::weights as ablation_weights;
use camflow_names::Choice;
pub use finercam::score as comparison_score;
pub use fullgrad::saliency as full_gradient;
pub use probe::{Probe, ProbeOptions};
pub use randomcam::weights as random_weights;
pub use scorecam::weights as score_weights;

/// A class-activation method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Grad-CAM (Selvaraju et al., 2017).
    Gradcam,
    /// Grad-CAM++ (Chattopadhyay et al., 2018).
    GradcamPlusPlus,
    /// XGrad-CAM (Fu et al., 2020).
    Xgradcam,
    /// LayerCAM (Jiang et al., 2021).
    Layercam,
    /// HiResCAM (Draelos and Carin, 2020).
    Hirescam,
    /// Element-wise Grad-CAM (Pillai and Pirsiavash, 2021).
    GradcamElementwise,
    /// Eigen-CAM (Muhammad and Yeasin, 2020).
    Eigencam,
    /// Eigen-CAM of activation times gradient.
    Eigengradcam,
    /// Score-CAM (Wang et al., 2020).
    Scorecam,
    /// Ablation-CAM (Desai and Ramaswamy, 2020).
    Ablationcam,
    /// FullGrad (Srinivas and Fleuret, 2019).
    Fullgrad,
    /// KPCA-CAM (Karmani et al., 2024).
    Kpcacam,
    /// FEM (Fuad et al., 2020).
    Fem,
    /// ShapleyCAM (Cai, 2025).
    Shapleycam,
    /// Finer-CAM (Zhang et al., 2025).
    Finercam,
    /// Random weights: a control.
    Randomcam,
}

impl Choice for Method {
    const ALL: &'static [Self] = &[
        Method::Gradcam,
        Method::GradcamPlusPlus,
        Method::Xgradcam,
        Method::Layercam,
        Method::Hirescam,
        Method::GradcamElementwise,
        Method::Eigencam,
        Method::Eigengradcam,
        Method::Scorecam,
        Method::Ablationcam,
        Method::Fullgrad,
        Method::Kpcacam,
        Method::Fem,
        Method::Shapleycam,
        Method::Finercam,
        Method::Randomcam,
    ];

    fn name(self) -> &'static str {
        match self {
            Method::Gradcam => "gradcam",
            Method::GradcamPlusPlus => "gradcam++",
            Method::Xgradcam => "xgradcam",
            Method::Layercam => "layercam",
            Method::Hirescam => "hirescam",
            Method::GradcamElementwise => "gradcam-elementwise",
            Method::Eigencam => "eigencam",
            Method::Eigengradcam => "eigengradcam",
            Method::Scorecam => "scorecam",
            Method::Ablationcam => "ablationcam",
            Method::Fullgrad => "fullgrad",
            Method::Kpcacam => "kpcacam",
            Method::Fem => "fem",
            Method::Shapleycam => "shapleycam",
            Method::Finercam => "finercam",
            Method::Randomcam => "randomcam",
        }
    }
}

/// What a method needs of the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivative {
    /// Nothing.
    None,
    /// The score's gradient.
    Gradient,
    /// Also its product of Hessian and activation.
    Hessian,
    /// The gradient of Finer-CAM's own score.
    Comparison,
}

impl Method {
    /// What the method needs of the backward pass.
    pub fn derivative(self) -> Derivative {
        match self {
            Method::Gradcam
            | Method::GradcamPlusPlus
            | Method::Xgradcam
            | Method::Layercam
            | Method::Hirescam
            | Method::GradcamElementwise
            | Method::Eigengradcam
            | Method::Fullgrad => Derivative::Gradient,
            Method::Shapleycam => Derivative::Hessian,
            Method::Finercam => Derivative::Comparison,
            Method::Eigencam | Method::Scorecam | Method::Ablationcam | Method::Kpcacam | Method::Fem | Method::Randomcam => {
                Derivative::None
            }
        }
    }

    /// Whether the method looks at target layers; FullGrad looks at all of the network.
    pub fn has_layers(self) -> bool {
        self != Method::Fullgrad
    }

    /// What a layer has to do to the output for the method to say anything of it.
    pub fn needed_influence(self) -> Influence {
        match self {
            Method::Fullgrad => Influence::None,
            // It asks what becomes of the score without a channel.
            Method::Ablationcam => Influence::WithoutGradient,
            _ if self.derivative() != Derivative::None => Influence::Gradient,
            _ => Influence::None,
        }
    }

    /// Whether the method weighs channels by the scores of many variants of the sample.
    pub fn probes(self) -> bool {
        matches!(self, Method::Scorecam | Method::Ablationcam)
    }
}

/// What a run left of one layer, `[N, C, H', W']` each. What no method of the job needs is missing.
#[derive(Debug, Default)]
pub struct LayerView {
    /// The activation.
    pub activation: Tensor,
    /// The score's gradient.
    pub gradient: Option<Tensor>,
    /// The score's Hessian times the activation.
    pub hessian_product: Option<Tensor>,
    /// The gradient of Finer-CAM's score.
    pub comparison_gradient: Option<Tensor>,
}

impl Method {
    /// The saliency `[N, H', W']` of a layer, not yet clipped. `weights` are the channel weights `[N, C]` of the methods that find
    /// them by other means than the view. FullGrad has none: see `full_gradient`.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub fn saliency(self, view: &LayerView, weights: Option<&Tensor>, eigen_smooth: bool) -> Result<Tensor, TchError> {
        let missing = |what: &str| TchError::Torch(format!("{} was not given its {what}; this is a bug in camflow", self.name()));
        let activation = &view.activation;
        let gradient = || view.gradient.as_ref().ok_or_else(|| missing("gradient"));
        let channels = match self {
            Method::Gradcam => gradcam::channels(activation, gradient()?)?,
            Method::GradcamPlusPlus => gradcam_plus_plus::channels(activation, gradient()?)?,
            Method::Xgradcam => xgradcam::channels(activation, gradient()?)?,
            Method::Layercam => layercam::channels(activation, gradient()?)?,
            Method::Hirescam => hirescam::channels(activation, gradient()?)?,
            Method::GradcamElementwise => gradcam_elementwise::channels(activation, gradient()?)?,
            Method::Eigencam => return projection::first_component(&eigencam::channels(activation)),
            Method::Eigengradcam => return projection::first_component(&eigengradcam::channels(activation, gradient()?)?),
            Method::Kpcacam => return kpcacam::saliency(activation),
            Method::Fem => return sum(&fem::channels(activation)?),
            Method::Shapleycam => {
                let product = view.hessian_product.as_ref().ok_or_else(|| missing("second derivative"))?;
                shapleycam::channels(activation, gradient()?, product)?
            }
            Method::Finercam => {
                gradcam::channels(activation, view.comparison_gradient.as_ref().ok_or_else(|| missing("gradient"))?)?
            }
            Method::Scorecam | Method::Ablationcam | Method::Randomcam => {
                let weights = weights.ok_or_else(|| missing("weights"))?;
                activation.f_mul(&weights.f_unsqueeze(2)?.f_unsqueeze(3)?)?
            }
            Method::Fullgrad => return Err(missing("biases")),
        };
        if eigen_smooth { projection::first_component(&channels) } else { sum(&channels) }
    }
}

fn sum(channels: &Tensor) -> Result<Tensor, TchError> {
    channels.f_sum_dim_intlist(1i64, false, None::<Kind>)
}

#[cfg(test)]
mod testing {
    use tch::{Kind, Tensor};

    pub fn tensor<const D: usize>(values: &[f32], size: [i64; D]) -> Tensor {
        Tensor::from_slice(values).view(&size[..])
    }

    pub fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor.to_kind(Kind::Float).contiguous().view(-1)).expect("values")
    }

    pub fn assert_near(found: &[f32], wanted: &[f32]) {
        assert_eq!(found.len(), wanted.len());
        let near = found.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= 1e-4 * (1.0 + b.abs()));
        assert!(near, "{found:?}\n{wanted:?}");
    }
}
