//! `--device`, `--precision` and `--exact`: where and how the model runs.

use std::sync::OnceLock;

use anyhow::{bail, ensure};
use tch::Device;

use super::choice;
use crate::{
    diagnostic::Diagnostic,
    names::Choice,
    program::{CudaStatus, DefaultMode, ModelMetadata, PlanOptions, Precision, allow_tf32, cuda_status},
};

/// Flags about the device.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// Where to run: `auto` (CUDA where there is one, else CPU), `cpu`, `cuda` or `cuda:N`; several with commas share the work
    #[arg(long = "device", default_value = "auto", value_name = "DEVICE", value_delimiter = ',')]
    devices: Vec<String>,
    /// `fp32`; `bf16` is about twice as fast and deviates (see Speed in the documentation); `tf32` is something between, on GPUs only
    #[arg(long, default_value = Precision::Fp32.name(), value_parser = choice::<Precision>())]
    pub precision: Precision,
    /// Exactly the operators of eager PyTorch (slower); without it sums may differ in the last bit
    #[arg(long)]
    pub exact: bool,
    /// The faster operators also for a model whose heatmaps they move too far from float64; `camflow inspect` says how far
    #[arg(long, conflicts_with = "exact")]
    fast: bool,
}

impl DeviceArgs {
    /// How to run on each of the devices, which were checked to be there.
    pub fn resolve(&self) -> anyhow::Result<Vec<PlanOptions>> {
        let devices = self.devices.iter().map(|name| device(name)).collect::<anyhow::Result<Vec<_>>>()?;
        let precision = self.precision;
        ensure!(
            !self.exact || precision == Precision::Fp32,
            "`--exact` computes in fp32, so it does not go with `--precision {}`\nhint: leave one of them out",
            precision.name()
        );
        ensure!(
            precision != Precision::Tf32 || devices.iter().all(|device| device.is_cuda()),
            "`--precision tf32` is a mode of NVIDIA GPUs; a CPU has no such thing\nhint: use `--precision bf16` or `fp32`"
        );
        share_cores(&devices);
        allow_tf32(precision == Precision::Tf32);
        Ok(devices.into_iter().map(|device| PlanOptions { device, exact: self.exact, precision }).collect())
    }

    /// Whether this model is run with the operators of eager PyTorch: because that was asked for, or because its default mode
    /// does not keep to its bound.
    pub fn is_exact(&self, metadata: &ModelMetadata) -> bool {
        self.exact || (self.precision == Precision::Fp32 && !self.fast && metadata.default_mode().is_exact())
    }

    /// How to run this model.
    pub fn suited(&self, options: PlanOptions, metadata: &ModelMetadata) -> PlanOptions {
        PlanOptions { exact: self.is_exact(metadata), ..options }
    }

    /// What users may want to know of how this model is run.
    pub fn notice(&self, metadata: &ModelMetadata) -> Option<String> {
        let (name, mode) = (&metadata.name, metadata.default_mode());
        let is_default = !self.exact && !self.fast && self.precision == Precision::Fp32;
        match mode {
            _ if !is_default => None,
            DefaultMode::Bounded { .. } => None,
            DefaultMode::Missed(_) | DefaultMode::Unmeasurable => Some(format!("model `{name}` runs {mode}")),
            DefaultMode::Unknown => Some(format!(
                "how far model `{name}` is from float64 was not measured when it was exported; `camflow export` measures it now, and `--exact` runs PyTorch's own operators"
            )),
        }
    }
}

/// Several explainers on the CPU share its cores instead of each taking all of them.
fn share_cores(devices: &[Device]) {
    /// As many as libtorch takes by itself: an earlier job of the process may have had other devices.
    static ALL: OnceLock<i32> = OnceLock::new();
    let all = *ALL.get_or_init(tch::get_num_threads);
    let on_cpu = devices.iter().filter(|device| **device == Device::Cpu).count().max(1);
    let threads = (all / i32::try_from(on_cpu).unwrap_or(i32::MAX)).max(1);
    if threads != tch::get_num_threads() {
        tch::set_num_threads(threads);
    }
}

fn device(name: &str) -> anyhow::Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(match cuda_status() {
            CudaStatus::Available(_) => Device::Cuda(0),
            CudaStatus::Unavailable(_) => Device::Cpu,
        }),
        "cuda" => cuda(0),
        other => match other.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => cuda(index),
            None => bail!("`{other}` is not a device\nhint: use `auto`, `cpu`, `cuda` or `cuda:N`"),
        },
    }
}

fn cuda(index: usize) -> anyhow::Result<Device> {
    match cuda_status() {
        CudaStatus::Available(count) if index < count => Ok(Device::Cuda(index)),
        CudaStatus::Available(count) => bail!("there is no device `cuda:{index}`; this machine has {count}, counted from 0"),
        CudaStatus::Unavailable(reason) => {
            let found = Diagnostic { message: format!("CUDA cannot be used here: {reason}"), ..reason };
            Err(found.hint("`--device cpu` works everywhere").into())
        }
    }
}
