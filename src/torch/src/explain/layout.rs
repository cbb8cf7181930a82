//! Any layout of an activation as `[N, C, H', W']`, and back; the parts of it that are of one image.

use tch::{Device, TchError, Tensor};

use super::ExplainError;
use crate::program::{Layer, Layout, Windows, send};

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
        Layout::Windows => {
            let wanted = || wrong("that of the windows which the model was exported with");
            let (Some(tokens), Some(windows)) = (&layer.tokens, &layer.windows) else { return Err(wanted()) };
            let size = tensor.size();
            let [rows, columns] = tokens.grid;
            let (Some(&first), Some(&c), true) = (size.first(), size.last(), size.len() > 2) else { return Err(wanted()) };
            let num_tokens = windows.per_image * size[1..size.len() - 1].iter().product::<i64>();
            if first % windows.per_image != 0 || windows.order.iter().any(|place| *place >= num_tokens) {
                return Err(wanted());
            }
            let n = first / windows.per_image;
            let order = places(windows, tensor.device())?;
            let grid = tensor.f_reshape([n, num_tokens, c])?.f_index_select(1, &order)?;
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
        Layout::Windows => {
            let Some(windows) = &layer.windows else { return Ok(channels.shallow_clone()) };
            let grid = channels.f_flatten(2, 3)?.f_transpose(1, 2)?;
            let (count, c) = (grid.size()[0], grid.size()[2]);
            let all = repeated(original, layer, count)?.f_reshape([count, -1, c])?;
            let mut size = original.size();
            size[0] *= count;
            all.f_index_copy(1, &places(windows, channels.device())?, &grid.f_to_kind(all.kind())?)?.f_reshape(size)
        }
    }
}

/// The order of tokens, on the device.
fn places(windows: &Windows, device: Device) -> Result<Tensor, TchError> {
    send(&windows.order, &[windows.order.len() as i64], device)
}

/// The part of an activation that is of the image in this row of the batch.
///
/// # Errors
/// libtorch fails.
pub(super) fn of_image(activation: &Tensor, layer: &Layer, row: i64) -> Result<Tensor, TchError> {
    let per_image = layer.per_image();
    activation.f_narrow(layer.layout.batch_dim(), row * per_image, per_image)
}

/// The activation of one image as often as that, as a batch of such images has it.
///
/// # Errors
/// libtorch fails.
pub(super) fn repeated(activation: &Tensor, layer: &Layer, count: i64) -> Result<Tensor, TchError> {
    let mut repeats = vec![1; activation.dim()];
    repeats[layer.layout.batch_dim() as usize] = count;
    activation.f_repeat(&repeats)
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::program::TokenInfo;

    fn layer(layout: Layout, tokens: TokenInfo, windows: Option<Windows>) -> Layer {
        let (label, path, tap) = Default::default();
        Layer { label, path, tap, layout, tokens: Some(tokens), windows }
    }

    #[test]
    fn there_and_back_again() {
        let tokens = TokenInfo { grid: [2, 3], prefix: 2, stride: None, round: Default::default() };
        for (layout, size) in [
            (Layout::Nchw, [1, 4, 2, 3].as_slice()),
            (Layout::Nhwc, &[1, 2, 3, 4]),
            (Layout::Tokens, &[1, 8, 4]),
            (Layout::TokensFirst, &[8, 1, 4]),
        ] {
            let layer = layer(layout, tokens.clone(), None);
            let activation = Tensor::arange(size.iter().product::<i64>(), (Kind::Float, tch::Device::Cpu)).view(size);
            let channels = as_nchw(&activation, &layer, [32, 48]).expect("of the layout");
            assert_eq!(channels.size(), [1, 4, 2, 3]);
            assert_eq!(from_nchw(&channels, &activation, &layer).expect("of the layout"), activation);
        }
    }

    /// A grid of 2 x 3 in two windows of 2 x 2, with a column of padding, of two images.
    #[test]
    fn windows_are_put_together() {
        let tokens = TokenInfo { grid: [2, 3], prefix: 0, stride: None, round: Default::default() };
        let windows = Windows { per_image: 2, order: [0, 1, 4, 2, 3, 6].into() };
        let layer = layer(Layout::Windows, tokens, Some(windows));
        for size in [[4, 4, 3].as_slice(), &[4, 2, 2, 3]] {
            let activation = Tensor::arange(48, (Kind::Float, tch::Device::Cpu)).view(size);
            let channels = as_nchw(&activation, &layer, [32, 48]).expect("of the layout");
            assert_eq!(channels.size(), [2, 3, 2, 3]);
            let first = channels.select(0, 0).select(0, 0); // tokens have three channels
            assert_eq!(Vec::<f32>::try_from(first.flatten(0, 1)).expect("floats"), [0.0, 3.0, 12.0, 6.0, 9.0, 18.0]);
            let second = of_image(&activation, &layer, 1).expect("of the layout");
            assert_eq!(as_nchw(&second, &layer, [32, 48]).expect("of the layout"), channels.narrow(0, 1, 1));

            let three = channels.narrow(0, 1, 1).repeat([3, 1, 1, 1]) * 2.0;
            let doubled = from_nchw(&three, &second, &layer).expect("of the layout");
            assert_eq!(doubled.size()[0], 6);
            let last = of_image(&doubled, &layer, 2).expect("of the layout");
            let twice = second.flatten(0, -2).index_select(0, &Tensor::from_slice(&[0i64, 1, 2, 3, 4, 6])) * 2.0;
            assert_eq!(last.flatten(0, -2).index_select(0, &Tensor::from_slice(&[0i64, 1, 2, 3, 4, 6])), twice);
            let padding = |tensor: &Tensor| tensor.flatten(0, -2).index_select(0, &Tensor::from_slice(&[5i64, 7]));
            assert_eq!(padding(&last), padding(&second), "what is no place of the image stays");
        }
        let wrong = as_nchw(&Tensor::zeros([3, 4, 3], (Kind::Float, tch::Device::Cpu)), &layer, [32, 48]);
        assert!(wrong.is_err_and(|error| error.to_string().contains("windows")));
    }
}
