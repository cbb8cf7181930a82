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
    /// The layers that are explained when none is named, by alias or path.
    #[serde(default)]
    pub default_layers: Vec<String>,
    /// Modules that can serve as layers.
    #[serde(default)]
    pub layers: Vec<LayerInfo>,
    /// How tokens map to a grid, for layers that do not say it themselves.
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
    /// How its tokens map to a grid, where that is not as [`ModelMetadata::tokens`] says.
    #[serde(default)]
    pub tokens: Option<TokenInfo>,
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct TokenInfo {
    /// Rows and columns at the example input.
    pub grid: [i64; 2],
    /// Leading tokens that are no patches (class, registers).
    #[serde(default)]
    pub prefix: i64,
    /// Pixels per row and column of tokens, where the grid follows the input's size.
    #[serde(default)]
    pub stride: Option<[i64; 2]>,
    /// What becomes of pixels that fill no stride.
    #[serde(default)]
    pub round: Rounding,
}

/// How a number of pixels that is no multiple of the stride becomes a number of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// The rest has no token: convolutions without padding.
    #[default]
    Floor,
    /// The rest has a token: padded convolutions.
    Ceil,
}

impl TokenInfo {
    /// Rows and columns for an input of this height and width. The caller has to check that they and the prefix are as many
    /// tokens as there are.
    pub fn grid_of(&self, input: [i64; 2]) -> [i64; 2] {
        match self.stride {
            Some(stride) if stride.iter().all(|step| *step > 0) => std::array::from_fn(|axis| match self.round {
                Rounding::Floor => input[axis] / stride[axis],
                Rounding::Ceil => (input[axis] + stride[axis] - 1) / stride[axis],
            }),
            _ => self.grid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TokenInfo;

    #[test]
    fn a_grid_of_tokens_follows_the_input_where_it_has_a_stride() {
        let tokens = |text: &str| serde_json::from_str::<TokenInfo>(text).expect("token info");
        let fixed = tokens(r#"{"grid": [14, 14], "prefix": 1, "patch": [16, 16]}"#);
        assert_eq!((fixed.grid_of([224, 224]), fixed.prefix), ([14, 14], 1));
        let padded = tokens(r#"{"grid": [24, 32], "prefix": 0, "stride": [4, 4], "round": "ceil"}"#);
        assert_eq!(padded.grid_of([97, 130]), [25, 33]);
        let whole = tokens(r#"{"grid": [3, 4], "stride": [32, 32], "round": "floor"}"#);
        assert_eq!((whole.grid_of([97, 130]), whole.prefix), ([3, 4], 0));
        assert_eq!(tokens(r#"{"grid": [3, 4], "stride": [0, 32]}"#).grid_of([97, 130]), [3, 4]);
    }
}
