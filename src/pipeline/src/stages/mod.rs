//! The stages, one file each; `run.rs` connects them.

pub(super) mod batch;
pub(super) mod check;
pub(super) mod commit;
pub mod decode;
pub mod encode;
pub(super) mod inputs;
pub mod masks;
