//! How to use camflow as a library: read an exported model, run it, and take activations and gradients of its layers.
//!
//! ```text
//! cargo run --example trace -- MODEL.pt2 INPUT.npy OUT_DIR LAYER...
//! ```
//!
//! `INPUT.npy` is f32 `[N, 3, H, W]`, prepared as the model wants it. Written are `output.npy` and, for each layer (an alias
//! or a module path, `path@1` for the second of several calls), `LAYER.activation.npy` and `LAYER.gradient.npy`. The gradient
//! is that of `sum(output[i] * cos(0.1 * i))` over the flattened output: a scalar to which every element counts and no two
//! neighbours count the same. The tests compare these files with what PyTorch's hooks see.
#![expect(clippy::print_stderr, reason = "a program for people")]

use std::{error::Error, fs, path::Path, process::ExitCode};

use camflow::program::{Demand, Plan, PlanOptions, Precision, Program};
use tch::{Device, Kind, Tensor};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, out, layers @ ..] = &arguments[..] else {
        eprintln!("usage: trace MODEL.pt2 INPUT.npy OUT_DIR LAYER...");
        return ExitCode::from(2);
    };
    match trace(Path::new(model), Path::new(input), Path::new(out), layers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn trace(model: &Path, input: &Path, out: &Path, layers: &[String]) -> Result<(), Box<dyn Error>> {
    // Everything that is wrong with the file or the layers comes out here, before anything runs.
    let program = Program::open(model)?;
    let layers = program.resolve_layers(layers)?;
    // `exact` runs the operators that PyTorch would run; without it batch norms are folded, which is faster.
    let options = PlanOptions { device: Device::Cpu, exact: true, precision: Precision::Fp32 };
    // Two layers may share one tap (an identity module gives the value of the module before it).
    let taps = layers.iter().map(|layer| layer.tap).collect();
    let demand = Demand { taps, ..Demand::of(program.primary_output()) };
    let plan = Plan::new(&program, &demand, options)?;

    let execution = plan.run(&Tensor::read_npy(input)?)?;
    fs::create_dir_all(out)?;
    let output = &execution.output;
    write(output, &out.join("output.npy"))?;
    if layers.is_empty() {
        return Ok(());
    }

    // The earliest layers are the leaves of the gradient graph: neither weights nor what comes before them records anything.
    let index = Tensor::f_arange(i64::try_from(output.numel())?, (Kind::Double, Device::Cpu))?;
    let weights = (index * 0.1).f_cos()?.f_to_kind(output.kind())?.f_view_as(output)?;
    let score = output.f_mul(&weights)?.f_sum(None::<Kind>)?;
    let gradients = camflow::program::gradients(&score, &execution.taps, false, false)?;
    for ((layer, activation), gradient) in layers.iter().zip(&execution.taps).zip(&gradients) {
        if !gradient.defined() {
            return Err(format!("layer `{}` has no influence on the model's output", layer.path).into());
        }
        write(activation, &out.join(format!("{}.activation.npy", layer.label)))?;
        write(gradient, &out.join(format!("{}.gradient.npy", layer.label)))?;
    }
    Ok(())
}

fn write(tensor: &Tensor, path: &Path) -> Result<(), tch::TchError> {
    // As f32, because numpy has no bf16.
    tensor.f_detach()?.f_to_kind(Kind::Float)?.f_contiguous()?.write_npy(path)
}
