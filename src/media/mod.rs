//! Pictures, masks and arrays: files and bytes to numbers and back. Knows no database and no tensor library.

mod geometry;

pub use geometry::{BinaryMask, FrameRegion, MaskValue};
