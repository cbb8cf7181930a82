//! What is asked of which model: the flags that `annotate` and `explain` share.

use std::path::PathBuf;

use super::{choice, device::DeviceArgs, model};
use crate::{
    explain::{HeatmapSize, Method},
    job::DEFAULT_MODEL,
    names::Choice,
    program::{Layer, PlanOptions, Program, split_layers},
    report::Reporter,
};

/// Flags about the model and what to compute with it.
#[derive(Debug, clap::Args)]
pub struct CamArgs {
    /// Class to explain, by name or output channel; several with commas, or `all`
    #[arg(long = "class", value_name = "CLASS", value_delimiter = ',')]
    pub classes: Vec<String>,
    /// Target layers: numbers (`1-4`), module paths (`backbone.layer3`), several with commas; `camflow inspect` lists them
    #[arg(long, default_value = "4")]
    layers: String,
    /// A zoo name (exported on first use) or a `.pt2` file
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    /// CAM method
    #[arg(long, default_value = Method::Gradcam.name(), value_parser = choice::<Method>())]
    pub method: Method,
    /// Size of the heatmaps: the model's `input` (as pytorch_grad_cam), the `image`'s, or the `layer`'s own
    #[arg(long, default_value = HeatmapSize::Input.name(), value_parser = choice::<HeatmapSize>())]
    pub size: HeatmapSize,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Python with FiftyOne, for exporting a model (and for `annotate`, to start FiftyOne's database)
    #[arg(long, env = "CAMFLOW_PYTHON", value_name = "PYTHON")]
    pub python: Option<PathBuf>,
}

/// The model with the layers that were asked for, on its device.
pub struct Model {
    pub program: Program,
    pub layers: Vec<Layer>,
    pub plan_options: PlanOptions,
}

impl CamArgs {
    /// Opens the model and finds the layers in it.
    pub fn open(&self, reporter: &Reporter) -> anyhow::Result<Model> {
        let plan_options = self.device.resolve()?;
        let program = model::open(&self.model, self.python.clone(), reporter)?;
        let layers = program.resolve_layers(&split_layers(&self.layers))?;
        anyhow::ensure!(!layers.is_empty(), "`--layers {}` names no layer", self.layers);
        Ok(Model { program, layers, plan_options })
    }
}
