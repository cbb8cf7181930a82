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

pub use alias::{Aliases, InPlace, aliases};
pub use flow::{carries_data, dependents, needed};
pub use fold::fold_batch_norms;
pub use memory::reuse_memory;
pub use taps::copy_overwritten_taps;
pub use weights::{autocast_weights, convolution_weight};
