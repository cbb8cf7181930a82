//! What is asked of which model: the flags that `annotate` and `explain` share.

use std::path::PathBuf;

use clap::ValueHint;

use super::{choice, device::DeviceArgs, model};
use crate::{
    explain::{ExplainOptions, HeatmapSize, Method, Reading, depends_on_batch},
    job::DEFAULT_MODEL,
    media::shown,
    names::{Choice, word},
    program::{Influence, Layer, PlanOptions, Program, Task, split_layers},
    report::Reporter,
};

/// Flags about the model and what to compute with it.
#[derive(Debug, clap::Args)]
pub struct CamArgs {
    /// Class to explain, by name or output channel, or `all`; several by repeating the flag, or with commas. A text with commas that
    /// is the name of one class is taken whole; `\,` is a comma that separates nothing
    #[arg(long = "class", value_name = "CLASS")]
    pub classes: Vec<String>,
    /// Target layers: numbers (`1-4`), module paths (`backbone.layer3`); several by repeating the flag, or with commas;
    /// `camflow inspect` lists them; default: the model's own choice
    #[arg(long, value_name = "LAYERS")]
    layers: Vec<String>,
    /// A zoo name (exported on first use) or a `.pt2` file
    #[arg(long, default_value = DEFAULT_MODEL, value_hint = ValueHint::FilePath)]
    model: String,
    /// CAM method; several, by repeating the flag or with commas, share what they can
    #[arg(long = "method", value_name = "METHOD", value_delimiter = ',', default_value = Method::Gradcam.name(), value_parser = choice::<Method>())]
    pub methods: Vec<Method>,
    /// One map of all layers: the mean of theirs, scaled to [0, 1] again
    #[arg(long)]
    pub fuse_layers: bool,
    /// Smooth by the first principal component of a method's channels instead of their sum
    #[arg(long)]
    pub eigen_smooth: bool,
    /// Smooth by the mean over six variants of the image (mirrored or not, times 0.9, 1 and 1.1); six times the work
    #[arg(long)]
    pub aug_smooth: bool,
    /// How many variants of an image scorecam, ablationcam and `--faithfulness` run at a time; less where memory is short
    #[arg(long, value_name = "N", default_value_t = 32)]
    cam_batch_size: usize,
    /// Size of the heatmaps: the model's `input` (as pytorch_grad_cam), the `image`'s, or the `layer`'s own
    #[arg(long, default_value = HeatmapSize::Input.name(), value_parser = choice::<HeatmapSize>())]
    pub size: HeatmapSize,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Python with FiftyOne, for exporting a model (and for `annotate`, to start FiftyOne's database)
    #[arg(long, env = "CAMFLOW_PYTHON", value_name = "PYTHON", value_hint = ValueHint::ExecutablePath)]
    pub python: Option<PathBuf>,
}

/// The model with the layers that were asked for, and its devices.
pub struct Model {
    pub program: Program,
    pub layers: Vec<Layer>,
    /// At least one.
    pub devices: Vec<PlanOptions>,
}

impl CamArgs {
    /// Whether opening the model means exporting it.
    pub fn needs_export(&self) -> bool {
        model::needs_export(&self.model)
    }

    /// Opens the model and finds the layers in it.
    pub fn open(&self, reporter: &Reporter) -> anyhow::Result<Model> {
        let devices = self.device.resolve()?;
        let mut program = model::open(&self.model, self.python.clone(), reporter)?;
        let needed = self.methods.iter().map(|method| method.needed_influence()).max().unwrap_or(Influence::None);
        let wanted = match &self.layers[..] {
            [_, ..] => split_layers(&self.layers.join(",")),
            [] => {
                let (layers, notice) = program.default_layers(needed);
                notice.iter().for_each(|notice| reporter.notice(notice));
                layers
            }
        };
        let layers = program.resolve_layers(&wanted)?;
        anyhow::ensure!(
            !layers.is_empty(),
            "no layer is named\nhint: name one with `--layers`; `camflow inspect {}` lists them",
            word(program.path())
        );
        anyhow::ensure!(
            program.metadata.task != Task::Segmentation || !self.methods.contains(&Method::Finercam),
            "finercam compares the scores of a classifier's classes; model `{}` gives a map of scores\nhint: use another `--method`",
            shown(program.path())
        );
        program.check_influence(&layers, needed, self.methods.contains(&Method::Fullgrad))?;
        self.device.notice(&program.metadata).iter().for_each(|notice| reporter.notice(notice));
        let devices = devices.into_iter().map(|options| self.device.suited(options, &program.metadata)).collect();
        look_at_batches(&mut program, reporter);
        Ok(Model { program, layers, devices })
    }

    /// What is to be computed with these layers of the model.
    pub fn explain_options(&self, program: &Program, layers: Vec<Layer>) -> ExplainOptions {
        let mut methods: Vec<Method> = Vec::new();
        for &method in &self.methods {
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
        ExplainOptions {
            layers,
            methods,
            fuse_layers: self.fuse_layers,
            eigen_smooth: self.eigen_smooth,
            aug_smooth: self.aug_smooth,
            size: self.size,
            reading: Reading {
                background: program.metadata.background(),
                one_channel: program.one_channel(),
                is_probability: program.ends_in_sigmoid(),
            },
            faithfulness: false,
            one_by_one: program.metadata.is_one_by_one(),
            probe_batch: self.cam_batch_size,
        }
    }
}

/// Finds out whether images may be run together, where the exporter has not, and tells if they may not.
fn look_at_batches(program: &mut Program, reporter: &Reporter) {
    let name = program.metadata.name.clone();
    if program.metadata.independent_of_batch.is_none() {
        // A model that cannot be run on a batch will refuse those of the run, too.
        match depends_on_batch(program, false) {
            Ok(depends) => program.metadata.independent_of_batch = Some(!depends),
            Err(reason) => {
                reporter.notice(&format!("whether model `{name}` mixes the images of a batch could not be found out: {reason}"));
            }
        }
    }
    if program.metadata.is_one_by_one() {
        reporter.notice(&format!(
            "model `{name}` mixes the images of a batch (a batch norm without running statistics does, for one), so images are run one by one whatever `--batch-size` and `--cam-batch-size` say"
        ));
    }
}
