//! From channels to a map: their sum, or with `--eigen-smooth` their first principal component.

use tch::{Kind, TchError, Tensor};

use super::projection;

/// How the channels `[N, C, H', W']` of a method become its saliency `[N, H', W']`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// Their projection onto the first principal component.
    FirstComponent,
}

impl Reduction {
    /// Of the channels.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub fn of(self, channels: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Reduction::Sum => channels.f_sum_dim_intlist(1i64, false, None::<Kind>),
            Reduction::FirstComponent => projection::first_component(channels),
        }
    }

    /// The sum `[N, T, H', W']` of the channels of activation `[N, C, H', W']` with the weights `[N, T, C]` of `T` classes, or with those
    /// `[1, T, C]` of all images: one matrix product.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub(super) fn sum_by_class(activation: &Tensor, weights: &Tensor) -> Result<Tensor, TchError> {
        let (n, _, height, width) = activation.size4()?;
        weights.f_matmul(&activation.f_flatten(2, 3)?)?.f_view([n, weights.size()[1], height, width])
    }

    /// Of the channels `weights * activation`, with weights `[N, C]`. Their sum is a matrix product, which reads the activation
    /// once and writes nothing of its size.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub fn of_weighted(self, activation: &Tensor, weights: &Tensor) -> Result<Tensor, TchError> {
        match self {
            Reduction::Sum => {
                let (n, _, height, width) = activation.size4()?;
                weights.f_unsqueeze(1)?.f_bmm(&activation.f_flatten(2, 3)?)?.f_view([n, height, width])
            }
            Reduction::FirstComponent => self.of(&activation.f_mul(&weights.f_unsqueeze(2)?.f_unsqueeze(3)?)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_product_is_the_sum_of_weighted_channels_in_any_layout() {
        tch::manual_seed(0);
        let (weights, activation) =
            (Tensor::randn([2, 5], tch::kind::DOUBLE_CPU), Tensor::randn([2, 4, 3, 5], tch::kind::DOUBLE_CPU));
        for activation in [activation.permute([0, 3, 1, 2]), activation.permute([0, 3, 1, 2]).contiguous()] {
            let summed = Reduction::Sum.of(&(&activation * weights.unsqueeze(2).unsqueeze(3))).expect("sum");
            let product = Reduction::Sum.of_weighted(&activation, &weights).expect("product");
            assert!(product.allclose(&summed, 1e-12, 1e-12, false));
        }
    }
}
