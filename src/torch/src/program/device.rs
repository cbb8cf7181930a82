//! Devices by the names that users type, and what a process does for several of them.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use super::{CudaStatus, ExecError, Plan, cuda_status, from_tch};
use camflow_diagnostic::Diagnostic;

/// The device that is called so: `auto`, `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// There is no such device, with what there is.
pub fn find_device(name: &str) -> Result<Device, Diagnostic> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(match cuda_status() {
            CudaStatus::Available(_) => Device::Cuda(0),
            CudaStatus::Unavailable(_) => Device::Cpu,
        }),
        "cuda" => cuda(0),
        other => match other.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => cuda(index),
            None => Err(Diagnostic::invalid(format!("`{other}` is not a device")).hint("use `auto`, `cpu`, `cuda` or `cuda:N`")),
        },
    }
}

fn cuda(index: usize) -> Result<Device, Diagnostic> {
    match cuda_status() {
        CudaStatus::Available(count) if index < count => Ok(Device::Cuda(index)),
        CudaStatus::Available(count) => {
            Err(Diagnostic::invalid(format!("there is no device `cuda:{index}`; this machine has {count}, counted from 0")))
        }
        CudaStatus::Unavailable(reason) => {
            let found = Diagnostic { message: format!("CUDA cannot be used here: {reason}"), ..reason };
            Err(found.hint("`--device cpu` works everywhere"))
        }
    }
}

/// Several plans on the CPU share its cores instead of each taking all of them.
pub fn share_cores(devices: &[Device]) {
    /// As many as libtorch takes by itself: an earlier job of the process may have had other devices.
    static ALL: OnceLock<i32> = OnceLock::new();
    let all = *ALL.get_or_init(tch::get_num_threads);
    let on_cpu = devices.iter().filter(|device| **device == Device::Cpu).count().max(1);
    let threads = (all / i32::try_from(on_cpu).unwrap_or(i32::MAX)).max(1);
    if threads != tch::get_num_threads() {
        tch::set_num_threads(threads);
    }
}

impl Plan {
    /// Runs the graph on zeros of this shape; the shape of its output.
    ///
    /// # Errors
    /// As [`Plan::run`], or the device gives no memory.
    pub fn output_shape(&self, shape: &[i64]) -> Result<Vec<i64>, ExecError> {
        let zeros = Tensor::f_zeros(shape, (Kind::Float, self.device())).map_err(|error| ExecError {
            node: "input".into(),
            operator: "zeros".into(),
            source: from_tch(&error),
        })?;
        Ok(self.run(&zeros)?.output.size())
    }
}
