//! `camflow.json`: what the exporter knows of a model beside its graph.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::{self, Display},
    marker::PhantomData,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use super::measured::{DefaultMode, Deviation};
use camflow_media::Preprocess;
use camflow_names::is_unseen;

/// The format number that this reader knows.
pub(super) const FORMAT: u32 = 1;

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
    /// Keys of which nothing said what they shall be; `None` where the exporter did not note it.
    #[serde(default)]
    pub assumed: Option<Vec<String>>,
    /// Keys of the outputs in order; one `null` for a single tensor.
    #[serde(default)]
    pub outputs: Vec<Option<String>>,
    /// Which of the outputs is explained.
    #[serde(default)]
    pub primary_output: usize,
    /// What a detector's predictions are.
    #[serde(default)]
    pub detections: Option<DetectionInfo>,
    /// Of the image tower of a CLIP-like model: how texts are laid beside its embeddings.
    #[serde(default)]
    pub texts: Option<TextInfo>,
    /// Channel of the primary output -> class name.
    #[serde(default, deserialize_with = "once_each")]
    pub classes: BTreeMap<i64, String>,
    /// Numbered layers: `1` -> `backbone.layer1`.
    #[serde(default, deserialize_with = "once_each")]
    pub aliases: BTreeMap<String, String>,
    /// The layers that are explained when none is named, by alias or path.
    #[serde(default)]
    pub default_layers: Vec<String>,
    /// Why it is those; `None` where the exporter did not note it.
    #[serde(default)]
    pub default_because: Option<String>,
    /// Modules that can serve as layers.
    #[serde(default)]
    pub layers: Vec<LayerInfo>,
    /// How tokens map to a grid, for layers that do not say it themselves.
    #[serde(default)]
    pub tokens: Option<TokenInfo>,
    /// Orders of tokens in windows: for each place of the grid, row by row, which of an image's tokens lies there.
    #[serde(default)]
    pub orders: Vec<Vec<i64>>,
    /// Whether what the model makes of an image is the same whatever else is in the batch; `None` where nobody has looked or could.
    #[serde(default)]
    pub independent_of_batch: Option<bool>,
    /// How far the default mode was from float64, by input, up to the first one at which it missed its bound; empty where that
    /// could not be measured, `None` where nobody has.
    #[serde(default)]
    pub default_mode: Option<Vec<Deviation>>,
}

/// A map in which no key is there twice; serde's own takes the last one without a word.
fn once_each<'de, D, K>(deserializer: D) -> Result<BTreeMap<K, String>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + Display,
{
    struct OnceEach<K>(PhantomData<K>);

    impl<'de, K: Deserialize<'de> + Ord + Display> Visitor<'de> for OnceEach<K> {
        type Value = BTreeMap<K, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("names by key")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, name)) = entries.next_entry::<K, String>()? {
                if map.contains_key(&key) {
                    return Err(A::Error::custom(format!("the key `{}` is there twice", key.to_string().escape_debug())));
                }
                map.insert(key, name);
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(OnceEach(PhantomData))
}

/// Bytes of a `camflow.json`; ImageNet's 21,841 classes take 1 MB.
const MAX_BYTES: usize = 16 << 20;

/// Bytes of a name: class, layer, output.
const MAX_NAME_BYTES: usize = 1000;

/// Numbers in the input that a model was exported with: 1 GiB of them.
const MAX_EXAMPLE_ELEMENTS: i64 = 1 << 28;

/// Tokens or pixels along a side.
const MAX_SIDE: i64 = 1 << 20;

impl ModelMetadata {
    /// Reads what an archive says of itself. It comes from wherever the file comes from: numbers may be anything, and names may
    /// hold what forges a line of a message.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("it has {} bytes; at most {MAX_BYTES} are read", text.len()));
        }
        let metadata: ModelMetadata = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if metadata.camflow != FORMAT {
            return Err(format!("it has format {}, this camflow knows {FORMAT}", metadata.camflow));
        }
        metadata.check_names()?;
        let example = &metadata.input.example;
        let elements = example.iter().try_fold(1_i64, |product, side| product.checked_mul(*side).filter(|_| *side > 0));
        if elements.is_none_or(|elements| elements > MAX_EXAMPLE_ELEMENTS) {
            return Err(format!("the example input {example:?} is not a batch of images"));
        }
        if let Some(DetectionInfo { threshold, .. }) = metadata.detections
            && !(0.0..=1.0).contains(&threshold)
        {
            return Err(format!("its `threshold` of detections is {threshold}, which is no probability"));
        }
        if let Some(iou) = metadata.detections.as_ref().and_then(|detections| detections.suppression?.iou)
            && !(0.0..=1.0).contains(&iou)
        {
            return Err(format!("its detections give way to each other from an overlap of {iou} on, which is none"));
        }
        if let Some(texts) = &metadata.texts {
            texts.check()?;
        }
        let of_layers = metadata.layers.iter().filter_map(|layer| layer.tokens.as_ref());
        of_layers.chain(&metadata.tokens).try_for_each(TokenInfo::check)?;
        metadata.layers.iter().try_for_each(|layer| metadata.check_order(layer))?;
        Ok(metadata)
    }

    fn check_names(&self) -> Result<(), String> {
        let classes = self.classes.values().map(|name| ("class", name));
        let outputs = self.outputs.iter().flatten().map(|name| ("output", name));
        let aliases = self.aliases.iter().flat_map(|(alias, path)| [("layer number", alias), ("layer", path)]);
        let layers = self.layers.iter().flat_map(|layer| [("layer", &layer.path), ("layer type", &layer.module_type)]);
        let layers = layers.chain(self.default_layers.iter().map(|layer| ("layer", layer)));
        let reason = self.default_because.iter().map(|because| ("reason", because));
        let layers = layers.chain(reason);
        for (what, name) in [("model", &self.name)].into_iter().chain(classes).chain(outputs).chain(aliases).chain(layers) {
            if name.len() > MAX_NAME_BYTES {
                return Err(format!("the name of a {what} has {} bytes; at most {MAX_NAME_BYTES} are read", name.len()));
            }
            if let Some(unseen) = name.chars().find(|c| is_unseen(*c)) {
                return Err(format!("the name of a {what} holds the character {:?}, which nobody can see", unseen.to_string()));
            }
        }
        Ok(())
    }

    /// Refuses a layer in windows whose order is not that of its grid.
    fn check_order(&self, layer: &LayerInfo) -> Result<(), String> {
        if layer.layout != Layout::Windows {
            return Ok(());
        }
        let order = layer.windows.and_then(|windows| self.orders.get(windows.order).filter(|_| windows.per_image > 0));
        let places = layer.tokens.as_ref().filter(|tokens| tokens.prefix == 0).map(|tokens| tokens.grid[0] * tokens.grid[1]);
        let is_order = |order: &[i64]| {
            let distinct: HashSet<i64> = order.iter().copied().collect();
            distinct.len() == order.len() && order.iter().all(|place| *place >= 0) && places == i64::try_from(order.len()).ok()
        };
        if order.is_some_and(|order| is_order(order)) {
            return Ok(());
        }
        Err(format!("layer `{}` is in windows, and the order of its tokens is not one of its grid", layer.path))
    }

    /// Whether each image has to be run by itself, as others in its batch would change what the model makes of it.
    pub fn is_one_by_one(&self) -> bool {
        self.independent_of_batch == Some(false)
    }

    /// What is known of the default mode.
    pub fn default_mode(&self) -> DefaultMode {
        DefaultMode::of(self.default_mode.as_deref())
    }

    /// Whether nobody said how images are preprocessed, so that the steps are made up.
    pub fn is_preprocess_assumed(&self) -> bool {
        self.assumed.as_ref().is_some_and(|assumed| assumed.iter().any(|key| key == "preprocess"))
    }

    /// How many channels the model's images have; `None` where its input is not a batch of images.
    pub fn image_channels(&self) -> Option<i64> {
        match self.input.example[..] {
            [_, channels, _, _] => Some(channels),
            _ => None,
        }
    }

    /// Channel of the primary output for what is none of the classes, if it has one.
    pub fn background(&self) -> Option<i64> {
        self.classes.iter().find(|(_, name)| name.as_str() == "background").map(|(index, _)| *index)
    }
}

/// What a detector gives: class logits `[N, K, Q, 1]` as its primary output, and the box of each of its Q predictions.
#[derive(Clone, Debug, Deserialize)]
pub struct DetectionInfo {
    /// The key of the output `[N, Q, 4]`: left, top, right and bottom in fractions of the model's input.
    pub boxes: String,
    /// How its logits become probabilities.
    pub scores: DetectionScores,
    /// The probability from which a prediction is a detection.
    pub threshold: f64,
    /// Which detections the model's own library leaves out; `None` where an earlier exporter did not say.
    #[serde(default)]
    pub suppression: Option<Suppression>,
    /// Whether predictions come in the order of their scores: one place is another object as soon as the image changes.
    #[serde(default)]
    pub ranked: bool,
}

/// Which of a detector's detections are left out, as its own library does it.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Suppression {
    /// The overlap (intersection over union) above which a detection gives way to a likelier one of its class; `None`: none does.
    pub iou: Option<f64>,
    /// How many detections an image has at most, the likeliest ones; `None`: any number.
    pub most: Option<usize>,
}

/// How texts are laid beside the embeddings of an image tower: a score is the cosine of the two embeddings times `scale`, plus `bias`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TextInfo {
    /// Where the exporter took the model from, and takes its text tower.
    pub source: String,
    /// What the tower is called in the cache of embeddings: digits and letters.
    pub key: String,
    /// What the cosine is multiplied by.
    pub scale: f64,
    /// What is added to it.
    #[serde(default)]
    pub bias: f64,
    /// How scores become probabilities.
    pub scores: TextConfidence,
    /// What makes a text of a class where nobody says otherwise; `{}` stands for the class.
    pub prompt: String,
}

/// How the scores of texts become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextConfidence {
    /// Each text by itself, as SigLIP is trained.
    Sigmoid,
    /// All texts together, as CLIP is trained.
    Softmax,
}

impl TextInfo {
    fn check(&self) -> Result<(), String> {
        const MAX_KEY_BYTES: usize = 64;
        if !(1..=MAX_KEY_BYTES).contains(&self.key.len()) || !self.key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err("the `key` of its texts is no name of digits and letters".to_owned());
        }
        if !(self.scale.is_finite() && self.scale > 0.0 && self.bias.is_finite()) {
            return Err(format!(
                "scores of its texts are scaled by {} and shifted by {}, which is no score",
                self.scale, self.bias
            ));
        }
        for (what, text) in [("source", &self.source), ("prompt", &self.prompt)] {
            if text.len() > MAX_NAME_BYTES || text.chars().any(is_unseen) {
                return Err(format!("the {what} of its texts is too long, or holds a character that nobody can see"));
            }
        }
        Ok(())
    }
}

/// How a detector's logits become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetectionScores {
    /// Each class by itself.
    Sigmoid,
    /// The classes of a prediction together, with one for what is none.
    Softmax,
}

/// What a detector's logits mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detections {
    /// How they become probabilities.
    pub scores: DetectionScores,
    /// The probability from which a prediction is a detection.
    pub threshold: f64,
    /// Which of them are left out.
    pub suppression: Option<Suppression>,
}

/// The classes of an output of one channel, a sigmoid's: its logit is above 0 where the positive one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneChannel {
    /// The number of the class that the channel itself is the score of.
    pub positive: i64,
    /// The number of the other one, whose score is the negated one; `None` where it has no name.
    pub negative: Option<i64>,
}

impl OneChannel {
    /// Of two names the first is the negative one, as in labels of 0 and 1.
    pub fn of(classes: &BTreeMap<i64, String>) -> Self {
        match classes.keys().copied().collect::<Vec<_>>()[..] {
            [positive] => OneChannel { positive, negative: None },
            [negative, positive] => OneChannel { positive, negative: Some(negative) },
            _ => OneChannel { positive: 0, negative: None },
        }
    }
}

/// What a model's primary output means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Logits `[N, K, H, W]`; of one class also `[N, H, W]`.
    Segmentation,
    /// Logits `[N, K]`; of one class also `[N]`.
    Classification,
    /// Numbers that are no scores of classes, `[N, K]` or `[N, K, H, W]`; of one also `[N]` or `[N, H, W]`.
    Regression,
    /// What images are compared by, `[N, D]`.
    Embedding,
    /// Class logits and boxes of predictions; see [`DetectionInfo`].
    Detection,
    /// Anything else.
    #[default]
    #[serde(other)]
    Other,
}

impl Task {
    /// Whether the output's channels are, or may be, those of classes.
    pub fn has_classes(self) -> bool {
        matches!(self, Task::Segmentation | Task::Classification | Task::Other)
    }
}

impl Layout {
    /// Its name in `camflow.json`.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Nchw => "nchw",
            Layout::Nhwc => "nhwc",
            Layout::Tokens => "tokens",
            Layout::TokensFirst => "tokens_first",
            Layout::Windows => "windows",
        }
    }

    /// Whether its places are tokens.
    pub(super) fn has_tokens(self) -> bool {
        matches!(self, Layout::Tokens | Layout::TokensFirst | Layout::Windows)
    }

    /// Which of an activation's dimensions holds the channels.
    pub(crate) fn channel_dim(self, num_dims: usize) -> usize {
        match self {
            Layout::Nchw => 1,
            _ => num_dims - 1,
        }
    }

    /// Which dimension holds the images of a batch.
    pub(crate) fn batch_dim(self) -> i64 {
        if self == Layout::TokensFirst { 1 } else { 0 }
    }
}

/// What the input may be.
#[derive(Clone, Debug, Deserialize)]
pub struct InputInfo {
    /// `[N, C, H, W]` that the model was exported with.
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
    /// In which order its tokens are, where that is not row by row.
    #[serde(default)]
    pub windows: Option<WindowInfo>,
}

/// Tokens in windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct WindowInfo {
    /// How many rows of the activation are of one image.
    pub per_image: i64,
    /// Which one of [`ModelMetadata::orders`] it is.
    pub order: usize,
}

impl LayerInfo {
    /// Places of one image's activation at the example input, if they are known.
    pub fn num_places(&self) -> Option<u64> {
        if self.layout == Layout::Windows {
            return self.tokens.as_ref()?.grid.iter().map(|side| u64::try_from(*side).ok()).product();
        }
        let batch = usize::try_from(self.layout.batch_dim()).ok()?;
        let channels = self.layout.channel_dim(self.shape.len().max(1));
        let places = self.shape.iter().enumerate().filter(|(dim, _)| *dim != batch && *dim != channels);
        let places = places.map(|(_, side)| u64::try_from(*side).ok()).collect::<Option<Vec<u64>>>()?;
        (!places.is_empty()).then(|| places.iter().product())
    }
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
    /// `[T, N, C]`, as `nn.MultiheadAttention` has it without `batch_first`
    #[serde(rename = "tokens_first")]
    TokensFirst,
    /// `[N W, T, C]` or `[N W, H, W, C]`: tokens in another order than that of rows, such as those of the `W` windows of each image
    Windows,
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
    fn check(&self) -> Result<(), String> {
        let strides = self.stride.iter().flatten().all(|step| (0..=MAX_SIDE).contains(step));
        let sides = self.grid.iter().all(|side| (1..=MAX_SIDE).contains(side));
        let fits = strides && sides && (0..=MAX_SIDE).contains(&self.prefix);
        if fits { Ok(()) } else { Err(format!("a grid of tokens {:?} with {} before it is none", self.grid, self.prefix)) }
    }

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
    use super::{ModelMetadata, TokenInfo};

    #[test]
    fn what_no_exporter_writes_is_refused_with_a_reason() {
        let good = r#"{"camflow": 1, "name": "m", "input": {"example": [1, 3, 8, 8], "dynamic": "bhw"}, "preprocess": [],
                       "classes": {"0": "a", "1": "b"}, "aliases": {"1": "body"}, "tokens": {"grid": [2, 2]},
                       "texts": {"source": "hf:m", "key": "0a1b", "scale": 100.0, "scores": "softmax", "prompt": "{}"}}"#;
        assert_eq!(ModelMetadata::parse(good).expect("metadata").classes.len(), 2);
        for (from, to, reason) in [
            (r#""name": "m","#, "", "missing field `name`"),
            (r#""name": "m""#, r#""name": 3"#, "invalid type: integer"),
            (r#""name": "m""#, r#""name": "m\nerror: done""#, "the name of a model holds the character"),
            (r#""name": "m""#, r#""name": "m", "name": "n""#, "duplicate field"),
            (r#""camflow": 1"#, r#""camflow": 2"#, "format 2"),
            (r#""camflow": 1"#, r#""camflow": 1e400"#, "number out of range"),
            (r#""1": "b""#, r#""0": "b""#, "the key `0` is there twice"),
            (r#""1": "body""#, r#""1": "body", "1": "head""#, "the key `1` is there twice"),
            (r#""0": "a""#, r#""zero": "a""#, "invalid"),
            (r#""0": "a""#, r#""0": "\u202eevil""#, "the name of a class holds the character"),
            ("[1, 3, 8, 8]", "[1, 3, 9223372036854775807, 8]", "not a batch of images"),
            ("[1, 3, 8, 8]", "[1, 3, -8, 8]", "not a batch of images"),
            ("[1, 3, 8, 8]", "[1, 3, NaN, 8]", "expected value"),
            ("[2, 2]", "[9223372036854775807, 2]", "is none"),
            (r#"{"grid": [2, 2]}"#, r#"{"grid": [2, 2], "stride": [9223372036854775807, 1]}"#, "is none"),
            (r#""key": "0a1b""#, r#""key": "../models""#, "no name of digits and letters"),
            (r#""scale": 100.0"#, r#""scale": -1.0"#, "which is no score"),
            (r#""prompt": "{}""#, r#""prompt": "\u001b{}""#, "a character that nobody can see"),
            (r#""preprocess": []"#, &format!(r#""preprocess": [{{"op": {}"#, "[".repeat(100_000)), "expected"),
        ] {
            assert!(good.contains(from), "{from}");
            let error = ModelMetadata::parse(&good.replacen(from, to, 1)).expect_err(reason);
            assert!(error.contains(reason), "{from}: {error}");
        }
        let long = good.replacen(r#""name": "m""#, &format!(r#""name": "{}""#, "m".repeat(17 << 20)), 1);
        assert!(ModelMetadata::parse(&long).expect_err("too long").contains("at most"));
    }

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
