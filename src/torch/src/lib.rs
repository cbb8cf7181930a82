//! Exported models on libtorch: [`program`] reads, checks and runs them, [`explain`] turns their gradients into heatmaps. The only
//! crate of camflow that links libtorch.

pub mod explain;
pub mod program;

/// The folder of the libtorch that this was built against, and that is loaded at run time.
pub const LIBTORCH_LIB: &str = env!("CAMFLOW_LIBTORCH_LIB");
