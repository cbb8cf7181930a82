//! `camflow.json`: what the exporter knows of a model beside its graph.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::media::Preprocess;

/// The format number that this reader knows.
pub const FORMAT: u32 = 1;

/// Contents of the archive's extra file `camflow.json`. Unknown keys are ignored.
#[derive(Clone, Debug, Deserialize)]
pub struct ModelMetadata {
    /// Format number.
    pub camflow: u32,
    /// What the model is called.
    pub name: String,
    /// What its output means.
    #[serde(default)]
    pub task: Task,
    /// What its input may be.
    pub input: InputInfo,
    /// From RGB in `[0, 255]` to the model's input.
    pub preprocess: Preprocess,
    /// Keys of the outputs in order; one `null` for a single tensor.
    #[serde(default)]
    pub outputs: Vec<Option<String>>,
    /// Which of the outputs is explained.
    #[serde(default)]
    pub primary_output: usize,
    /// Channel of the primary output -> class name.
    #[serde(default)]
    pub classes: BTreeMap<i64, String>,
    /// Numbered layers: `1` -> `backbone.layer1`.
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
    /// Modules that can serve as layers.
    #[serde(default)]
    pub layers: Vec<LayerInfo>,
    /// How tokens map to a grid.
    #[serde(default)]
    pub tokens: Option<TokenInfo>,
}

impl ModelMetadata {
    /// Channel of the primary output for what is none of the classes, if it has one.
    pub fn background(&self) -> Option<i64> {
        self.classes.iter().find(|(_, name)| name.as_str() == "background").map(|(index, _)| *index)
    }
}

/// What a model's primary output means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Logits `[N, K, H, W]`.
    Segmentation,
    /// Logits `[N, K]`.
    Classification,
    /// Boxes.
    Detection,
    /// Anything else.
    #[default]
    #[serde(other)]
    Other,
}

/// What the input may be.
#[derive(Clone, Debug, Deserialize)]
pub struct InputInfo {
    /// `[N, 3, H, W]` that the model was exported with.
    pub example: Vec<i64>,
    /// Which of its dimensions may differ.
    pub dynamic: Dynamic,
}

/// Which dimensions of the input may differ from the example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dynamic {
    /// Batch, height and width.
    Bhw,
    /// The batch alone.
    Batch,
    /// None.
    None,
}

/// A module that can serve as a layer.
#[derive(Clone, Debug, Deserialize)]
pub struct LayerInfo {
    /// Its PyTorch path.
    pub path: String,
    /// How its activation is laid out.
    pub layout: Layout,
    /// Its class.
    #[serde(rename = "type", default)]
    pub module_type: String,
    /// Shape of its activation at the example input.
    #[serde(default)]
    pub shape: Vec<i64>,
}

/// How an activation is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `[N, C, H, W]`
    #[default]
    Nchw,
    /// `[N, H, W, C]`
    Nhwc,
    /// `[N, T, C]`
    Tokens,
}

/// How tokens map to a grid.
#[derive(Clone, Debug, Deserialize)]
pub struct TokenInfo {
    /// Rows and columns at the example input.
    pub grid: [i64; 2],
    /// Leading tokens that are no patches (class, registers).
    #[serde(default)]
    pub prefix: i64,
}
