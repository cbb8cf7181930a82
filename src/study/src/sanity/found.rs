//! What the checks of a model came to, map by map.

use std::path::PathBuf;

use super::check::Check;
use camflow_measure::{discrete_entropy, pearson, spearman, ssim};

/// How alike two maps are; see [`camflow_measure`]. What is not defined is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Similarity {
    /// Spearman's rank correlation.
    pub spearman: Option<f64>,
    /// Pearson's correlation.
    pub pearson: Option<f64>,
    /// Structural similarity.
    pub ssim: Option<f64>,
}

impl Similarity {
    /// Of two maps of `height` x `width`.
    pub fn of(map: &[f32], other: &[f32], size: (usize, usize)) -> Self {
        Similarity { spearman: spearman(map, other), pearson: pearson(map, other), ssim: ssim(map, other, size) }
    }
}

/// A map after something was changed, beside the one from before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compared {
    /// How alike both are.
    pub similarity: Similarity,
    /// Whether the changed map is the same everywhere, so that no correlation is defined.
    pub is_constant: bool,
    /// Why there is no changed map; `None` where there is one.
    pub missing: Option<String>,
    /// The model's confidence in the class then, in `[0, 1]`; `None` where it has none.
    pub confidence: Option<f64>,
    /// Whether the model's own answer is another one then.
    pub is_moved: bool,
}

/// What is checked of one heatmap: of one class of one image, by one method at one layer.
#[derive(Clone, Debug, Default)]
pub struct HeatmapCheck {
    /// Whether it is the same everywhere, so that there is nothing to compare.
    pub is_constant: bool,
    /// With the weights of each step and of all before it randomised.
    pub cascading: Vec<Compared>,
    /// With the weights of each step alone randomised; empty where nobody asked.
    pub independent: Vec<Compared>,
    /// [`discrete_entropy`] of the map, and of that of the model without any learnt weights.
    pub entropies: [Option<f64>; 2],
    /// The map of the mirrored image, mirrored back.
    pub flip: Option<Compared>,
    /// The maps of shifted images, shifted back, where both show the image.
    pub shifts: Vec<Compared>,
    /// How far the map moves under each draw of noise, by its size: [`camflow_measure::relative_change`].
    pub noise: Vec<Option<f64>>,
    /// Of these, those at which the model's own answer is another one.
    pub num_noise_moved: usize,
    /// The largest difference of any value when the same image is explained again.
    pub repeat: Option<f64>,
    /// The same, in a batch with other images.
    pub batch: Option<f64>,
}

impl HeatmapCheck {
    /// Mean of what noise does: the average sensitivity.
    pub fn avg_sensitivity(&self) -> Option<f64> {
        mean(self.noise.iter().copied().flatten()).map(|(mean, _)| mean)
    }

    /// The most that noise does: the maximum sensitivity.
    pub fn max_sensitivity(&self) -> Option<f64> {
        self.noise.iter().copied().flatten().reduce(f64::max)
    }

    /// By how much of itself the entropy rises when all weights are randomised: efficient MPRT.
    pub fn entropy_rise(&self) -> Option<f64> {
        let [Some(before), Some(after)] = self.entropies else { return None };
        (before > 0.0).then(|| (after - before) / before)
    }
}

/// Both entropies of a map.
pub fn entropies(map: &[f32], randomised: Option<&[f32]>) -> [Option<f64>; 2] {
    [discrete_entropy(map), randomised.and_then(discrete_entropy)]
}

/// The mean, and of how many; `None` of nothing.
pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<(f64, usize)> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| (sum / count as f64, count))
}

/// One class of one image.
#[derive(Clone, Debug)]
pub struct CaseCheck {
    /// What files of it are called.
    pub name: String,
    /// The image.
    pub image: PathBuf,
    /// The class that is explained, by the model's name for it, else its channel's number.
    pub class: String,
    /// Its channel.
    pub channel: i64,
    /// The model's confidence in it.
    pub confidence: Option<f64>,
    /// By column.
    pub heatmaps: Vec<HeatmapCheck>,
    /// Spearman's rank correlation of each pair of [`ModelCheck::pairs`].
    pub agreements: Vec<Option<f64>>,
}

/// A method at a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedColumn {
    /// The method's name.
    pub method: String,
    /// What the layer is called.
    pub layer: String,
    /// Its module path.
    pub path: String,
}

/// Modules whose weights are randomised in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RandomisedStep {
    /// Their paths, from the one nearest to the output.
    pub modules: Vec<String>,
    /// How many weights they have.
    pub num_weights: usize,
}

impl RandomisedStep {
    /// In few words: the module where this step ends, and how many there are.
    pub fn label(&self) -> String {
        let last = self.modules.last().map_or("", String::as_str);
        let last = if last.is_empty() { "the model itself" } else { last };
        match self.modules.len() {
            0 | 1 => last.to_owned(),
            count => format!("{last} and {} above", count - 1),
        }
    }
}

/// Two methods at one layer whose maps are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodPair {
    /// By name.
    pub methods: [String; 2],
    /// What the layer is called.
    pub layer: String,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct ModelCheck {
    /// The model's name.
    pub model: String,
    /// What draws follow from.
    pub seed: u64,
    /// By how many pixels images were shifted, to the right and down.
    pub shift: usize,
    /// How far noise moved each number of the model's input at most.
    pub noise: f64,
    /// What is checked.
    pub columns: Vec<CheckedColumn>,
    /// From the output down.
    pub steps: Vec<RandomisedStep>,
    /// What else was compared in agreement.
    pub pairs: Vec<MethodPair>,
    /// Class by class, image by image.
    pub cases: Vec<CaseCheck>,
    /// Images without any class to explain.
    pub num_absent: usize,
    /// Why a check was not made for any image.
    pub reasons: Vec<(Check, String)>,
}

impl ModelCheck {
    /// The checks of one column.
    pub fn heatmaps(&self, column: usize) -> impl Iterator<Item = &HeatmapCheck> {
        self.cases.iter().filter_map(move |case| case.heatmaps.get(column))
    }
}
