//! Exported models on libtorch: [`program`] reads, checks and runs them, [`explain`] turns their gradients into heatmaps. The only
//! crate of camflow that links libtorch.

pub mod explain;
pub mod program;
