//! What is explained, and which maps come of it.

use crate::program::{Detections, Layer, OneChannel, References};

use super::{
    HeatmapSize, Method,
    cam::{Reduction, Whole},
    grid::LayerIndex,
    replacement::Replacement,
    sampling::Sampling,
};
use camflow_names::Choice;

/// What is explained.
#[derive(Clone, Debug)]
pub struct ExplainOptions {
    /// Target layers.
    pub layers: Vec<Layer>,
    /// CAM methods; they share the forward pass and, where they can, the backward pass.
    pub methods: Vec<Method>,
    /// One map of all layers.
    pub fuse_layers: bool,
    /// What becomes one map then.
    pub fusion: Fusion,
    /// The first principal component of a method's channels instead of their sum.
    pub eigen_smooth: bool,
    /// The mean over six variants of the image: as it is and mirrored, times 0.9, 1 and 1.1.
    pub aug_smooth: bool,
    /// What the methods show of tiles of the image at several scales, put together (SESS); classifiers only.
    pub sess: bool,
    /// Size of the heatmaps.
    pub size: HeatmapSize,
    /// Whether heatmaps come with the map that each was drawn from, where that is a single one.
    pub with_layer_maps: bool,
    /// What the output's numbers mean.
    pub reading: Reading,
    /// What the embeddings of images are compared with, of a model that gives such: the similarities stand in the output's place.
    pub references: Option<References>,
    /// Whether heatmaps are examined for their faithfulness: 57 more forward passes each, and 3 of each image.
    pub faithfulness: bool,
    /// What takes the place of the object, of its background and of the most attended region outside of it, where the model is asked
    /// about such images: two more forward passes for each class, and one for each heatmap.
    pub counterfactuals: Option<Replacement>,
    /// Whether the probability of the class is told with its heatmaps.
    pub confidence: bool,
    /// Whether a classifier's own prediction is told with them.
    pub predictions: bool,
    /// Whether all that a detector detects is told, or what a segmentation network gives each pixel.
    pub detections: bool,
    /// Whether nothing else may be in a sample's batch, no other sample and no variant of it, as the model would mix them.
    pub one_by_one: bool,
    /// How many variants of a sample gradient-free methods and those examinations run at a time.
    pub probe_batch: usize,
    /// How methods at the image itself ask the model.
    pub sampling: Sampling,
    /// How many slices of an image go through the model at a time; `None`: as many as are good for the device.
    pub slice_batch: Option<usize>,
}

/// How the heatmaps of several layers become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fusion {
    /// Their mean, scaled to `[0, 1]` again: pytorch_grad_cam's rule.
    #[default]
    Mean,
    /// The largest of them at each pixel, each scaled to `[0, 1]` at the heatmap's size: Ultralytics' rule for the levels of a
    /// detector, each of which finds objects of another size.
    Levels,
    /// The largest of them at each pixel, each scaled to `[0, 1]` at its layer's size: torch-cam's rule.
    Max,
    /// The largest of their `tanh(2 x)`, so that early layers, where little is bright, count for as much: [`Fusion::Max`] of LayerCAM
    /// (Jiang 2021, equation 9).
    TanhMax,
    /// Their product, each scaled to `[0, 1]`, scaled again: what RefineCAM is.
    Product,
}

/// What of the model's output for a class is explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScoreKind {
    /// Its logit `l`: pytorch_grad_cam's `ClassifierOutputTarget`.
    #[default]
    Logit,
    /// Its probability `p`, the softmax, of an output with one channel and where each channel stands alone the sigmoid:
    /// `ClassifierOutputSoftmaxTarget`.
    Softmax,
    /// `l + ln p`, the residual of logit and cross-entropy (ReST, Cai 2025, <https://arxiv.org/abs/2501.06261>):
    /// `ClassifierOutputReST`.
    Rest,
}

impl Choice for ScoreKind {
    const ALL: &'static [Self] = &[ScoreKind::Logit, ScoreKind::Softmax, ScoreKind::Rest];

    fn name(self) -> &'static str {
        match self {
            ScoreKind::Logit => "logit",
            ScoreKind::Softmax => "softmax",
            ScoreKind::Rest => "rest",
        }
    }
}

/// What the output's numbers mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// The output's channel for what is none of the classes, if it has one.
    pub background: Option<i64>,
    /// What its one channel stands for; `None` where it has several.
    pub one_channel: Option<OneChannel>,
    /// Whether its numbers are probabilities, not logits. It counts for an output of one channel, which has no softmax.
    pub is_probability: bool,
    /// Whether they are no scores of classes, so that nothing is decided by them and none has a probability.
    pub is_value: bool,
    /// Whether each of several channels has a sigmoid of its own: otherwise a softmax is over all of them.
    pub is_alone: bool,
    /// What the predictions of a detector mean.
    pub detections: Option<Detections>,
    /// What of a class is explained.
    pub score: ScoreKind,
}

/// One map per class and sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// By which method.
    pub method: Method,
    /// What field and file names call the layer: its number or path, `fused` for several; where the method has none, `all` or `image`.
    pub label: String,
    /// The module path; several with ` + `.
    pub path: String,
    /// Which of the options' layers; none where the method has none.
    pub layers: Vec<LayerIndex>,
}

impl ExplainOptions {
    /// Whether the model is asked about changed images, which heatmaps over its input say how to change.
    pub(super) fn examines(&self) -> bool {
        self.faithfulness || self.counterfactuals.is_some()
    }

    /// How channels become one map.
    pub(super) fn reduction(&self) -> Reduction {
        if self.eigen_smooth { Reduction::FirstComponent } else { Reduction::Sum }
    }

    /// Whether variants of samples are run, several at a time.
    pub fn probes(&self) -> bool {
        self.examines() || self.sess || self.methods.iter().any(|method| method.probes())
    }

    /// How the heatmaps of several layers become one, where a method's do.
    pub(super) fn fusion_of(&self, method: Method) -> Fusion {
        method.fusion().unwrap_or(match (self.fusion, method) {
            (Fusion::Max, Method::Layercam) => Fusion::TanhMax,
            (fusion, _) => fusion,
        })
    }

    /// The maps of each class, method by method.
    pub fn columns(&self) -> Vec<Column> {
        let mut columns = Vec::new();
        for &method in &self.methods {
            if !method.has_layers() {
                let Whole { label, path } = method.whole(self.sampling);
                columns.push(Column { method, label: label.to_owned(), path, layers: Vec::new() });
            } else if (self.fuse_layers || method.fusion().is_some()) && self.layers.len() > 1 {
                let paths: Vec<&str> = self.layers.iter().map(|layer| layer.path.as_str()).collect();
                let path = match self.fusion_of(method) {
                    Fusion::Mean => paths.join(" + "),
                    Fusion::Levels => format!("the largest of {}", paths.join(", ")),
                    Fusion::Max => format!("the maximum of {}", paths.join(", ")),
                    Fusion::TanhMax => format!("the maximum of tanh of {}", paths.join(", ")),
                    Fusion::Product => format!("the product of {}", paths.join(", ")),
                };
                columns.push(Column {
                    method,
                    label: "fused".into(),
                    path,
                    layers: (0..self.layers.len()).map(LayerIndex::from).collect(),
                });
            } else {
                columns.extend(self.layers.iter().enumerate().map(|(index, layer)| Column {
                    method,
                    label: layer.label.clone(),
                    path: layer.path.clone(),
                    layers: vec![index.into()],
                }));
            }
        }
        columns
    }
}
