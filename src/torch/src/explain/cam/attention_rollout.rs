//! Attention rollout: *Quantifying Attention Flow in Transformers*, Abnar and Zuidema, ACL 2020,
//! <https://arxiv.org/abs/2005.00928>.
//!
//! Attention says what each token takes from those before it, and the shortcut around it that it keeps itself. With the mean `A_b` of
//! block `b`'s attention over its heads, `[T, T]`:
//!
//! ```text
//! A~_b = (A_b + I) / 2                    rows sum to 1
//! R    = A~_B * ... * A~_1                what the tokens behind block B are made of
//! L[i] = R[class token, i]                for the patches i
//! ```
//!
//! Where the output takes the mean of all patches, `L` is the mean of their rows; where a query gathers them (SigLIP), its own attention
//! `A_q * R`, as the paper's rule has it for a block without a shortcut. No gradient: the same map for every class. Nothing is discarded
//! (vit-explain's `discard_ratio` 0, with heads fused by their mean).

use tch::{TchError, Tensor};

use super::{
    CamMethod, Reduction,
    attention::{Attention, Forward, Heads, with_identity},
};
use crate::explain::ExplainError;

/// Attention rollout.
pub(super) struct AttentionRollout;

impl CamMethod for AttentionRollout {
    type Evidence<'a> = Attention<Forward>;

    fn saliency(&self, evidence: &Attention<Forward>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(evidence.followed(taken)?)
    }
}

/// What each token is made of, `[N, L, T]`.
fn taken(heads: &Heads, has_shortcut: bool) -> Result<Tensor, TchError> {
    let attention = heads.mean()?;
    if has_shortcut { with_identity(&attention)?.f_div_scalar(2.0) } else { Ok(attention) }
}

#[cfg(test)]
mod tests {
    use super::super::{
        attention::{
            Reader,
            testing::{product, two_blocks},
        },
        testing::{assert_near, tensor, values},
    };
    use super::*;

    #[test]
    fn it_is_the_row_of_the_product() {
        let blocks = two_blocks::<Forward>(Reader::Leading(vec![0]));
        let mixed: Vec<Tensor> = blocks.blocks.iter().map(|block| taken(block, true).expect("mixed")).collect();
        let wanted = values(&product(&mixed));
        // By hand: row 0 of the second is (0.5, 0.2, 0.3); rows of the first (0.6, 0.25, 0.15), (0, 1, 0), (0.25, 0, 0.75).
        assert_near(&wanted[1..3], &[0.325, 0.3]);
        let map = AttentionRollout.saliency(&blocks, Reduction::Sum).expect("saliency");
        assert_eq!(map.size(), [1, 1, 2]);
        assert_near(&values(&map), &wanted[1..3]);
    }

    #[test]
    fn without_a_class_token_it_is_the_mean_of_the_patches_or_what_a_query_gathers() {
        let mean = AttentionRollout.saliency(&two_blocks(Reader::Patches), Reduction::Sum).expect("saliency");
        // Rows of the second: (0.5, 0.5, 0) and (0, 0, 1); their mean is (0.25, 0.25, 0.5).
        assert_near(&values(&mean), &[0.25 * 0.25 + 0.25, 0.25 * 0.15 + 0.5 * 0.75]);
        let query = Heads { probabilities: tensor(&[0.25, 0.25, 0.5], [1, 1, 1, 3]), gradient: Tensor::new() };
        let map = AttentionRollout.saliency(&two_blocks(Reader::Query(query)), Reduction::Sum).expect("saliency");
        assert_eq!(values(&map), values(&mean_of(&[0.25, 0.25, 0.5])));
    }

    /// What a reader with these weights sees through both blocks.
    fn mean_of(weights: &[f32]) -> Tensor {
        let blocks = two_blocks::<Forward>(Reader::Patches);
        let mixed: Vec<Tensor> = blocks.blocks.iter().map(|block| taken(block, true).expect("mixed")).collect();
        tensor(weights, [1, 1, 3]).matmul(&mixed[1]).matmul(&mixed[0]).narrow(2, 1, 2)
    }
}
