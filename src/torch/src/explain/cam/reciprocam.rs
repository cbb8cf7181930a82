//! Recipro-CAM: *Fast gradient-free visual explanations for convolutional neural networks*, Byun and Lee, 2022,
//! <https://arxiv.org/abs/2209.14074>, and for transformers ViT-Recipro-CAM, the same, 2023, <https://arxiv.org/abs/2310.02588>.
//!
//! A place of the layer matters as much as the score that it alone gives. With activation `A` (`[C, H', W']`), score `y` and a mask
//! `M^ij` over places:
//!
//! ```text
//! s_ij   = y(A * M^ij)
//! L[i,j] = s_ij - min s
//! ```
//!
//! In feature maps the mask is 1 at the place and 0 elsewhere. Among tokens it is the 3 x 3 binomial kernel (1/4 at the place, 1/8 and
//! 1/16 beside it), and the tokens that are no places (the class's, registers) stay. The minimum is taken off, as only differences
//! between places say anything, and a map is clipped at 0 later. Numbers are those of OpenVINO XAI's `TorchReciproCAM` and
//! `TorchViTReciproCAM`, which scale the logits by minimum and maximum.
//!
//! No gradient: as many runs of the graph behind the layer as it has places, many at a time, for all classes of a sample at once. Late
//! layers have few places, and little behind them; early ones have many, and all of the network. Where all behind feature maps is affine,
//! pooling and a linear layer say, no place needs a run: with the gradient `g = dy/dA` that no image changes, and `b` that is the same for
//! all places, `s_ij = sum_c g[c,i,j] * A[c,i,j] + b`.

use tch::{Kind, TchError, Tensor};

use super::{
    CamMethod, Reduction, everywhere,
    evidence::{Original, PlaceVariants},
};
use crate::{
    explain::{
        ExplainError,
        layout::from_nchw,
        probe::{Probe, score_all},
        target::Score,
    },
    program::{ExecError, Layout, send},
};

/// What a place and those around it count among tokens, row by row.
const BINOMIAL: [f32; 9] = [0.0625, 0.125, 0.0625, 0.125, 0.25, 0.125, 0.0625, 0.125, 0.0625];

/// Recipro-CAM.
pub(super) struct ReciproCam;

impl CamMethod for ReciproCam {
    type Evidence<'a> = PlaceVariants<'a>;

    fn saliency(&self, PlaceVariants(evidence): &PlaceVariants<'_>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        let (n, _, height, width) = evidence.activation.size4()?;
        Ok(evidence.of_samples::<Self>(places)?.f_view([n, height, width])?)
    }

    fn takes_shared(&self, layout: Layout, reduction: Reduction) -> bool {
        !is_soft(layout) && reduction == Reduction::Sum
    }

    fn of_classes(&self, activation: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>, TchError> {
        let given = match everywhere(gradient)? {
            Some(gradient) => Reduction::sum_by_class(activation, &gradient)?,
            None => activation.f_unsqueeze(1)?.f_mul(gradient)?.f_sum_dim_intlist(2i64, false, None::<Kind>)?,
        };
        given.f_sub(&given.f_amin([2i64, 3].as_slice(), true)?).map(Some)
    }
}

/// How much more each place `[T, H' W']` of one sample gives than the least, for each of its `T` scores.
///
/// # Errors
/// A node of the graph fails, for want of memory say; or the graph cannot be run on from this layer for another batch size.
fn places(probe: &Probe<'_>, original: &Original<'_>, scores: &[&Score]) -> Result<Tensor, ExecError> {
    original.check_resume(probe)?;
    let torch = |error: TchError| probe.failed("mask", &error);
    let (_, _, height, width) = original.channels.size4().map_err(torch)?;
    let is_soft = is_soft(original.layer.layout);
    let mut columns = Vec::new();
    for (first, count) in probe.options.batches(height * width) {
        let variants = masks((first, count), (height, width), is_soft, &original.channels)
            .and_then(|masks| original.channels.f_mul(&masks))
            .and_then(|alone| from_nchw(&alone, original.activation, original.layer));
        let logits = probe.resume(original.tap, &variants.map_err(torch)?, count)?;
        columns.push(score_all(&logits, scores).map_err(torch)?);
    }
    let given = Tensor::f_cat(&columns, 1).map_err(torch)?; // [T, H' W']
    given.f_amin([1i64].as_slice(), true).and_then(|least| given.f_sub(&least)).map_err(torch)
}

/// Whether a mask reaches beyond its place.
fn is_soft(layout: Layout) -> bool {
    !matches!(layout, Layout::Nchw | Layout::Nhwc)
}

/// The masks `[B, 1, H', W']` of `B` places in the order of rows, of the type and on the device of `like`.
fn masks((first, count): (i64, i64), (height, width): (i64, i64), is_soft: bool, like: &Tensor) -> Result<Tensor, TchError> {
    let options = (Kind::Float, like.device());
    let alone = Tensor::f_eye_m(height * width, height * width, options)?.f_narrow(0, first, count)?;
    let mut masks = alone.f_view([count, 1, height, width])?;
    if is_soft {
        let kernel = send(&BINOMIAL, &[1, 1, 3, 3], like.device())?;
        masks = masks.f_conv2d(&kernel, None::<Tensor>, 1, 1, 1, 1)?;
    }
    masks.f_to_kind(like.kind())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_near, tensor, values};
    use super::*;

    #[test]
    fn of_a_linear_score_a_place_gives_its_product_with_the_gradient() {
        let activation = tensor(&[1.0, 2.0, 3.0, -1.0], [1, 2, 1, 2]);
        let pooled = tensor(&[2.0, 1.0, 0.0, 1.0], [1, 2, 2, 1, 1]);
        let found = ReciproCam.of_classes(&activation, &pooled).expect("maps").expect("they are made so");
        assert_eq!(found.size(), [1, 2, 1, 2]);
        assert_near(&values(&found), &[2.0, 0.0, 4.0, 0.0]);
        let varied = tensor(&[1.0, 0.0, 0.0, 5.0], [1, 1, 2, 1, 2]);
        let found = ReciproCam.of_classes(&activation, &varied).expect("maps").expect("they are made so");
        assert_near(&values(&found), &[6.0, 0.0]);
    }

    #[test]
    fn each_place_alone_in_the_order_of_rows() {
        let found = masks((1, 2), (2, 2), false, &tensor(&[0.0], [1, 1, 1, 1])).expect("masks");
        assert_eq!(found.size(), [2, 1, 2, 2]);
        assert_near(&values(&found), &[0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn tokens_lend_to_those_beside_them_and_to_none_beyond_the_border() {
        let found = masks((4, 1), (3, 3), true, &tensor(&[0.0], [1, 1, 1, 1])).expect("masks");
        let [corner, side, middle] = [1.0 / 16.0, 1.0 / 8.0, 1.0 / 4.0];
        assert_near(&values(&found), &[corner, side, corner, side, middle, side, corner, side, corner]);
        let found = masks((0, 1), (3, 3), true, &tensor(&[0.0], [1, 1, 1, 1])).expect("masks");
        assert_near(&values(&found), &[middle, side, 0.0, side, corner, 0.0, 0.0, 0.0, 0.0]);
    }
}
