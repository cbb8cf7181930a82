//! Whether nothing but global pooling and one linear layer stands behind a layer.

use tch::{Device, Kind, TchError, Tensor};

use super::{example_size, picture};
use crate::{
    explain::layout::as_nchw,
    program::{self, Demand, Layer, Plan, PlanOptions, Precision, Program},
};

/// By what share of its largest number a gradient may differ from place to place, or from one image to the other: sums in 32-bit floats
/// are taken in another order.
const TOLERANCE: f64 = 1e-4;

/// Those of the layers from which the scores of classes do not come by a mean (or a sum) over all places and one linear layer.
///
/// Whatever is in the graph, that is so where the gradient of the scores is the same at every place and for every image, so that is what is
/// looked at, for two pictures of noise: of a scalar to which every class counts, and no two neighbours the same.
///
/// # Errors
/// Why the model cannot be tried.
pub fn not_pooled<'a>(program: &Program, layers: &'a [Layer]) -> Result<Vec<&'a Layer>, String> {
    let torch = |error: TchError| error.to_string();
    let mut demand = Demand::of(program.primary_output());
    let taps: Vec<_> = layers.iter().map(|layer| demand.tap(layer.tap)).collect();
    let options = PlanOptions { device: Device::Cpu, exact: true, precision: Precision::Fp32 };
    let plan = Plan::new(program, &demand, options).map_err(|error| error.to_string())?;
    let size = example_size(program)?;
    let mut found: Vec<Vec<Tensor>> = layers.iter().map(|_| Vec::new()).collect();
    for number in 0..2 {
        let execution = plan.run(&picture(&program.metadata.preprocess, size, number)?).map_err(|error| error.to_string())?;
        let output = &execution.output;
        if output.dim() != 2 || !output.requires_grad() {
            return Ok(layers.iter().collect());
        }
        let root = || {
            let weights = Tensor::f_arange(output.size()[1], (Kind::Float, Device::Cpu))?.f_mul_scalar(0.1)?.f_cos()?;
            output.f_mul(&weights)?.f_sum(None::<Kind>)
        };
        let gradients = program::gradients(&root().map_err(torch)?, &execution.taps, false, false).map_err(torch)?;
        for ((layer, tap), found) in layers.iter().zip(&taps).zip(&mut found) {
            let gradient = tap.of(&gradients);
            if gradient.defined() {
                found.extend(as_nchw(&gradient.f_detach().map_err(torch)?, layer, size.map(|side| side as i64)));
            }
        }
    }
    let mut others = Vec::new();
    for (layer, gradients) in layers.iter().zip(found) {
        if !is_constant(&gradients).map_err(torch)? {
            others.push(layer);
        }
    }
    Ok(others)
}

/// Whether two gradients `[1, C, H', W']` are there, not zero, the same at every place and equal.
fn is_constant(gradients: &[Tensor]) -> Result<bool, TchError> {
    let [one, other] = gradients else { return Ok(false) };
    if one.size() != other.size() || one.numel() == 0 {
        return Ok(false);
    }
    let first_place = one.f_narrow(2, 0, 1)?.f_narrow(3, 0, 1)?;
    let largest = |tensor: &Tensor| tensor.f_abs()?.f_max()?.f_double_value(&[]);
    let scale = largest(one)?;
    let is_near = |tensor: &Tensor| Ok::<_, TchError>(largest(&tensor.f_sub(&first_place)?)? <= TOLERANCE * scale);
    // A NaN is not.
    Ok(scale > 0.0 && is_near(one)? && is_near(other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_everywhere_and_for_both_images() {
        let even = Tensor::from_slice(&[1.0, -2.0]).view([1, 2, 1, 1]).repeat([1, 1, 3, 4]);
        let is_constant =
            |one: &Tensor, other: &Tensor| super::is_constant(&[one.shallow_clone(), other.shallow_clone()]).expect("compared");
        assert!(is_constant(&even, &(&even * 1.00001)));
        assert!(!is_constant(&even, &(&even * 1.1)), "another image has another gradient");
        let uneven = even.copy();
        let _ = uneven.get(0).get(1).get(2).get(3).fill_(-2.1);
        assert!(!is_constant(&uneven, &uneven), "another place has another gradient");
        assert!(!is_constant(&(&even * 0.0), &(&even * 0.0)), "nothing comes from there");
        assert!(!super::is_constant(&[even]).expect("compared"), "of one image there is no gradient");
    }
}
