//! Exported models: a `torch.export` archive (`.pt2`) becomes a checked [`Program`], and a [`Plan`] runs it on a device.
//!
//! The phases, one file each: `archive` (bytes), `schema` (JSON), `build` (to a checked `graph`), `passes` (what may be left out
//! or folded), `compile` (to a `plan`, made ready for a device), `exec` (run). Everything that can be wrong with a file is found by [`Program::open`] and
//! [`Program::resolve_layers`], before any sample.

mod archive;
mod attention;
mod biases;
mod build;
mod compile;
mod concatenation;
mod counts;
mod cuda;
mod device;
mod dispatch;
mod exec;
mod file_kind;
mod fusion;
#[cfg(test)]
mod fuzz_operators;
mod graph;
mod guard;
mod guided;
mod influence;
mod layers;
mod local;
mod measured;
mod memory;
mod metadata;
mod normalization;
mod operators;
mod passes;
mod patches;
mod plan;
mod randomise;
mod resume;
mod schema;
mod settings;
mod similarity;
mod suffix;
mod symbolic;
mod transfer;
mod untrusted;
mod upsampling;
mod value;
mod wide;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use tch::{Device, Tensor};

pub use attention::{Attending, AttentionBlock, Readout};
pub use biases::Bias;
pub use counts::{Counts, Passes, counted};
pub use cuda::{CudaStatus, cuda_status, libtorch_folder};
pub use device::{fault_of, find_device, share_cores};
pub use dispatch::DispatchError;
pub use exec::{ExecError, Execution, from_tch};
pub(crate) use fusion::fuse_levels;
pub use graph::ValueId;
pub use influence::{Influence, Influences, gradients};
pub use layers::{Layer, Windows, split_layers};
pub use measured::{DefaultMode, Deviation, FromFloat64};
pub use memory::{free_bytes, keep_freed_memory, peak_bytes};
pub use metadata::{
    DetectionInfo, DetectionScores, Detections, Dynamic, InputInfo, LayerInfo, Layout, ModelMetadata, OneChannel, Rounding,
    Suppression, Task, TextConfidence, TextInfo, TokenInfo,
};
pub use patches::Area;
pub(crate) use patches::Patch;
pub use plan::{Demand, Plan, PlanOptions, Precision, Tap, device_name};
pub use randomise::WeightedModule;
pub(crate) use settings::MathAttention;
pub use settings::{allow_tf32, silence_warnings};
pub use similarity::{References, TextScores};
pub use transfer::to_host;
pub(crate) use transfer::{HostCopy, Uploader, send};
#[doc(hidden)]
pub use untrusted::{read_archive, read_graph};

use archive::{Archive, StoredTensor};
use camflow_diagnostic::{Class, Diagnose, Diagnostic};
use camflow_media::shown;
use camflow_names::word;
use graph::{Binding, Graph};
use randomise::Replaced;

/// Something is wrong with a model file, or with what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The file cannot be read.
    #[error("cannot read model `{}`: {source}", shown(path))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Somebody wrote it meanwhile: what was read may belong to no version of it.
    #[error("model `{}` changed while it was read", shown(path))]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The bytes are not a complete archive.
    #[error("`{}` is not a camflow model: {what}", shown(path))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The file is something else that people have models in.
    #[error("`{}` is not a camflow model: it is {what}", shown(path))]
    OtherKind {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
        /// What to do with it.
        hint: &'static str,
    },
    /// A program of `torch.export.save` alone.
    #[error(
        "`{}` is not a camflow model: it is a plain torch.export archive, which does not say how images are prepared",
        shown(path)
    )]
    PlainExport {
        /// The file.
        path: PathBuf,
    },
    /// Another version of torch wrote it.
    #[error("`{}` was written in another format: {what}", shown(path))]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is different.
        what: String,
    },
    /// The model cannot do what is asked; every reason at once.
    #[error("model `{}` cannot be used:{}", shown(path), listed(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, one text each.
        problems: Vec<String>,
        /// What to do about it.
        hints: Vec<String>,
    },
    /// The device cannot hold the model.
    #[error("model `{}` cannot be loaded to {device}: {reason}", shown(path))]
    Device {
        /// The file.
        path: PathBuf,
        /// The device.
        device: String,
        /// libtorch's reason.
        reason: String,
    },
}

/// Problems that are shown: the first ones are enough to see what is wrong.
const MAX_LISTED: usize = 20;

fn listed(problems: &[String]) -> String {
    if let [problem] = problems {
        return format!(" {problem}");
    }
    let mut lines: Vec<String> = problems.iter().take(MAX_LISTED).map(|problem| format!("\n  {problem}")).collect();
    if problems.len() > MAX_LISTED {
        lines.push(format!("\n  ... and {} more", problems.len() - MAX_LISTED));
    }
    lines.concat()
}

impl Diagnose for ProgramError {
    fn diagnose(&self) -> Diagnostic {
        let hints = match self {
            ProgramError::Unreadable { .. } => {
                vec!["see that this user may read the file and its folder, and that the disk is mounted and sound".to_owned()]
            }
            ProgramError::Changed { .. } => vec!["run the same command again when it is complete".to_owned()],
            ProgramError::Malformed { .. } => vec!["`camflow export` writes models".to_owned()],
            ProgramError::OtherKind { hint, .. } => vec![(*hint).to_owned()],
            ProgramError::PlainExport { path } => vec![format!("`camflow export {}` makes one of it", word(path))],
            ProgramError::Foreign { .. } => {
                vec!["export the model again with the torch version that `camflow doctor` names".to_owned()]
            }
            ProgramError::Invalid { hints, .. } => hints.clone(),
            ProgramError::Device { .. } => vec!["free memory there, or choose another device with `--device`".to_owned()],
        };
        let class = match self {
            ProgramError::Device { .. } => Class::Unavailable,
            ProgramError::Unreadable { .. }
            | ProgramError::Changed { .. }
            | ProgramError::Malformed { .. }
            | ProgramError::OtherKind { .. }
            | ProgramError::PlainExport { .. }
            | ProgramError::Foreign { .. }
            | ProgramError::Invalid { .. } => Class::Invalid,
        };
        Diagnostic { hints, ..Diagnostic::new(class, self.to_string()) }
    }
}

/// A model, read and checked.
#[derive(Debug)]
pub struct Program {
    archive: Archive,
    graph: Graph,
    stored: HashMap<ValueId, StoredTensor>,
    /// Weights in the place of those that are stored.
    replaced: HashMap<ValueId, Replaced>,
    /// What an image tower's embeddings are scored against.
    texts: Option<TextScores>,
    /// Where attention is computed.
    attentions: passes::Attentions,
    /// What a trial run told of it.
    attention_trial: OnceLock<Result<attention::Trial, String>>,
    /// What the exporter knows of the model.
    pub metadata: ModelMetadata,
}

impl Program {
    /// Reads a model and checks everything about it.
    ///
    /// # Errors
    /// See [`ProgramError`]; an [`ProgramError::Invalid`] lists all problems at once.
    pub fn open(path: &Path) -> Result<Program, ProgramError> {
        Self::of_archive(Archive::open(path)?)
    }

    fn of_archive(archive: Archive) -> Result<Program, ProgramError> {
        let invalid = |problems, hint: Option<String>| ProgramError::Invalid {
            path: archive.path().to_owned(),
            problems,
            hints: hint.into_iter().collect(),
        };
        let metadata = read_metadata(&archive)?;
        let mut graph = build::graph(&archive.program()?).map_err(|refused| invalid(refused.problems, refused.hint))?;
        let (mut weights, mut constants) = (archive.weights(), archive.constants());
        let mut problems = [std::mem::take(&mut weights.problems), std::mem::take(&mut constants.problems)].concat();
        let mut stored = HashMap::new();
        for (id, binding) in &graph.bindings {
            let (folder, name) = match binding {
                Binding::Weight(name) => (&mut weights, name),
                Binding::Constant(name) => (&mut constants, name),
            };
            match folder.found.remove(name) {
                Some(tensor) => drop(stored.insert(*id, tensor)),
                // One that is there but unusable is among the problems already.
                None if folder.unusable.contains(name) => {}
                None => problems.push(format!("weight `{name}` is missing")),
            }
        }
        problems.extend(compile::check(&graph));
        if graph.inputs.len() != 1 {
            problems.push(format!(
                "it takes {} tensors; camflow feeds one image tensor, wrap the model at export",
                graph.inputs.len()
            ));
        }
        if !matches!(graph.outputs.get(metadata.primary_output), Some(Some(_))) {
            problems.push(format!("its output {} is not a tensor", metadata.primary_output));
        }
        if !problems.is_empty() {
            return Err(invalid(problems, None));
        }
        let attentions = passes::attentions(&mut graph);
        Ok(Program {
            archive,
            graph,
            stored,
            replaced: HashMap::new(),
            texts: None,
            attentions,
            attention_trial: OnceLock::new(),
            metadata,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.archive.path()
    }

    /// Version of torch that wrote the file.
    pub fn torch_version(&self) -> &str {
        &self.archive.torch_version
    }

    /// Digest of the whole file: part of every heatmap's fingerprint.
    pub fn digest(&self) -> String {
        self.archive.digest().to_hex()[..32].to_owned()
    }

    /// The value of the output that is explained.
    pub fn primary_output(&self) -> ValueId {
        self.graph.outputs[self.metadata.primary_output].expect("checked when the model was opened")
    }

    /// What its predictions mean, and the value of their boxes `[N, Q, 4]`, if it is a detector.
    pub fn detections(&self) -> Option<(Detections, ValueId)> {
        let info = self.metadata.detections.as_ref().filter(|_| self.metadata.task == Task::Detection)?;
        let index = self.metadata.outputs.iter().position(|key| key.as_ref() == Some(&info.boxes))?;
        let boxes = self.graph.outputs.get(index).copied().flatten()?;
        let DetectionInfo { scores, threshold, suppression, .. } = *info;
        Some((Detections { scores, threshold, suppression }, boxes))
    }

    /// How many channels the output has that is explained; `None` where the exporter did not see it.
    pub fn num_channels(&self) -> Option<i64> {
        match &self.texts {
            Some(texts) => i64::try_from(texts.names.len()).ok(),
            None if self.lacks_channels() => Some(1),
            None => self.output_sizes()?.get(1).copied().flatten(),
        }
    }

    /// Of an output with one channel, the classes that it stands for.
    pub fn one_channel(&self) -> Option<OneChannel> {
        // One text is scored in every image, whatever a sigmoid says of it.
        (self.texts.is_none() && self.num_channels() == Some(1) && self.metadata.task.has_classes())
            .then(|| OneChannel::of(&self.metadata.classes))
    }

    /// How many dimensions the output has that is explained, those that the model leaves out included; `None` where the exporter did
    /// not see it.
    pub fn num_dimensions(&self) -> Option<usize> {
        let seen = self.output_sizes()?.len();
        Some(if self.lacks_channels() { seen.max(1) + 1 } else { seen })
    }

    fn output_sizes(&self) -> Option<&[Option<i64>]> {
        self.graph.output_sizes.get(self.metadata.primary_output)?.as_deref()
    }

    /// Whether the output is one number for each image, or for each of its pixels, without a dimension of channels.
    fn lacks_channels(&self) -> bool {
        let dimensions = self.output_sizes().map(<[_]>::len);
        let has_map = matches!(self.metadata.task, Task::Segmentation | Task::Regression);
        matches!(dimensions, Some(0 | 1)) || dimensions == Some(3) && has_map
    }

    /// Whether the output ends in a sigmoid, of which at most the shape or the resolution is changed.
    pub fn ends_in_sigmoid(&self) -> bool {
        const RESHAPING: [&str; 12] = [
            "squeeze",
            "squeeze_",
            "unsqueeze",
            "flatten",
            "view",
            "reshape",
            "select",
            "slice",
            "clone",
            "contiguous",
            "upsample_bilinear2d",
            "upsample_nearest2d",
        ];
        let mut value = self.primary_output();
        loop {
            let Some(node) = self.graph.nodes.iter().find(|node| node.defines().any(|defined| defined == value)) else {
                return false;
            };
            match node.operator() {
                "sigmoid" | "sigmoid_" | "hardsigmoid" | "hardsigmoid_" => return true,
                operator if RESHAPING.contains(&operator) => match node.first_value() {
                    Some(first) if first != value => value = first,
                    _ => return false,
                },
                _ => return false,
            }
        }
    }

    /// Nodes, weights and modules, for `camflow inspect`.
    pub fn num_nodes(&self) -> usize {
        self.graph.nodes.len()
    }

    /// Every module path that has a value, with the number of its calls.
    pub fn modules(&self) -> BTreeMap<&str, usize> {
        self.graph.modules.iter().map(|(path, calls)| (path.as_str(), calls.len())).collect()
    }

    /// The value of the image tensor.
    pub fn input(&self) -> ValueId {
        self.graph.inputs[0]
    }

    /// A weight or constant, on the CPU: as it is stored, or what took its place.
    fn constant(&self, id: ValueId) -> Option<Tensor> {
        let stored = self.stored.get(&id)?;
        match self.replaced.get(&id) {
            Some(replaced) => replaced.tensor(stored).ok(),
            None => self.archive.tensor(stored).ok(),
        }
    }

    fn invalid(&self, problems: Vec<String>, hints: Vec<String>) -> ProgramError {
        ProgramError::Invalid { path: self.path().to_owned(), problems, hints }
    }

    pub(crate) fn device_error(&self, device: Device, error: &tch::TchError) -> ProgramError {
        self.refused(device, from_tch(error))
    }

    fn refused(&self, device: Device, error: DispatchError) -> ProgramError {
        ProgramError::Device { path: self.path().to_owned(), device: device_name(device), reason: error.message }
    }
}

fn read_metadata(archive: &Archive) -> Result<ModelMetadata, ProgramError> {
    let malformed = |what: String| ProgramError::Malformed { path: archive.path().to_owned(), what };
    let text = archive.extra("camflow.json")?.ok_or_else(|| ProgramError::PlainExport { path: archive.path().to_owned() })?;
    ModelMetadata::parse(text).map_err(|error| malformed(format!("its `camflow.json`: {error}")))
}
