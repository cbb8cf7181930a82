//! Where and how the model runs.

use camflow_diagnostic::Diagnostic;
use camflow_names::Choice;
use camflow_torch::program::{DefaultMode, ModelMetadata, PlanOptions, Precision, allow_tf32, find_device, share_cores};

/// What is asked of the device.
#[derive(Clone, Debug)]
pub struct DeviceSpec {
    /// `auto`, `cpu`, `cuda` or `cuda:N`; several share the work.
    pub devices: Vec<String>,
    /// How precisely to compute.
    pub precision: Precision,
    /// Exactly the operators of eager PyTorch.
    pub exact: bool,
    /// The faster operators also for a model whose heatmaps they move too far from float64.
    pub fast: bool,
}

impl DeviceSpec {
    /// How to run on each of the devices, which were checked to be there.
    pub(super) fn resolve(&self) -> Result<Vec<PlanOptions>, Diagnostic> {
        let devices = self.devices.iter().map(|name| find_device(name)).collect::<Result<Vec<_>, _>>()?;
        let precision = self.precision;
        if self.exact && precision != Precision::Fp32 {
            let precision = precision.name();
            return Err(Diagnostic::invalid(format!(
                "`--exact` computes in fp32, so it does not go with `--precision {precision}`"
            ))
            .hint("leave one of them out"));
        }
        if precision == Precision::Tf32 && !devices.iter().all(|device| device.is_cuda()) {
            return Err(Diagnostic::invalid("`--precision tf32` is a mode of NVIDIA GPUs; a CPU has no such thing")
                .hint("use `--precision bf16` or `fp32`"));
        }
        share_cores(&devices);
        allow_tf32(precision == Precision::Tf32);
        Ok(devices.into_iter().map(|device| PlanOptions { device, exact: self.exact, precision }).collect())
    }

    /// Whether this model is run with the operators of eager PyTorch: because that was asked for, or because its default mode
    /// does not keep to its bound.
    pub(super) fn is_exact(&self, metadata: &ModelMetadata) -> bool {
        self.exact || (self.precision == Precision::Fp32 && !self.fast && metadata.default_mode().is_exact())
    }

    /// How to run this model.
    pub(super) fn suited(&self, options: PlanOptions, metadata: &ModelMetadata) -> PlanOptions {
        PlanOptions { exact: self.is_exact(metadata), ..options }
    }

    /// What users may want to know of how this model is run.
    pub(super) fn notice(&self, metadata: &ModelMetadata) -> Option<String> {
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
