//! Devices by the names that users type, and what a process does for several of them.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use super::{CudaStatus, DispatchError, ExecError, Plan, cuda_status, from_tch};
use camflow_diagnostic::Diagnostic;

/// The device that is called so: `auto`, `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// There is no such device, with what there is.
pub fn find_device(name: &str) -> Result<Device, Diagnostic> {
    // Also for the CPU: a later job of the process may ask for a GPU, which is lost where the CPU has had work before this.
    let status = cuda_status();
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(match status {
            CudaStatus::Available(_) => Device::Cuda(0),
            CudaStatus::Unavailable(_) => Device::Cpu,
        }),
        "cuda" => cuda(0, status),
        other => match other.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => cuda(index, status),
            None => Err(Diagnostic::invalid(format!("`{other}` is not a device")).hint("use `auto`, `cpu`, `cuda` or `cuda:N`")),
        },
    }
}

fn cuda(index: usize, status: CudaStatus) -> Result<Device, Diagnostic> {
    match status {
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

/// Why a device computes nothing, if that is so: a kernel is run on it and waited for. After an error that leaves a GPU's context
/// unusable (an illegal access to memory, an assertion on the device, memory that is broken) all that comes after it fails.
/// Without memory for one number it is not known to be so.
pub fn fault_of(device: Device) -> Option<String> {
    let product = Tensor::f_ones([2, 2], (Kind::Float, device)).and_then(|ones| ones.f_matmul(&ones));
    match product.and_then(|product| product.f_double_value(&[0, 0])) {
        Ok(2.0) => None,
        Ok(other) => Some(format!("computes 1 + 1 = {other}")),
        Err(error) => {
            let DispatchError { message, out_of_memory } = from_tch(&error);
            (!out_of_memory).then_some(message)
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
