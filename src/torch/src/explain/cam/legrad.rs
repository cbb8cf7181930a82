//! LeGrad: *An Explainability Method for Vision Transformers via Feature Formation Sensitivity*, Bousselham et al., ICCV 2025,
//! <https://arxiv.org/abs/2404.03214>.
//!
//! Each block has a score of its own: what the end of the network makes of the tokens `Z_b` that the block hands on, in place of the
//! last ones. Where the gradient of that with respect to the block's attention `A_b` (`[heads, T, T]`) is above zero, the block forms
//! what speaks for the class:
//!
//! ```text
//! y_b  = y(Z_b)                            with the mean of all tokens in the class token's place
//! E_b  = mean over heads and queries of (dy_b/dA_b)^+
//! L[i] = sum over blocks b of E_b[i]       for the patches i
//! ```
//!
//! The same as the authors' code for CLIP, and for SigLIP, in which a query gathers the patches: there the gradient is that of its
//! attention when it is shown `Z_b`. Two differences: that code sums over the last two blocks by default, and this over all up to the
//! layer; and for SigLIP it takes out what an empty text gives, too, for which this knows no text. Where the output takes the mean of all
//! patches, the tokens stay as they are.

use tch::{Kind, TchError, Tensor};

use super::{
    CamMethod, Reduction,
    attention::{Formation, mean_of_heads},
};
use crate::explain::ExplainError;

/// LeGrad.
pub(super) struct LeGrad;

impl CamMethod for LeGrad {
    type Evidence<'a> = Formation;

    fn saliency(&self, evidence: &Formation, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(saliency(evidence)?)
    }
}

fn saliency(evidence: &Formation) -> Result<Tensor, TchError> {
    let mut sum: Option<Tensor> = None;
    for gradient in &evidence.gradients {
        let queries = mean_of_heads(&gradient.f_relu()?)?.f_mean_dim([1i64].as_slice(), false, None::<Kind>)?;
        sum = Some(match sum {
            Some(sum) => sum.f_add(&queries)?,
            None => queries,
        });
    }
    evidence.place.of(&sum.ok_or_else(|| TchError::Shape("there is no block of attention".into()))?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;
    use crate::explain::attention::Place;

    #[test]
    fn what_is_above_zero_counts_in_every_head_and_row() {
        // Two heads of two queries over a class token and two patches; and one block in which one query gathers them.
        let first = tensor(&[9.0, 1.0, -5.0, 9.0, 3.0, 2.0, 9.0, -1.0, 0.0, 9.0, 0.0, 2.0], [1, 2, 2, 3]);
        let second = tensor(&[0.0, -1.0, 4.0], [1, 1, 1, 3]);
        let formation = Formation { gradients: vec![first, second], place: Place { prefix: 1, grid: [2, 1] } };
        let map = LeGrad.saliency(&formation, Reduction::Sum).expect("saliency");
        assert_eq!(map.size(), [1, 2, 1]);
        assert_near(&values(&map), &[1.0, 1.0 + 4.0]);
    }
}
