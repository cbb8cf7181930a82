//! CAM methods, one file each with paper, formula and shapes: from what a run of the model left to a saliency map per layer.
//!
//! A method is a [`CamMethod`] with a line in the registry below. What it needs of the run is the type of its [`Evidence`], so
//! that nothing can be missing when it is asked for its map.

mod ablationcam;
mod attention;
mod attention_rollout;
mod chefer;
mod eigencam;
mod eigengradcam;
mod evidence;
mod fem;
mod finercam;
mod fullgrad;
mod grad_attention;
mod grad_eclip;
mod gradcam;
mod gradcam_elementwise;
mod gradcam_plus_plus;
mod groupcam;
mod guided_backprop;
mod guided_gradcam;
mod hirescam;
mod image_gradient;
mod inputs;
mod integrated_gradients;
mod iscam;
mod kpcacam;
mod layercam;
mod legrad;
mod occlusion;
mod original_cam;
mod projection;
mod randomcam;
mod reciprocam;
mod reduction;
mod refinecam;
mod rise;
mod scorecam;
mod segeigencam;
mod shapleycam;
mod smoothgrad;
mod smoothgradcam_plus_plus;
mod sscam;
mod xgradcam;

use tch::{TchError, Tensor};

use super::{
    ExplainError, Fusion,
    attention::AttentionNeeds,
    grid::LayerIndex,
    pass::{Differentiated, Pass},
    sampling::Sampling,
};
use crate::program::{Influence, Layout};
use camflow_names::Choice;
pub use evidence::Gradients;
pub(super) use evidence::{Evidence, Needs};
pub use gradcam::GradCam;
pub use reduction::Reduction;

/// What a method without target layers looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// In names of fields and files.
    pub label: &'static str,
    /// In words, with all that the map depends on: it is part of the fingerprint.
    pub path: String,
}

impl Whole {
    /// The image itself, in words.
    fn image(path: &str) -> Whole {
        Whole { label: "image", path: path.to_owned() }
    }
}

/// A class-activation method.
pub trait CamMethod: Sync + 'static {
    /// What it is computed from.
    type Evidence<'a>: Evidence<'a>;

    /// The saliency `[N, H', W']`, not yet clipped: of a layer, or of the whole network where the evidence is of that.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say; the activation is of no use to the method.
    fn saliency(&self, evidence: &Self::Evidence<'_>, reduction: Reduction) -> Result<Tensor, ExplainError>;

    /// The saliency `[N, T, H', W']` of `T` classes at once, if the method has a shorter way than class by class: from the activation
    /// `[N, C, H', W']` and from gradients that no image changes, `[1, T, C, h, w]`, or `[N, T, C, h, w]` where images have other classes.
    /// `h` and `w` are 1 where a gradient is the same at all places, as behind a pooling.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    fn of_classes(&self, _activation: &Tensor, _gradient: &Tensor) -> Result<Option<Tensor>, TchError> {
        Ok(None)
    }

    /// Whether maps at a layer of this layout can be made of gradients that no image changes, where the evidence says what is
    /// differentiated.
    fn takes_shared(&self, _layout: Layout, _reduction: Reduction) -> bool {
        true
    }

    /// What it does that takes the logits of a classifier, in words that follow its name. `None`: a map of logits will do.
    fn for_classifiers(&self) -> Option<&'static str> {
        None
    }

    /// What it looks at, if it has no target layers.
    fn whole(&self, _sampling: Sampling) -> Whole {
        Whole { label: "all", path: "all convolutions and batch norms".to_owned() }
    }

    /// Whether nothing but global pooling and one linear layer may stand behind its layers.
    fn needs_linear_head(&self) -> bool {
        false
    }

    /// How the maps of all target layers become one, where it has none of a single layer.
    fn fusion(&self) -> Option<Fusion> {
        None
    }

    /// Refuses the logits `[N, K]` or `[N, K, h, w]` of a model that the method cannot explain.
    ///
    /// # Errors
    /// Why.
    fn check_output(&self, _logits: &Tensor) -> Result<(), ExplainError> {
        Ok(())
    }
}

/// The gradients `[N, T, C]` of classes where each is the same at all places of the layer, of gradients as [`CamMethod::of_classes`] has
/// them.
fn everywhere(gradient: &Tensor) -> Result<Option<Tensor>, TchError> {
    let size = gradient.size();
    (size[3..] == [1, 1]).then(|| gradient.f_flatten(2, 4)).transpose()
}

/// A [`CamMethod`] of whatever evidence.
trait AnyMethod: Sync {
    fn needs(&self) -> Needs;
    fn saliencies(&self, pass: &Pass<'_>, layers: &[LayerIndex], reduction: Reduction) -> Result<Vec<Tensor>, ExplainError>;
    fn is_of_class(&self) -> bool;
    fn differentiated(&self) -> Option<Differentiated>;
    fn takes_shared(&self, layout: Layout, reduction: Reduction) -> bool;
    fn of_shared(&self, activation: &Tensor, gradient: &Tensor, reduction: Reduction) -> Result<Tensor, ExplainError>;
    fn for_classifiers(&self) -> Option<&'static str>;
    fn whole(&self, sampling: Sampling) -> Whole;
    fn needs_linear_head(&self) -> bool;
    fn fusion(&self) -> Option<Fusion>;
    fn check_output(&self, logits: &Tensor) -> Result<(), ExplainError>;
}

impl<M: CamMethod> AnyMethod for M {
    fn needs(&self) -> Needs {
        <M::Evidence<'static> as Evidence<'static>>::needs()
    }

    fn saliencies(&self, pass: &Pass<'_>, layers: &[LayerIndex], reduction: Reduction) -> Result<Vec<Tensor>, ExplainError> {
        let gathered = M::Evidence::gather(pass, layers)?;
        gathered.iter().map(|evidence| self.saliency(evidence, reduction)).collect()
    }

    fn is_of_class(&self) -> bool {
        <M::Evidence<'static> as Evidence<'static>>::is_of_class()
    }

    fn differentiated(&self) -> Option<Differentiated> {
        <M::Evidence<'static> as Evidence<'static>>::differentiated()
    }

    fn takes_shared(&self, layout: Layout, reduction: Reduction) -> bool {
        CamMethod::takes_shared(self, layout, reduction)
    }

    fn of_shared(&self, activation: &Tensor, gradient: &Tensor, reduction: Reduction) -> Result<Tensor, ExplainError> {
        if reduction == Reduction::Sum
            && let Some(maps) = self.of_classes(activation, gradient)?
        {
            return Ok(maps);
        }
        // One sample after the other, its classes as if they were a batch.
        let (n, channels, height, width) = activation.size4()?;
        let [rows, num_classes] = [gradient.size()[0], gradient.size()[1]];
        let size = [num_classes, channels, height, width];
        let of_sample = |sample: i64| {
            let own = activation.f_narrow(0, sample, 1)?.f_expand(size, false)?;
            let gradient = gradient.f_select(0, if rows == 1 { 0 } else { sample })?.f_expand(size, false)?;
            let evidence = M::Evidence::of_gradient(own, gradient);
            let evidence = evidence.ok_or_else(|| ExplainError::Unsuitable("gradients are not all that it takes".into()))?;
            self.saliency(&evidence, reduction)
        };
        let maps = (0..n).map(of_sample).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::f_stack(&maps, 0)?)
    }

    fn for_classifiers(&self) -> Option<&'static str> {
        CamMethod::for_classifiers(self)
    }

    fn whole(&self, sampling: Sampling) -> Whole {
        CamMethod::whole(self, sampling)
    }

    fn needs_linear_head(&self) -> bool {
        CamMethod::needs_linear_head(self)
    }

    fn fusion(&self) -> Option<Fusion> {
        CamMethod::fusion(self)
    }

    fn check_output(&self, logits: &Tensor) -> Result<(), ExplainError> {
        CamMethod::check_output(self, logits)
    }
}

macro_rules! registry {
    ($($(#[$doc:meta])* $method:ident = $name:literal, $implementation:expr;)*) => {
        /// A class-activation method, by its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method {
            $($(#[$doc])* $method,)*
        }

        /// In the order of the variants.
        const REGISTRY: &[(&str, &dyn AnyMethod)] = &[$(($name, &$implementation),)*];

        impl Choice for Method {
            const ALL: &'static [Self] = &[$(Method::$method,)*];

            fn name(self) -> &'static str {
                REGISTRY[self as usize].0
            }
        }
    };
}

registry! {
    /// Grad-CAM (Selvaraju et al., 2017).
    Gradcam = "gradcam", GradCam;
    /// Grad-CAM++ (Chattopadhyay et al., 2018).
    GradcamPlusPlus = "gradcam++", gradcam_plus_plus::GradCamPlusPlus;
    /// XGrad-CAM (Fu et al., 2020).
    Xgradcam = "xgradcam", xgradcam::XGradCam;
    /// LayerCAM (Jiang et al., 2021).
    Layercam = "layercam", layercam::LayerCam;
    /// HiResCAM (Draelos and Carin, 2020).
    Hirescam = "hirescam", hirescam::HiResCam;
    /// Element-wise Grad-CAM (Pillai and Pirsiavash, 2021).
    GradcamElementwise = "gradcam-elementwise", gradcam_elementwise::GradCamElementwise;
    /// Eigen-CAM (Muhammad and Yeasin, 2020).
    Eigencam = "eigencam", eigencam::EigenCam;
    /// Eigen-CAM of activation times gradient.
    Eigengradcam = "eigengradcam", eigengradcam::EigenGradCam;
    /// Score-CAM (Wang et al., 2020).
    Scorecam = "scorecam", scorecam::ScoreCam;
    /// Ablation-CAM (Desai and Ramaswamy, 2020).
    Ablationcam = "ablationcam", ablationcam::AblationCam;
    /// FullGrad (Srinivas and Fleuret, 2019).
    Fullgrad = "fullgrad", fullgrad::FullGrad;
    /// KPCA-CAM (Karmani et al., 2024).
    Kpcacam = "kpcacam", kpcacam::KpcaCam;
    /// FEM (Fuad et al., 2020).
    Fem = "fem", fem::Fem;
    /// ShapleyCAM (Cai, 2025).
    Shapleycam = "shapleycam", shapleycam::ShapleyCam;
    /// Finer-CAM (Zhang et al., 2025).
    Finercam = "finercam", finercam::FinerCam;
    /// Seg-Eigen-CAM (Chung and Ying, 2025).
    Segeigencam = "segeigencam", segeigencam::SegEigenCam;
    /// Recipro-CAM (Byun and Lee, 2022), of tokens ViT-Recipro-CAM (2023).
    Reciprocam = "reciprocam", reciprocam::ReciproCam;
    /// CAM (Zhou et al., 2016).
    Cam = "cam", original_cam::OriginalCam;
    /// Smooth Grad-CAM++ (Omeiza et al., 2019).
    SmoothgradcamPlusPlus = "smoothgradcam++", smoothgradcam_plus_plus::SmoothGradCamPlusPlus;
    /// SS-CAM (Wang et al., 2020).
    Sscam = "sscam", sscam::SsCam;
    /// IS-CAM (Naidu et al., 2020).
    Iscam = "iscam", iscam::IsCam;
    /// Group-CAM (Zhang et al., 2021).
    Groupcam = "groupcam", groupcam::GroupCam;
    /// RefineCAM (2026): the product of several layers.
    Refinecam = "refinecam", refinecam::RefineCam;
    /// Attention rollout (Abnar and Zuidema, 2020).
    AttentionRollout = "attention-rollout", attention_rollout::AttentionRollout;
    /// Gradient times attention of one block (Barkan et al., 2021).
    GradAttention = "grad-attention", grad_attention::GradAttention;
    /// Relevance through all blocks of attention (Chefer et al., 2021).
    Chefer = "chefer", chefer::Chefer;
    /// LeGrad (Bousselham et al., 2025).
    Legrad = "legrad", legrad::LeGrad;
    /// Grad-ECLIP (Zhao et al., 2024).
    GradEclip = "grad-eclip", grad_eclip::GradEclip;
    /// The gradient in the image (Simonyan et al., 2014).
    Saliency = "saliency", image_gradient::Saliency;
    /// SmoothGrad (Smilkov et al., 2017).
    Smoothgrad = "smoothgrad", smoothgrad::SmoothGrad;
    /// Integrated gradients (Sundararajan et al., 2017).
    IntegratedGradients = "integrated-gradients", integrated_gradients::IntegratedGradients;
    /// Guided backpropagation (Springenberg et al., 2015).
    GuidedBackprop = "guided-backprop", guided_backprop::GuidedBackprop;
    /// Its product with Grad-CAM (Selvaraju et al., 2017).
    GuidedGradcam = "guided-gradcam", guided_gradcam::GuidedGradCam;
    /// Occlusion (Zeiler and Fergus, 2014).
    Occlusion = "occlusion", occlusion::Occlusion;
    /// RISE (Petsiuk et al., 2018).
    Rise = "rise", rise::Rise;
    /// Random weights: a control.
    Randomcam = "randomcam", randomcam::RandomCam;
}

impl Method {
    fn implementation(self) -> &'static dyn AnyMethod {
        REGISTRY[self as usize].1
    }

    /// What the method needs of a run.
    pub(super) fn needs(self) -> Needs {
        self.implementation().needs()
    }

    /// Whether the method looks at target layers, or at all of the network.
    pub fn has_layers(self) -> bool {
        self.needs().layers.is_some()
    }

    /// What a layer has to do to the output for the method to say anything of it.
    pub fn needed_influence(self) -> Influence {
        self.needs().layers.unwrap_or(Influence::None)
    }

    /// Whether classes have maps of their own: otherwise all of an image have the same one.
    pub(super) fn is_of_class(self) -> bool {
        self.implementation().is_of_class()
    }

    /// What is differentiated, where its gradient in a layer and the layer's activation are all that the method takes.
    pub(super) fn differentiated(self) -> Option<Differentiated> {
        self.implementation().differentiated()
    }

    /// Whether maps at a layer of this layout can be made of gradients that no image changes.
    pub(super) fn takes_shared(self, layout: Layout, reduction: Reduction) -> bool {
        self.differentiated().is_some() && self.implementation().takes_shared(layout, reduction)
    }

    /// The saliency `[N, T, H', W']` of `T` classes of a method that is: from the activation and gradients that no image changes, as
    /// [`CamMethod::of_classes`] has them.
    pub(super) fn of_shared(self, activation: &Tensor, gradient: &Tensor, reduction: Reduction) -> Result<Tensor, ExplainError> {
        self.implementation().of_shared(activation, gradient, reduction)
    }

    /// Whether a gradient has to come back to the image.
    pub fn needs_image_gradient(self) -> bool {
        let needs = self.needs();
        needs.network || needs.image || needs.guided
    }

    /// Whether the method looks at the network whose ReLUs let positive gradients back alone.
    pub fn is_guided(self) -> bool {
        self.needs().guided
    }

    /// What the method looks at, if it has no target layers.
    pub fn whole(self, sampling: Sampling) -> Whole {
        self.implementation().whole(sampling)
    }

    /// What the method looks at of a transformer's attention, if it is one of these.
    pub fn attention(self) -> Option<AttentionNeeds> {
        self.needs().attention
    }

    /// Whether the method asks for scores of many variants of a sample.
    pub fn probes(self) -> bool {
        self.needs().probes
    }

    /// What the method does that takes the logits of a classifier, in words that follow its name. `None`: a map of logits will
    /// do.
    pub fn for_classifiers(self) -> Option<&'static str> {
        self.implementation().for_classifiers()
    }

    /// Whether nothing but global pooling and one linear layer may stand behind its layers ([`not_pooled`](super::not_pooled)).
    pub fn needs_linear_head(self) -> bool {
        self.implementation().needs_linear_head()
    }

    /// How the maps of all target layers become one, where the method has none of a single layer.
    pub fn fusion(self) -> Option<Fusion> {
        self.implementation().fusion()
    }

    /// Refuses the logits `[N, K]` or `[N, K, h, w]` of a model that the method cannot explain.
    pub(super) fn check_output(self, logits: &Tensor) -> Result<(), ExplainError> {
        self.implementation().check_output(logits)
    }

    /// The saliency `[N, H', W']` of each of the layers in a pass, or of the whole network.
    pub(super) fn saliencies(
        self,
        pass: &Pass<'_>,
        layers: &[LayerIndex],
        reduction: Reduction,
    ) -> Result<Vec<Tensor>, ExplainError> {
        self.implementation().saliencies(pass, layers, reduction)
    }
}

#[cfg(test)]
mod testing {
    use tch::{Kind, Tensor};

    use crate::program::to_host;

    pub(super) fn tensor<const D: usize>(values: &[f32], size: [i64; D]) -> Tensor {
        Tensor::from_slice(values).view(&size[..])
    }

    pub(super) fn values(tensor: &Tensor) -> Vec<f32> {
        to_host(&tensor.to_kind(Kind::Float)).expect("values")
    }

    pub(super) fn assert_near(found: &[f32], wanted: &[f32]) {
        assert_eq!(found.len(), wanted.len());
        let near = found.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= 1e-4 * (1.0 + b.abs()));
        assert!(near, "{found:?}\n{wanted:?}");
    }
}
