//! Any layout of an activation as `[N, C, H', W']`, and back.

use tch::{TchError, Tensor};

use super::ExplainError;
use crate::program::{Layer, Layout};

/// The activation (or gradient) of a layer as `[N, C, H', W']`, for a model input of `input` rows and columns: leading tokens that
/// are no patches are dropped, the rest become their grid.
///
/// # Errors
/// The activation does not have the layer's declared layout.
pub(super) fn as_nchw(tensor: &Tensor, layer: &Layer, input: [i64; 2]) -> Result<Tensor, ExplainError> {
    let wrong =
        |wanted: &str| ExplainError::Unsuitable(format!("layer `{}` gives shape {:?}, not {wanted}", layer.path, tensor.size()));
    match layer.layout {
        Layout::Nchw if tensor.dim() == 4 => Ok(tensor.shallow_clone()),
        Layout::Nchw => Err(wrong("[N, C, H, W]")),
        Layout::Nhwc if tensor.dim() == 4 => Ok(tensor.f_permute([0i64, 3, 1, 2])?),
        Layout::Nhwc => Err(wrong("[N, H, W, C]")),
        Layout::Tokens | Layout::TokensFirst => {
            let of_tokens = layer.tokens.as_ref().filter(|_| tensor.dim() == 3);
            let tokens =
                of_tokens.ok_or_else(|| wrong(if layer.layout == Layout::Tokens { "[N, T, C]" } else { "[T, N, C]" }))?;
            let tensor = tensor.f_transpose(0, layer.layout.batch_dim())?;
            let (n, t, c) = tensor.size3()?;
            let [rows, columns] = tokens.grid_of(input);
            if t - tokens.prefix != rows * columns {
                return Err(wrong(&format!("{} + {rows} x {columns} tokens", tokens.prefix)));
            }
            let grid = tensor.f_narrow(1, tokens.prefix, rows * columns)?;
            Ok(grid.f_reshape([n, rows, columns, c])?.f_permute([0i64, 3, 1, 2])?)
        }
    }
}

/// Activations `[B, C, H', W']` as the layer has them, with the leading tokens of `original`, the activation of one sample.
///
/// # Errors
/// libtorch fails.
pub(super) fn from_nchw(channels: &Tensor, original: &Tensor, layer: &Layer) -> Result<Tensor, TchError> {
    match layer.layout {
        Layout::Nchw => Ok(channels.shallow_clone()),
        Layout::Nhwc => channels.f_permute([0i64, 2, 3, 1]),
        Layout::Tokens | Layout::TokensFirst => {
            let batch_dim = layer.layout.batch_dim();
            let grid = channels.f_flatten(2, 3)?.f_transpose(1, 2)?;
            let prefix = layer.tokens.as_ref().map_or(0, |tokens| tokens.prefix);
            let leading = original.f_transpose(0, batch_dim)?.f_narrow(1, 0, prefix)?;
            let leading = leading.f_expand([grid.size()[0], prefix, grid.size()[2]], false)?;
            Tensor::f_cat(&[&leading, &grid], 1)?.f_transpose(0, batch_dim)
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::program::TokenInfo;

    #[test]
    fn there_and_back_again() {
        let tokens = TokenInfo { grid: [2, 3], prefix: 2, stride: None, round: Default::default() };
        for (layout, size) in [
            (Layout::Nchw, [1, 4, 2, 3].as_slice()),
            (Layout::Nhwc, &[1, 2, 3, 4]),
            (Layout::Tokens, &[1, 8, 4]),
            (Layout::TokensFirst, &[8, 1, 4]),
        ] {
            let (label, path, tap) = Default::default();
            let layer = Layer { label, path, tap, layout, tokens: Some(tokens.clone()) };
            let activation = Tensor::arange(size.iter().product::<i64>(), (Kind::Float, tch::Device::Cpu)).view(size);
            let channels = as_nchw(&activation, &layer, [32, 48]).expect("of the layout");
            assert_eq!(channels.size(), [1, 4, 2, 3]);
            assert_eq!(from_nchw(&channels, &activation, &layer).expect("of the layout"), activation);
        }
    }
}
