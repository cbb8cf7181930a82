//! The masks of targets at the output's resolution, and their way to the device.

use std::borrow::Cow;

use tch::{TchError, Tensor};

use super::grid::Cell;
use crate::program::send;
use camflow_media::BinaryMask;
use camflow_pipeline::TargetPixels;

/// The pixels of a target as a mask of the output's size; `decided` are those that the model gives the class.
///
/// # Errors
/// Those of `decided`.
pub(super) fn at_output(
    pixels: &TargetPixels,
    (height, width): (usize, usize),
    decided: impl Fn() -> Result<Vec<u8>, TchError>,
) -> Result<Cow<'_, BinaryMask>, TchError> {
    Ok(match pixels {
        TargetPixels::Mask(mask) if (mask.height, mask.width) == (height, width) => Cow::Borrowed(mask),
        TargetPixels::Mask(mask) => Cow::Owned(mask.resize_nearest(height, width)),
        // A detector's are found by where its predictions are; other models have none.
        TargetPixels::Boxes(_) => Cow::Owned(BinaryMask::empty(height, width)),
        TargetPixels::Predicted | TargetPixels::Labelled | TargetPixels::Wrong(_) => {
            Cow::Owned(BinaryMask { height, width, pixels: decided()? })
        }
        TargetPixels::Point { y, x } => {
            let at = |fraction: f64, length: usize| ((fraction * length as f64) as usize).min(length - 1);
            let mut mask = BinaryMask::empty(height, width);
            mask.pixels[at(*y, height) * width + at(*x, width)] = 1;
            Cow::Owned(mask)
        }
    })
}

/// Masks that go to the device in one copy.
pub(super) struct Masks {
    /// Height and width of the output; `None` for class logits.
    pub size: Option<(usize, usize)>,
    cells: Vec<Cell>,
    pixels: Vec<u8>,
}

impl Masks {
    /// For an output `[N, K]` or `[N, K, h, w]`.
    pub(super) fn of(logits: &Tensor) -> Self {
        let size = match logits.size()[..] {
            [_, _, height, width] => Some((height as usize, width as usize)),
            _ => None,
        };
        Masks { size, cells: Vec::new(), pixels: Vec::new() }
    }

    /// Adds one of the output's size, if there is anything in it; whether there is.
    pub(super) fn add(&mut self, cell: Cell, mask: &BinaryMask) -> bool {
        let is_any = mask.pixels.iter().any(|pixel| *pixel != 0);
        if is_any {
            self.cells.push(cell);
            self.pixels.extend_from_slice(&mask.pixels);
        }
        is_any
    }

    /// Each `[h, w]`, of the logits' type and where they are.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub(super) fn upload(self, logits: &Tensor) -> Result<Vec<(Cell, Tensor)>, TchError> {
        let Some((height, width)) = self.size.filter(|_| !self.cells.is_empty()) else { return Ok(Vec::new()) };
        let size = [self.cells.len() as i64, height as i64, width as i64];
        let masks = send(&self.pixels, &size, logits.device())?;
        Ok(self.cells.into_iter().zip(masks.f_to_kind(logits.kind())?.f_unbind(0)?).collect())
    }
}
