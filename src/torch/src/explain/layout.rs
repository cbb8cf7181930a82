//! Any layout of an activation as `[N, C, H', W']`.

use tch::Tensor;

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
