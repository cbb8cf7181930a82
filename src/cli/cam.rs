//! The flags that `annotate` and `explain` share. What they mean is said where the engine has the keys of a job.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::Arg;

use super::{choice, positive};
use crate::{
    engine::{CamSpec, DeviceSpec, LayerFusion, OverlapRatio, SliceSpec, key},
    explain::{Baseline, HeatmapSize, Method, Sampling, ScoreKind},
    job::NameList,
    program::Precision,
};

/// Flags of methods that ask the model about other images.
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(mut_args = as_key)]
pub(super) struct SamplingArgs {
    #[arg(long, value_parser = positive)]
    cam_samples: Option<NonZeroUsize>,
    #[arg(long, value_parser = choice::<Baseline>())]
    cam_baseline: Baseline,
    #[arg(long, value_parser = positive)]
    cam_window: Option<NonZeroUsize>,
}

impl From<SamplingArgs> for Sampling {
    fn from(args: SamplingArgs) -> Self {
        Sampling { samples: args.cam_samples, baseline: args.cam_baseline, window: args.cam_window }
    }
}

/// Flags about the model and what to compute with it.
#[derive(Debug, clap::Args)]
#[command(mut_args = as_key)]
pub(super) struct CamArgs {
    #[arg(long)]
    pub class: Vec<String>,
    #[arg(long)]
    text: Vec<String>,
    #[arg(long)]
    text_template: Option<String>,
    #[arg(long)]
    layers: Vec<String>,
    #[arg(long)]
    model: String,
    #[arg(long, value_delimiter = ',', value_parser = choice::<Method>())]
    method: Vec<Method>,
    #[arg(long)]
    fuse_layers: bool,
    #[arg(long, value_parser = choice::<LayerFusion>())]
    fusion: LayerFusion,
    #[arg(long)]
    eigen_smooth: bool,
    #[arg(long)]
    aug_smooth: bool,
    #[arg(long)]
    sess: bool,
    #[arg(long, value_parser = positive)]
    cam_batch_size: NonZeroUsize,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[arg(long, value_parser = choice::<ScoreKind>())]
    score: ScoreKind,
    #[arg(long, value_parser = choice::<HeatmapSize>())]
    size: HeatmapSize,
    #[arg(long, value_parser = positive)]
    slice_height: Option<NonZeroUsize>,
    #[arg(long, value_parser = positive)]
    slice_width: Option<NonZeroUsize>,
    #[arg(long)]
    overlap_height_ratio: OverlapRatio,
    #[arg(long)]
    overlap_width_ratio: OverlapRatio,
    #[arg(long, value_delimiter = ',')]
    device: Vec<String>,
    #[arg(long, value_parser = choice::<Precision>())]
    precision: Precision,
    #[arg(long)]
    exact: bool,
    #[arg(long, conflicts_with = "exact")]
    fast: bool,
    #[arg(long, env = "CAMFLOW_PYTHON")]
    python: Option<PathBuf>,
}

impl CamArgs {
    /// What is asked of the model.
    pub(super) fn into_spec(self) -> CamSpec {
        let CamArgs {
            class,
            text,
            text_template,
            layers,
            model,
            method,
            fuse_layers,
            fusion,
            eigen_smooth,
            aug_smooth,
            sess,
            cam_batch_size,
            sampling,
            score,
            size,
            slice_height,
            slice_width,
            overlap_height_ratio,
            overlap_width_ratio,
            device,
            precision,
            exact,
            fast,
            python,
        } = self;
        CamSpec {
            class: NameList::from_texts(class),
            text,
            text_template,
            layers: NameList::from_texts(layers),
            model,
            methods: method,
            fuse_layers,
            fusion,
            eigen_smooth,
            aug_smooth,
            sess,
            cam_batch_size,
            sampling: sampling.into(),
            score,
            size,
            slices: SliceSpec {
                height: slice_height,
                width: slice_width,
                overlap_height: overlap_height_ratio,
                overlap_width: overlap_width_ratio,
            },
            device: DeviceSpec { devices: device, precision, exact, fast },
            python,
        }
    }
}

/// A flag with the documentation, the default and the name of the value that the key of a job has.
pub(super) fn as_key(arg: Arg) -> Arg {
    let Some(key) = arg.get_long().and_then(key) else { return arg };
    let arg = arg.help(key.doc.as_str());
    let arg = if key.value.is_empty() { arg } else { arg.value_name(key.value.as_str()) };
    match key.default.as_deref() {
        Some(default) if !key.value.is_empty() => arg.required(false).default_value(default),
        _ => arg,
    }
}
