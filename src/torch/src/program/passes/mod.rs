//! Third phase: what the graph allows. Which in-place writes may become functional, which nodes are needed, which depend on a
//! tap, and which batch norms can be folded into the convolution before them.

mod alias;
mod flow;
mod fold;
mod memory;
#[cfg(test)]
mod sketch;
mod taps;
mod weights;

pub(super) use alias::{Aliases, InPlace, aliases};
pub(super) use flow::{carries_data, dependents, needed};
pub(super) use fold::fold_batch_norms;
pub(super) use memory::reuse_memory;
pub(super) use taps::copy_overwritten_taps;
pub(super) use weights::{autocast_weights, convolution_weight};
