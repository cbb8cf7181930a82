//! Third phase: what the graph allows. Which in-place writes may become functional, which nodes are needed, which depend on a
//! tap, which batch norms can be folded into the convolution before them, and where attention is computed.

mod affine;
mod alias;
mod attention;
mod flow;
mod fold;
mod memory;
#[cfg(test)]
mod sketch;
mod taps;
mod weights;

pub(super) use affine::is_affine;
pub(super) use alias::{Aliases, InPlace, aliases};
pub(super) use attention::{AttentionSite, Attentions, Queries, attentions, write_out_attention};
pub(super) use flow::{carries_data, dependents, needed};
pub(super) use fold::fold_batch_norms;
pub(super) use memory::reuse_memory;
pub(super) use taps::copy_overwritten_taps;
pub(super) use weights::{autocast_weights, convolution_weight};
