//! Random weights: the control that every method must beat.
//!
//! ```text
//! w_c    ~ uniform(-1, 1)
//! L[i,j] = sum_c w_c * A[c,i,j]
//! ```
//!
//! As pytorch_grad_cam's `RandomCAM`, except that the weights follow from sample and layer: a second run gives the same map.

use tch::{TchError, Tensor};

use super::{CamMethod, Reduction, evidence::Activation};
use crate::{explain::ExplainError, program::send};

/// Random weights.
pub(super) struct RandomCam;

impl CamMethod for RandomCam {
    type Evidence<'a> = Activation<'a>;

    fn saliency(&self, evidence: &Activation<'_>, reduction: Reduction) -> Result<Tensor, ExplainError> {
        let keys: Vec<String> = evidence.keys.iter().map(|key| format!("{key}\0{}", evidence.layer.path)).collect();
        Ok(reduction.of_weighted(&evidence.activation, &weights(&evidence.activation, &keys)?)?)
    }
}

/// Channel weights `[N, C]` like `activation` (`[N, C, H', W']`), drawn from one key per sample.
fn weights(activation: &Tensor, keys: &[String]) -> Result<Tensor, TchError> {
    let num_channels = activation.size()[1];
    let mut weights = Vec::with_capacity(keys.len() * num_channels as usize);
    for key in keys {
        let mut stream = blake3::Hasher::new().update(key.as_bytes()).finalize_xof();
        let mut bytes = [0; 4];
        for _ in 0..num_channels {
            stream.fill(&mut bytes);
            weights.push((f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX) * 2.0 - 1.0) as f32);
        }
    }
    send(&weights, &[keys.len() as i64, num_channels], activation.device())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_gives_the_same_weights_and_they_are_uniform() {
        let activation = Tensor::zeros([2, 4000, 1, 1], tch::kind::FLOAT_CPU);
        let drawn = |key: &str| weights(&activation, &[key.to_owned(), "other".to_owned()]).expect("weights");
        assert_eq!(drawn("a"), drawn("a"));
        assert_ne!(drawn("a").get(0), drawn("b").get(0));
        let first = drawn("a").get(0);
        assert!(first.mean(None).double_value(&[]).abs() < 0.05 && (first.std(true).double_value(&[]) - 0.577).abs() < 0.02);
        assert!(first.min().double_value(&[]) < -0.99 && first.max().double_value(&[]) > 0.99);
    }
}
