//! Whether what a model makes of an image depends on the others in its batch: batch norms without running statistics, means or
//! sorting over the batch, attention along the wrong dimension.

use tch::{Device, Kind, TchError, Tensor};

use super::{example_size, largest_difference, layers, picture};
use crate::program::{self, Demand, Dynamic, Influence, Plan, PlanOptions, Precision, Program, ValueId};

/// Samples of a batch: each place in it is looked at.
const BATCH: usize = 3;

/// Layers that are looked at beside the output.
const MAX_LAYERS: usize = 16;

/// What a run gave for one sample, or for a batch: the output, then activations, then their gradients. `None` is a value without
/// a batch, or a gradient that is not there.
type Seen = Vec<Option<Tensor>>;

/// Whether the output, an activation or, with `with_gradients`, a gradient of an image is another when the image is in a batch.
///
/// It is asked in 64-bit floats, in which nothing else makes a difference that could be taken for one.
///
/// # Errors
/// Why the model cannot be run on a batch.
pub fn depends_on_batch(program: &Program, with_gradients: bool) -> Result<bool, String> {
    if program.metadata.input.dynamic == Dynamic::None {
        return Ok(false);
    }
    let example = example_size(program)?;
    let mut sizes = vec![example];
    if program.metadata.input.dynamic == Dynamic::Bhw {
        // What it depends on is no matter of size, and a fourth of the pixels take a fourth of the time.
        sizes.insert(0, example.map(|side| (side / 2).next_multiple_of(32).min(side)));
    }
    let mut reason = String::new();
    // A model may insist on 32 bits somewhere.
    for (precision, tolerance) in [(Precision::Fp64, 1e-7), (Precision::Fp32, 1e-3)] {
        // ReLUs that switch in the last bit would be seen there.
        let with_gradients = with_gradients && precision == Precision::Fp64;
        let taps: Vec<ValueId> = layers(program, MAX_LAYERS, Influence::None).iter().map(|layer| layer.tap).collect();
        let demand = Demand { taps, ..Demand::of(program.primary_output()) };
        let options = PlanOptions { device: Device::Cpu, exact: true, precision };
        let plan = Plan::new(program, &demand, options).map_err(|error| error.to_string())?;
        for size in &sizes {
            let pictures = (0..BATCH as u64).map(|number| contrasted(program, *size, number)).collect::<Result<Vec<_>, _>>()?;
            match differs(&plan, &pictures, with_gradients, tolerance) {
                Ok(differs) => return Ok(differs),
                Err(error) => reason = error,
            }
        }
    }
    Err(reason)
}

/// A picture that is brighter and fuller than the one before: neighbours that are alike would show little.
fn contrasted(program: &Program, size: [usize; 2], number: u64) -> Result<Tensor, String> {
    let picture = picture(&program.metadata.preprocess, size, number)?;
    let changed = picture.f_mul_scalar(1.0 + number as f64 / 2.0).and_then(|picture| picture.f_add_scalar(number as f64 / 4.0));
    changed.map_err(|error| error.to_string())
}

fn differs(plan: &Plan, pictures: &[Tensor], with_gradients: bool, tolerance: f64) -> Result<bool, String> {
    let torch = |error: TchError| error.to_string();
    let batch = Tensor::f_cat(pictures, 0).map_err(torch)?;
    let together = see(plan, &batch, with_gradients)?;
    for (place, picture) in pictures.iter().enumerate() {
        let alone = see(plan, picture, with_gradients)?;
        for (together, alone) in together.iter().zip(&alone) {
            let (Some(together), Some(alone)) = (together, alone) else {
                if together.is_some() != alone.is_some() {
                    return Ok(true);
                }
                continue;
            };
            let own = together.f_narrow(0, place as i64, 1).map_err(torch)?;
            if own.size() != alone.size() {
                return Ok(true);
            }
            let scale = largest_difference(alone, &alone.f_zeros_like().map_err(torch)?).map_err(torch)?;
            if largest_difference(&own, alone).map_err(torch)? > tolerance * scale.max(1e-30) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// One run. The gradients are those of a scalar to which every element of the output counts, and no two neighbours the same.
fn see(plan: &Plan, input: &Tensor, with_gradients: bool) -> Result<Seen, String> {
    let torch = |error: TchError| error.to_string();
    let _no_grad = (!with_gradients).then(tch::no_grad_guard);
    let execution = plan.run(input).map_err(|error| error.to_string())?;
    let of_batch = |tensor: &Tensor| {
        let is_of_batch = tensor.defined() && tensor.dim() > 0 && tensor.size()[0] == input.size()[0];
        is_of_batch.then(|| tensor.shallow_clone())
    };
    let mut seen: Seen = vec![of_batch(&execution.output)];
    seen.extend(execution.taps.iter().map(of_batch));
    if with_gradients && execution.output.requires_grad() {
        let output = &execution.output;
        let weights = || -> Result<Tensor, TchError> {
            let mut size = output.size();
            size[0] = 1;
            let count = size.iter().product::<i64>();
            Tensor::f_arange(count, (Kind::Double, Device::Cpu))?.f_mul_scalar(0.1)?.f_cos()?.f_view(&size[..])
        };
        let root = weights().and_then(|weights| output.f_mul(&weights)?.f_sum(None::<Kind>)).map_err(torch)?;
        let gradients = program::gradients(&root, &execution.taps, false, false).map_err(torch)?;
        seen.extend(gradients.iter().map(of_batch));
    }
    Ok(seen)
}
