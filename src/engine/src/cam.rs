//! What is asked of which model: what jobs and single images share.

use std::{num::NonZeroUsize, path::PathBuf};

use super::{Counterfactuals, Engine, Observer, Part, device::DeviceSpec, sampling::check_sampling, slicing::SliceSpec};
use crate::job::{NameList, TargetSpec};
use camflow_diagnostic::{Diagnose, Diagnostic};
use camflow_media::shown;
use camflow_names::{Choice, word};
use camflow_torch::explain::{
    ExplainOptions, Fusion, HeatmapSize, Method, Reading, Sampling, ScoreKind, depends_on_batch, not_pooled,
};
use camflow_torch::program::{Influence, Layer, PlanOptions, Program, ProgramError, Task, TextConfidence, split_layers};

/// What `--layers` has in place of names where the most faithful layer is to be found.
const AUTO: &str = "auto";

/// How many layers are tried then: early ones are seldom the best, and each takes its time.
const NUM_TRIED: usize = 4;

/// The model and what to compute with it; what the fields mean is said at [`JobSpec`](super::JobSpec).
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "said at `JobSpec`")]
pub struct CamSpec {
    pub class: NameList,
    pub text: Vec<String>,
    pub text_template: Option<String>,
    pub layers: NameList,
    pub model: String,
    pub methods: Vec<Method>,
    pub fuse_layers: bool,
    pub fusion: LayerFusion,
    pub eigen_smooth: bool,
    pub aug_smooth: bool,
    pub sess: bool,
    pub cam_batch_size: NonZeroUsize,
    pub sampling: Sampling,
    pub score: ScoreKind,
    pub size: HeatmapSize,
    pub slices: SliceSpec,
    pub device: DeviceSpec,
    pub python: Option<PathBuf>,
}

/// By which rule the maps of several layers become one, where one is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerFusion(pub Option<Fusion>);

impl Choice for LayerFusion {
    const ALL: &'static [Self] = &[LayerFusion(None), LayerFusion(Some(Fusion::Mean)), LayerFusion(Some(Fusion::Max))];

    fn name(self) -> &'static str {
        match self.0 {
            None => "auto",
            Some(Fusion::Max) => "max",
            Some(_) => "mean",
        }
    }
}

/// The model with the layers that were asked for, and its devices.
pub struct Model {
    /// The model.
    pub program: Program,
    /// The layers; where one is to be chosen, those that are tried.
    pub layers: Vec<Layer>,
    /// At least one.
    pub devices: Vec<PlanOptions>,
}

impl CamSpec {
    /// Opens the model and finds the layers in it.
    ///
    /// # Errors
    /// There is no such model, layer or device, or the model cannot do what is asked.
    pub fn open(&self, engine: &Engine, observer: &dyn Observer) -> Result<Model, Diagnostic> {
        check_sampling(self.sampling, &self.methods)?;
        let devices = self.device.resolve()?;
        let mut program = engine.open_model(&self.model, self.part(), self.python.as_deref(), observer)?;
        let methods = self.methods(&program);
        let needed = methods.iter().map(|method| method.needed_influence()).max().unwrap_or(Influence::None);
        let wanted = match self.layers.is_empty() {
            false if self.chooses_layer()? => program.last_layers(NUM_TRIED, needed),
            false => self.layer_names(),
            true => {
                let (layers, notice) = program.default_layers(needed);
                notice.iter().for_each(|notice| observer.notice(notice));
                layers
            }
        };
        let layers = program.resolve_layers(&wanted)?;
        if layers.is_empty() {
            let hint = format!("name one with `--layers`; `camflow inspect {}` lists them", word(program.path()));
            return Err(Diagnostic::invalid("no layer is named").hint(hint));
        }
        self.check_sess(&program)?;
        self.layer_notices(&layers).iter().for_each(|notice| observer.notice(notice));
        if methods.contains(&Method::Hirescam) {
            cancelling(&program, &layers).iter().for_each(|notice| observer.notice(notice));
        }
        program.check_layouts(&layers)?;
        let for_classifiers = methods.iter().find_map(|method| Some((method.name(), method.for_classifiers()?)));
        if let Some((method, what)) = for_classifiers.filter(|_| program.metadata.task == Task::Segmentation) {
            let path = shown(program.path());
            return Err(Diagnostic::invalid(format!("{method} {what}; model `{path}` gives a map of scores"))
                .hint("use another `--method`"));
        }
        let needs_image_gradient = methods.iter().any(|method| method.needs_image_gradient());
        program.check_influence(&layers, needed, needs_image_gradient)?;
        if methods.iter().any(|method| method.is_guided()) {
            program.check_guided()?.iter().for_each(|notice| observer.notice(notice));
        }
        for (method, needs) in methods.iter().filter_map(|method| Some((method, method.attention()?))) {
            needs.check(&program, &layers).map_err(|error| named(*method, &error))?;
        }
        if let Some(method) = methods.iter().find(|method| method.needs_linear_head()) {
            check_head(*method, &program, &layers)?;
        }
        if let (Some(method), [only]) = (methods.iter().find(|method| method.fusion().is_some()), &layers[..]) {
            let name = method.name();
            return Err(Diagnostic::invalid(format!(
                "`--method {name}` makes one heatmap of several layers, and `{}` is the only one",
                only.label
            ))
            .hint(format!(
                "name more with `--layers`, early and late ones, as in `--layers 2-4`; `camflow inspect {}` lists them",
                word(program.path())
            )));
        }
        self.device.notice(&program.metadata).iter().for_each(|notice| observer.notice(notice));
        let devices = devices.into_iter().map(|options| self.device.suited(options, &program.metadata)).collect();
        look_at_batches(&mut program, observer);
        Ok(Model { program, layers, devices })
    }

    /// Refuses what does not go with `--sess`.
    fn check_sess(&self, program: &Program) -> Result<(), Diagnostic> {
        let is_classifier = matches!(program.metadata.task, Task::Classification | Task::Other);
        let wrong = match () {
            () if !self.sess => return Ok(()),
            () if !is_classifier => {
                let path = shown(program.path());
                format!(
                    "`--sess` weighs tiles of the image by the probability of the class in them, and model `{path}` is no classifier"
                )
            }
            () if self.aug_smooth => {
                "`--sess` and `--aug-smooth` are two ways to take a mean over variants of the image".to_owned()
            }
            () if self.slices.slicing().is_some() => {
                "`--sess` looks at tiles of an enlarged image, and slices at those of the image as it is".to_owned()
            }
            () => return Ok(()),
        };
        Err(Diagnostic::invalid(wrong).hint(if is_classifier { "leave one of them out" } else { "leave out `--sess`" }))
    }

    /// What is needed of a model that is named.
    pub(crate) fn part(&self) -> Part {
        if self.scores_texts() { Part::ImageTower } else { Part::Whole }
    }

    /// What is hardly meant so about layers, lowercase, without a period.
    fn layer_notices(&self, layers: &[Layer]) -> Vec<String> {
        let mut notices = Vec::new();
        if let (Some(fusing), [only]) = (self.fusing(), layers) {
            notices.push(format!("`{fusing}` has nothing to fuse but layer `{}`: name several with `--layers`", only.label));
        }
        for (index, layer) in layers.iter().enumerate() {
            if let Some(same) = layers[..index].iter().find(|other| other.path == layer.path) {
                notices
                    .push(format!("layers `{}` and `{}` are the same module, which is explained twice", same.label, layer.label));
            }
        }
        notices
    }

    /// The flag by which one map of several layers is asked for.
    fn fusing(&self) -> Option<&'static str> {
        match self.fusion {
            _ if self.fuse_layers => Some("--fuse-layers"),
            LayerFusion(Some(_)) => Some("--fusion"),
            LayerFusion(None) => None,
        }
    }

    /// The layers as they were named, one by one.
    pub fn layer_names(&self) -> Vec<String> {
        split_layers(&self.layers.names(|_| false).join(","))
    }

    /// Whether of the layers that the model was opened with one is to be chosen.
    ///
    /// # Errors
    /// Something else is asked that does not go with it.
    pub fn chooses_layer(&self) -> Result<bool, Diagnostic> {
        let names = self.layer_names();
        if !names.iter().any(|name| name == AUTO) {
            return Ok(false);
        }
        let wrong = match () {
            () if names.len() > 1 => "chooses one layer, and `--layers` names others beside it",
            () if self.fusing().is_some() => "chooses one layer, and `--fuse-layers` or `--fusion` makes one map of several",
            () if self.methods.iter().any(|method| method.fusion().is_some()) => {
                "chooses one layer, and a method makes one map of several"
            }
            () if !self.methods.is_empty() && !self.methods.iter().any(|method| method.has_layers()) => {
                "chooses a layer, and the methods have none"
            }
            () => return Ok(true),
        };
        Err(Diagnostic::invalid(format!("`--layers {AUTO}` {wrong}")).hint("leave one of them out"))
    }

    /// Those that were asked for, each once; else the model's own: of a detector, whose score hangs on one place of a layer, the mean
    /// gradient of the whole layer (Grad-CAM) says little; and of slices, whose mean gradients grow with how much of the class a slice
    /// has, so that one of them outshines all others.
    fn methods(&self, program: &Program) -> Vec<Method> {
        let mut methods: Vec<Method> = Vec::new();
        for &method in &self.methods {
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
        if methods.is_empty() {
            let is_local = program.metadata.task == Task::Detection || self.slices.slicing().is_some();
            methods.push(if is_local { Method::Layercam } else { Method::Gradcam });
        }
        methods
    }

    /// Makes sure that no prediction has to be found again in changed images, where predictions have no place of their own.
    ///
    /// # Errors
    /// A method, a smoothing, the choice of a layer or a measure (`faithfulness`, `counterfactuals`) would look for it by its place.
    pub fn check_followed(
        &self,
        program: &Program,
        faithfulness: bool,
        counterfactuals: Counterfactuals,
    ) -> Result<(), Diagnostic> {
        if !program.metadata.detections.as_ref().is_some_and(|detections| detections.ranked) {
            return Ok(());
        }
        let probing = self.methods.iter().find(|method| method.probes()).map(|method| format!("--method {}", method.name()));
        let aug_smooth = self.aug_smooth.then(|| "--aug-smooth".to_owned());
        let auto = self.chooses_layer()?.then(|| format!("--layers {AUTO}"));
        let measured = faithfulness.then(|| "--faithfulness".to_owned());
        let replaced = counterfactuals.0.map(|by| format!("--counterfactuals {}", by.name()));
        let Some(by) = probing.or(aug_smooth).or(auto).or(measured).or(replaced) else { return Ok(()) };
        Err(Diagnostic::invalid(format!(
            "`{by}` follows predictions into changed images, and model `{}` looks at other regions there: it has two stages",
            shown(program.path())
        ))
        .hint("take methods of gradients (`layercam`, `gradcam`) without it, or a detector of one stage"))
    }

    /// Refuses another score than what the model gives, where that is no score of a class, or a method has a score of its own.
    ///
    /// # Errors
    /// It would do nothing.
    pub fn check_score(&self, program: &Program, target: &TargetSpec) -> Result<(), Diagnostic> {
        if self.score == ScoreKind::Logit {
            return Ok(());
        }
        let score = self.score.name();
        let why = match () {
            () if self.methods.contains(&Method::Finercam) => "finercam compares the logits of classes".to_owned(),
            () if target.is_value() => format!("target `{target}` is a number that is no score of a class"),
            () if !(program.metadata.task.has_classes() || program.metadata.task == Task::Detection) => {
                format!("model `{}` gives numbers that are no scores of classes", shown(program.path()))
            }
            () if program.texts().is_some_and(|texts| !texts.has_confidence()) => {
                "a softmax over one text says nothing of the image".to_owned()
            }
            () => return Ok(()),
        };
        Err(Diagnostic::invalid(format!("`--score {score}` does nothing here: {why}")).hint("leave out `--score`"))
    }

    /// What is to be computed with these layers of the model, for that target.
    pub fn explain_options(&self, program: &Program, layers: Vec<Layer>, target: &TargetSpec) -> ExplainOptions {
        let is_detector = program.metadata.task == Task::Detection;
        // A softmax over one text says nothing of the image.
        let is_alone_in_softmax = program.texts().is_some_and(|texts| !texts.has_confidence());
        let is_value = target.is_value() || is_alone_in_softmax || !(program.metadata.task.has_classes() || is_detector);
        ExplainOptions {
            layers,
            methods: self.methods(program),
            // The levels of a detector find objects of other sizes: together they are what it looks at.
            fuse_layers: self.fusing().is_some() || is_detector && self.layers.is_empty(),
            fusion: self.fusion.0.unwrap_or(if is_detector { Fusion::Levels } else { Fusion::Mean }),
            eigen_smooth: self.eigen_smooth,
            aug_smooth: self.aug_smooth,
            sess: self.sess,
            size: self.size,
            with_layer_maps: false,
            reading: Reading {
                background: program.metadata.background(),
                one_channel: program.one_channel().filter(|_| !is_value),
                is_probability: program.ends_in_sigmoid(),
                is_value,
                is_alone: program.texts().is_some_and(|texts| texts.confidence == TextConfidence::Sigmoid),
                detections: program.detections().map(|(detections, _)| detections),
                score: self.score,
            },
            references: None,
            faithfulness: false,
            counterfactuals: None,
            confidence: false,
            predictions: false,
            detections: false,
            one_by_one: program.metadata.is_one_by_one(),
            probe_batch: self.cam_batch_size.get(),
            sampling: self.sampling,
            slice_batch: None,
        }
    }
}

/// What of `hirescam` is told about layers at which gradient times activation cancels, lowercase, without a period.
fn cancelling(program: &Program, layers: &[Layer]) -> Vec<String> {
    let tell = |layer: &Layer| {
        let norm = program.only_norm_behind(layer)?;
        let instead = match program.resolve_layers(&[norm.to_owned()]) {
            Ok(_) => format!("name layer `{norm}` instead, or use another method"),
            Err(_) => "use another method".to_owned(),
        };
        Some(format!(
            "`hirescam` of layer `{}` is little more than rounding: behind it is a norm over channels, for which the products of gradient and activation that it sums over channels cancel; {instead}",
            layer.label
        ))
    };
    layers.iter().filter_map(tell).collect()
}

/// An error that a method of attention meets with a model, with the method's name.
fn named(method: Method, error: &ProgramError) -> Diagnostic {
    let diagnostic = error.diagnose();
    let message = format!("`--method {}`: {}", method.name(), diagnostic.message);
    Diagnostic { message, ..diagnostic }
}

/// Refuses layers behind which there is more than a method takes the weights of.
///
/// # Errors
/// Which; or why it could not be found out.
pub(crate) fn check_head(method: Method, program: &Program, layers: &[Layer]) -> Result<(), Diagnostic> {
    let (name, path) = (method.name(), shown(program.path()));
    let hint = "`--method gradcam` takes gradients there; where both are possible they give the same map";
    let others = match program.metadata.task {
        // The similarity to other embeddings comes behind its output.
        Task::Embedding => layers.iter().collect(),
        _ => not_pooled(program, layers).map_err(|reason| {
            Diagnostic::invalid(format!(
                "`--method {name}`: what stands behind layers of model `{path}` could not be found out: {reason}"
            ))
            .hint(hint)
        })?,
    };
    if others.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = others.iter().map(|layer| format!("`{}`", layer.label)).collect();
    let what = format!("layer{} {}", if others.len() == 1 { "" } else { "s" }, named.join(", "));
    Err(Diagnostic::invalid(format!(
        "`--method {name}` takes the weights of the linear layer behind global pooling, and there is more (or less) than these two behind \
         {what} of model `{path}`"
    ))
    .hint(hint))
}

/// Finds out whether images may be run together, where the exporter has not, and tells if they may not.
fn look_at_batches(program: &mut Program, observer: &dyn Observer) {
    let name = program.metadata.name.clone();
    if program.metadata.independent_of_batch.is_none() {
        // A model that cannot be run on a batch will refuse those of the run, too.
        match depends_on_batch(program, false) {
            Ok(depends) => program.metadata.independent_of_batch = Some(!depends),
            Err(reason) => {
                observer.notice(&format!("whether model `{name}` mixes the images of a batch could not be found out: {reason}"));
            }
        }
    }
    if program.metadata.is_one_by_one() {
        observer.notice(&format!(
            "model `{name}` mixes the images of a batch (a batch norm without running statistics does, for one), so images are run one by one whatever `--batch-size` and `--cam-batch-size` say"
        ));
    }
}
