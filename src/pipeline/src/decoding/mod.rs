//! From a selected sample to the model's input: whether there is something to do, where the classes are, and the pixels.

mod attention;
mod check;
mod class_map;
mod decode;
mod decoder;
mod find;
mod inputs;
mod masks;
#[cfg(test)]
mod tests;

pub use attention::AttentionOn;
pub(crate) use check::check;
pub(crate) use decode::{count_targets, decode};
pub use decoder::{Decoder, Targets};
pub use masks::{SeenMasks, listed};
