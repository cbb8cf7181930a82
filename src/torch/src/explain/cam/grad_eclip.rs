//! Grad-ECLIP: *Gradient-based Visual Explanation for Transformer-based CLIP*, Zhao et al., ICML 2024,
//! <https://arxiv.org/abs/2502.18816>.
//!
//! The class token gathers the values of the patches by the block's attention. Which channel `c` of what it gathers (`o`) matters says the
//! gradient of the score; which patch, how alike its key is to the query, as attention itself is nearly all on a few patches. With query
//! `q`, keys `k_i` and values `v_i`, all heads side by side, and `Phi` = min-max over the patches:
//!
//! ```text
//! w_c      = dy/do_c                                 channels
//! lambda_i = Phi(cos(q, k_i))                        patches
//! L[i]     = (sum_c w_c * lambda_i * v_ic)^+
//! ```
//!
//! As the paper has it, of the model as it is. The authors' code runs the last block with a single head, so that it explains a network
//! that is not quite the one that was asked, and takes queries and keys behind the block's last linear layer. Made for texts beside CLIP
//! (`--text`); the score of a class does as well. Of several tokens that the output reads (DeiT), the sum; where a query gathers the
//! patches (SigLIP), its attention takes the block's place.

use tch::{Kind, TchError, Tensor};

use super::{CamMethod, Reduction, attention::Gathering};
use crate::explain::{ExplainError, heatmap::scale};

/// Grad-ECLIP.
pub(super) struct GradEclip;

impl CamMethod for GradEclip {
    type Evidence<'a> = Gathering;

    fn saliency(&self, evidence: &Gathering, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        Ok(saliency(evidence)?)
    }
}

fn saliency(evidence: &Gathering) -> Result<Tensor, TchError> {
    let Gathering { query, key, value, gradient, place } = evidence;
    let (query, key) = (unit(query)?, unit(key)?);
    // Heads side by side: sums over heads and channels.
    let dots = |one: &Tensor, other: &Tensor| {
        one.f_matmul(&other.f_transpose(2, 3)?)?.f_sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)
    };
    let (alike, weighed) = (dots(&query, &key)?, dots(gradient, value)?); // [N, L, T]
    let mut sum: Option<Tensor> = None;
    for row in 0..alike.size()[1] {
        let patches = scale(&place.of(&alike.f_select(1, row)?)?)?.f_mul(&place.of(&weighed.f_select(1, row)?)?)?;
        sum = Some(match sum {
            Some(sum) => sum.f_add(&patches)?,
            None => patches,
        });
    }
    sum.ok_or_else(|| TchError::Shape("no token is read".into()))?.f_relu()
}

/// `[N, heads, T, E]` with all heads of a token together of length 1.
fn unit(tokens: &Tensor) -> Result<Tensor, TchError> {
    let lengths = tokens.f_square()?.f_sum_dim_intlist([1i64, 3].as_slice(), true, None::<Kind>)?.f_sqrt()?;
    tokens.f_div(&lengths.f_clamp_min(1e-12)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;
    use crate::explain::attention::Place;

    #[test]
    fn alike_keys_and_values_along_the_gradient_count() {
        let evidence = Gathering {
            query: tensor(&[2.0, 0.0], [1, 1, 1, 2]),
            // A class token, and patches along the query, across it, and against it.
            key: tensor(&[5.0, 5.0, 3.0, 0.0, 0.0, 1.0, -1.0, 0.0], [1, 1, 4, 2]),
            value: tensor(&[7.0, 7.0, 1.0, 2.0, 4.0, -1.0, 9.0, 9.0], [1, 1, 4, 2]),
            gradient: tensor(&[1.0, 0.5], [1, 1, 1, 2]),
            place: Place { prefix: 1, grid: [1, 3] },
        };
        let map = GradEclip.saliency(&evidence, Reduction::Sum).expect("saliency");
        assert_near(&values(&map), &[2.0, 0.5 * 3.5, 0.0]);
    }
}
