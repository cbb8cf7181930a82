//! Chefer's relevance: *Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers*, Chefer, Gur
//! and Wolf, ICCV 2021, <https://arxiv.org/abs/2103.15679>.
//!
//! Attention rollout in which a head counts as far as the class's score `y` grows with it. With block `b`'s attention `A_b`
//! `[heads, T, T]`, and `mean` over heads:
//!
//! ```text
//! A_b' = mean (dy/dA_b * A_b)^+           (5)
//! R    = I, then R = R + A_b' * R         (6)  block by block
//! L[i] = R[class token, i]                     for the patches i
//! ```
//!
//! The same as the authors' code for ViT and for CLIP's image tower, from the first block on. Where the output takes the mean of all
//! patches, `L` is the mean of their rows; where a query gathers them (SigLIP), `A_q' * R`, their rule for an attention that looks at
//! other tokens than its own. Each class has a map of its own.

use tch::{TchError, Tensor};

use super::{
    CamMethod, Reduction,
    attention::{Attention, Backward, Heads, with_identity},
};
use crate::explain::ExplainError;

/// Chefer's relevance.
pub(super) struct Chefer;

impl CamMethod for Chefer {
    type Evidence<'a> = Attention<Backward>;

    fn saliency(&self, evidence: &Attention<Backward>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(evidence.followed(relevant)?)
    }
}

/// What matters of each token for those behind the block, `[N, L, T]`.
fn relevant(heads: &Heads, has_shortcut: bool) -> Result<Tensor, TchError> {
    let relevance = heads.relevance()?;
    if has_shortcut { with_identity(&relevance) } else { Ok(relevance) }
}

#[cfg(test)]
mod tests {
    use super::super::{
        attention::{
            Reader,
            testing::{product, two_blocks},
        },
        testing::{assert_near, values},
    };
    use super::*;

    #[test]
    fn it_is_the_row_of_the_relevance_that_is_built_up() {
        let blocks = two_blocks::<Backward>(Reader::Leading(vec![0]));
        let mixed: Vec<Tensor> = blocks.blocks.iter().map(|block| relevant(block, true).expect("mixed")).collect();
        let wanted = values(&product(&mixed));
        // By hand: row 0 of the second is (1, 0.4, 0.3); rows of the first (1.2, 1, 0), (0, 2, 0), (0, 0, 1).
        assert_near(&wanted[..3], &[1.2, 1.8, 0.3]);
        let map = Chefer.saliency(&blocks, Reduction::Sum).expect("saliency");
        assert_near(&values(&map), &wanted[1..3]);
    }
}
