//! Gradient times attention of a block: what Grad-SAM (*Explaining Transformers via Gradient Self-Attention Maps*, Barkan et al., CIKM
//! 2021, <https://arxiv.org/abs/2204.11073>) takes of each head, for what the output reads.
//!
//! With the attention `A` (`[heads, T, T]`) of the layer's own block, and `mean` over heads:
//!
//! ```text
//! L[i] = mean (A * (dy/dA)^+)[class token, i]     for the patches i
//! ```
//!
//! Grad-SAM, made for texts, takes the mean over all rows and blocks, too; here the block is the layer's, and the row that of the class
//! token: the last step of Chefer's relevance (`chefer.rs`) without those before it. Where the output takes the mean of all patches, `L` is
//! the mean of their rows; where a query gathers them (SigLIP), its own row.

use tch::{TchError, Tensor};

use super::{
    CamMethod, Reduction,
    attention::{Attention, Backward, Heads, Reader},
};
use crate::explain::ExplainError;

/// Gradient times attention.
pub(super) struct GradAttention;

impl CamMethod for GradAttention {
    type Evidence<'a> = Attention<Backward>;

    fn saliency(&self, evidence: &Attention<Backward>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(saliency(evidence)?)
    }
}

fn saliency(evidence: &Attention<Backward>) -> Result<Tensor, TchError> {
    match &evidence.reader {
        Reader::Query(heads) => evidence.place.of(&heads.relevance()?.f_squeeze_dim(1)?),
        Reader::Leading(_) | Reader::Patches => evidence.last_row(Heads::relevance),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        attention::testing::two_blocks,
        testing::{assert_near, values},
    };
    use super::*;

    #[test]
    fn it_is_the_row_of_the_last_block() {
        let map = GradAttention.saliency(&two_blocks(Reader::Leading(vec![0])), Reduction::Sum).expect("saliency");
        assert_near(&values(&map), &[0.4, 0.3]);
    }
}
