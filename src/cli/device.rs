//! `--device` and `--exact`: where and how the model runs.

use anyhow::bail;
use tch::{Device, Kind};

use crate::program::{CudaStatus, PlanOptions, cuda_status, disable_tf32};

/// Flags about the device.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// Where to run: `auto` (CUDA where there is one, else CPU), `cpu`, `cuda` or `cuda:N`
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: String,
    /// Exactly the operators of eager PyTorch (slower); without it sums may differ in the last bit
    #[arg(long)]
    pub exact: bool,
}

impl DeviceArgs {
    /// The device, checked to be there.
    pub fn resolve(&self) -> anyhow::Result<PlanOptions> {
        let device = match self.device.as_str() {
            "cpu" => Device::Cpu,
            "auto" => match cuda_status() {
                CudaStatus::Available(_) => Device::Cuda(0),
                CudaStatus::Unavailable(_) => Device::Cpu,
            },
            "cuda" => cuda(0)?,
            other => match other.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
                Some(index) => cuda(index)?,
                None => bail!("`{other}` is not a device\nhint: use `auto`, `cpu`, `cuda` or `cuda:N`"),
            },
        };
        if device.is_cuda() {
            disable_tf32();
        }
        Ok(PlanOptions { device, exact: self.exact, kind: Kind::Float })
    }
}

fn cuda(index: usize) -> anyhow::Result<Device> {
    match cuda_status() {
        CudaStatus::Available(count) if index < count => Ok(Device::Cuda(index)),
        CudaStatus::Available(count) => bail!("there is no device `cuda:{index}`; this machine has {count}, counted from 0"),
        CudaStatus::Unavailable(reason) => bail!("CUDA cannot be used here: {reason}\nhint: `--device cpu` works everywhere"),
    }
}
