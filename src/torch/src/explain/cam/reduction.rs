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

    /// Of the channels `weights * activation`, with weights `[N, C]`, or `[1, C]` for all samples.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub fn of_weighted(self, activation: &Tensor, weights: &Tensor) -> Result<Tensor, TchError> {
        self.of(&activation.f_mul(&weights.f_unsqueeze(2)?.f_unsqueeze(3)?)?)
    }
}
