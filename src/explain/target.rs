//! What is differentiated: one scalar per sample.
//!
//! A target is a class and the pixels that count. For segmentation logits `[N, K, h, w]` the score of sample `i` is
//! `sum_{y,x} logits[i, k, y, x] * mask[y, x]`, as in pytorch_grad_cam's `SemanticSegmentationTarget`; for class logits `[N, K]`
//! it is `logits[i, k]`.

use tch::{Device, Kind, TchError, Tensor};

use crate::media::BinaryMask;

/// Which pixels of a sample count.
#[derive(Debug)]
pub enum Pixels<'a> {
    /// Those of a mask, at any resolution: brought to the output's by nearest neighbour.
    Mask(&'a BinaryMask),
    /// Those where the class has the highest logit.
    Predicted,
}

/// The scores `[N]` for one `(class, pixels)` per sample, or `None` for a sample that has nothing to explain: its score is 0,
/// and so are its gradients.
///
/// The second result says, per sample, how many pixels count; 0 means that the class is not there.
///
/// # Errors
/// libtorch fails; a class index is out of range (checked by the job).
pub fn scores(logits: &Tensor, targets: &[Option<(i64, Pixels<'_>)>]) -> Result<(Tensor, Vec<u64>), TchError> {
    let mut scores = Vec::with_capacity(targets.len());
    let mut num_pixels = Vec::with_capacity(targets.len());
    for (sample, target) in (0i64..).zip(targets) {
        let Some((class, pixels)) = target else {
            scores.push(Tensor::f_zeros([0i64; 0], (logits.kind(), logits.device()))?);
            num_pixels.push(0);
            continue;
        };
        let class_logits = logits.f_select(0, sample)?.f_select(0, *class)?;
        let mask = match pixels {
            _ if class_logits.dim() == 0 => None,
            Pixels::Mask(mask) => Some(mask_tensor(mask, &class_logits)?),
            Pixels::Predicted => Some(logits.f_select(0, sample)?.f_argmax(0i64, false)?.f_eq(*class)?.f_to_kind(logits.kind())?),
        };
        match mask {
            Some(mask) => {
                num_pixels.push(mask.f_sum(Kind::Double)?.f_double_value(&[])? as u64);
                scores.push(class_logits.f_mul(&mask)?.f_sum(None::<Kind>)?);
            }
            None => {
                num_pixels.push(1);
                scores.push(class_logits);
            }
        }
    }
    Ok((Tensor::f_stack(&scores, 0)?, num_pixels))
}

fn mask_tensor(mask: &BinaryMask, like: &Tensor) -> Result<Tensor, TchError> {
    let (height, width) = (like.size()[0] as usize, like.size()[1] as usize);
    let resized;
    let mask = if (mask.height, mask.width) == (height, width) {
        mask
    } else {
        resized = mask.resize_nearest(height, width);
        &resized
    };
    let size = [height as i64, width as i64];
    let host = Tensor::f_from_data_size(&mask.pixels, &size, Kind::Uint8)?;
    let device: Device = like.device();
    host.f_to_device(device)?.f_to_kind(like.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(height: usize, width: usize, pixels: &[u8]) -> BinaryMask {
        BinaryMask { height, width, pixels: pixels.to_vec() }
    }

    #[test]
    fn only_the_masked_pixels_of_the_class_count() {
        let logits = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]).view([1, 2, 2, 2]);
        let mask = mask(2, 2, &[0, 1, 0, 1]);
        let (scores, pixels) = scores(&logits, &[Some((1, Pixels::Mask(&mask)))]).expect("scores");
        assert_eq!((f64::try_from(scores.get(0)).expect("score"), pixels), (60.0, vec![2]));
    }

    #[test]
    fn predictions_are_where_the_class_wins() {
        let logits = Tensor::from_slice(&[1f32, 50.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]).view([1, 2, 2, 2]);
        let (scores, pixels) = scores(&logits, &[Some((0, Pixels::Predicted))]).expect("scores");
        assert_eq!((f64::try_from(scores.get(0)).expect("score"), pixels), (50.0, vec![1]));
    }

    #[test]
    fn class_logits_are_scores_themselves() {
        let logits = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([2, 2]);
        let (scores, pixels) = scores(&logits, &[Some((1, Pixels::Predicted)), None]).expect("scores");
        assert_eq!((Vec::<f32>::try_from(scores).expect("scores"), pixels), (vec![2.0, 0.0], vec![1, 0]));
    }
}
