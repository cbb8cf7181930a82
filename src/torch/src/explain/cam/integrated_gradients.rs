//! Integrated gradients: *Axiomatic Attribution for Deep Networks*, Sundararajan, Taly and Yan, ICML 2017,
//! <https://arxiv.org/abs/1703.01365>.
//!
//! What each value of the image adds to the score on the way from an image without content. With image `x` (`[C, H, W]`), baseline `x'`
//! and score `y`:
//!
//! ```text
//! a      = (x - x') * integral over t from 0 to 1 of dy/dx(x' + t (x - x'))
//! L[i,j] = sum_c a[c,i,j]
//! ```
//!
//! The sum of `a` is `y(x) - y(x')` (completeness). The integral is Gauss and Legendre's rule of 50 steps (`--cam-samples`), as in
//! Captum's `IntegratedGradients`, which gives the same `a`; the baseline is black, as in the paper (`--cam-baseline`). Over channels the
//! signed values are summed up, so that the map is what speaks for the class: heatmaps are clipped at 0. It has no target layer, and
//! `--eigen-smooth` does not apply.

use std::f64::consts::PI;

use tch::{Kind, Tensor};

use super::{
    CamMethod, Reduction, Whole,
    inputs::{Asked, OtherImages},
};
use crate::{
    explain::{
        ExplainError,
        sampling::{Baseline, Sampling},
    },
    program::send,
};
use camflow_names::Choice;

/// Steps of the integral: Captum's.
const STEPS: usize = 50;

/// Integrated gradients.
pub(super) struct IntegratedGradients;

impl CamMethod for IntegratedGradients {
    type Evidence<'a> = OtherImages<'a, true>;

    fn saliency(&self, evidence: &OtherImages<'_, true>, _reduction: Reduction) -> Result<Tensor, ExplainError> {
        evidence.of_samples::<Self>(|asked| Ok(attributions(asked)?.f_sum_dim_intlist(1i64, false, None::<Kind>)?))
    }

    fn whole(&self, sampling: Sampling) -> Whole {
        let (steps, baseline) = (sampling.samples_or(STEPS), sampling.baseline.or(Baseline::Black));
        Whole::image(&format!("the image, {steps} steps from {}", baseline.name()))
    }
}

/// What each value adds to each score of one sample, `[T, C, H, W]`.
fn attributions(asked: &Asked<'_>) -> Result<Tensor, ExplainError> {
    let image = asked.probe.image();
    let baseline = asked.sampling.baseline.or(Baseline::Black).like(image, asked.black)?;
    let way = image.f_sub(&baseline)?;
    let rule = gauss_legendre(asked.sampling.samples_or(STEPS));
    let sum = asked.gradients(rule.len() as i64, |first, number| {
        let (places, weights): (Vec<f64>, Vec<f64>) = rule[first as usize..(first + number) as usize].iter().copied().unzip();
        let places = send(&places, &[number, 1, 1, 1], image.device())?.f_to_kind(image.kind())?;
        let weights = send(&weights, &[number], image.device())?.f_to_kind(image.kind())?;
        Ok((baseline.f_add(&way.f_mul(&places)?)?, weights))
    })?;
    Ok(sum.f_mul(&way)?)
}

/// Places between 0 and 1 and their weights: Gauss and Legendre's rule, exact for polynomials up to degree `2 count - 1`.
fn gauss_legendre(count: usize) -> Vec<(f64, f64)> {
    let degree = count as f64;
    let place = |index: usize| {
        // The roots of the Legendre polynomial, by Newton's method from what they are for many.
        let mut root = (PI * (index as f64 + 0.75) / (degree + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..100 {
            let (mut before, mut value) = (0.0, 1.0);
            for order in 0..count {
                let order = order as f64;
                (before, value) = (value, ((2.0 * order + 1.0) * root * value - order * before) / (order + 1.0));
            }
            slope = degree * (root * value - before) / (root * root - 1.0);
            let step = value / slope;
            root -= step;
            if step.abs() < 1e-15 {
                break;
            }
        }
        ((1.0 - root) / 2.0, 1.0 / ((1.0 - root * root) * slope * slope))
    };
    (0..count).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_that_of_gauss_and_legendre() {
        let [(first, one), (middle, two), (last, three)] = gauss_legendre(3)[..] else { panic!("three places") };
        let offset = 0.6f64.sqrt() / 2.0;
        for (found, wanted) in [(first, 0.5 - offset), (middle, 0.5), (last, 0.5 + offset)] {
            assert!((found - wanted).abs() < 1e-14, "{found} {wanted}");
        }
        for (found, wanted) in [(one, 5.0 / 18.0), (two, 8.0 / 18.0), (three, 5.0 / 18.0)] {
            assert!((found - wanted).abs() < 1e-14, "{found} {wanted}");
        }
        assert_eq!(gauss_legendre(1), [(0.5, 1.0)]);
        for count in [2, 20, 50, 200] {
            let power = |exponent: i32| gauss_legendre(count).iter().map(|(t, w)| w * t.powi(exponent)).sum::<f64>();
            for exponent in [0, 1, 3, (2 * count as i32 - 1).min(39)] {
                let wanted = 1.0 / f64::from(exponent + 1);
                assert!((power(exponent) - wanted).abs() < 1e-13, "{count} {exponent}: {} {wanted}", power(exponent));
            }
        }
    }
}
