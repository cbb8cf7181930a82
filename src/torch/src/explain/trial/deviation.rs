//! How far heatmaps are from those in 64-bit floats.
//!
//! Folding batch norms and another layout in memory change sums in the last bit. In a network with ReLUs a few of them switch, and
//! a gradient that comes back through one that switched is another. How much that is depends on model and image, so it is measured.

use tch::{Device, Kind, TchError, Tensor};
use typed_index_collections::TiSlice;

use super::{example_size, largest_difference, layers, picture};
use crate::{
    explain::{ExplainOptions, Fusion, HeatmapSize, Method, Reading, Sampling, TorchExplainer, heatmaps},
    program::{Deviation, Dynamic, FromFloat64, Influence, PlanOptions, Precision, Program},
};
use camflow_media::BinaryMask;
use camflow_pipeline::{Channel, ClassIndex, ClassTarget, TargetPixels};

/// Inputs that are tried, of usual sizes. A model for large ones is tried at no fewer than [`MIN_INPUTS`].
const MAX_INPUTS: usize = 16;
const MIN_INPUTS: usize = 3;
const MAX_PIXELS: usize = MAX_INPUTS * 224 * 256;

/// Layers that are looked at.
const MAX_LAYERS: usize = 6;

/// What is left of one input: the heatmaps of all layers by all methods.
type Maps = Vec<Tensor>;

/// By input how far the default and the exact mode are from each other and from 64-bit floats; up to the first input at which the
/// default misses its bound, as what comes then changes nothing.
///
/// # Errors
/// Why the model cannot be measured: it gives no class scores, or does not run in 64-bit floats.
pub fn deviations(program: &Program) -> Result<Vec<Deviation>, String> {
    if program.metadata.detections.as_ref().is_some_and(|detections| detections.ranked) {
        // Noise has regions of nearly equal scores, and another choice of them is another score.
        return Err("which regions a detector of two stages looks at may change with the last bit".to_owned());
    }
    let layers = layers(program, MAX_LAYERS, Influence::Gradient);
    if layers.is_empty() {
        return Err("no layer has a gradient".to_owned());
    }
    let options = ExplainOptions {
        layers,
        methods: vec![Method::Gradcam, Method::Layercam, Method::GradcamPlusPlus],
        fuse_layers: false,
        fusion: Fusion::Mean,
        eigen_smooth: false,
        aug_smooth: false,
        sess: false,
        size: HeatmapSize::Input,
        with_layer_maps: false,
        reading: Reading::default(),
        references: None,
        faithfulness: false,
        counterfactuals: None,
        confidence: false,
        predictions: false,
        detections: false,
        one_by_one: false,
        probe_batch: 1,
        sampling: Sampling::default(),
        slice_batch: None,
    };
    let explainer = |exact, precision| {
        let plan_options = PlanOptions { device: Device::Cpu, exact, precision };
        TorchExplainer::new(program, plan_options, options.clone()).map_err(|error| error.to_string())
    };
    let truth = explainer(true, Precision::Fp64)?;
    let (default, exact) = (explainer(false, Precision::Fp32)?, explainer(true, Precision::Fp32)?);
    let (mut found, mut reason) = (Vec::new(), String::new());
    for (number, size) in (0..).zip(sizes(program)?) {
        match deviation(program, [&truth, &default, &exact], size, number) {
            Ok(deviation) => {
                found.push(deviation);
                if !deviation.is_bounded() {
                    break;
                }
            }
            // It takes other sizes only.
            Err(error) => reason = error,
        }
    }
    if found.is_empty() { Err(reason) } else { Ok(found) }
}

/// Rows and columns of the inputs to try.
fn sizes(program: &Program) -> Result<Vec<[usize; 2]>, String> {
    let example @ [height, width] = example_size(program)?;
    let mut sizes = vec![example];
    if program.metadata.input.dynamic == Dynamic::Bhw {
        let smaller = |side: usize| (side * 3 / 4 / 32 * 32).max(32);
        sizes.extend([[smaller(height), smaller(width)], [width, height]]);
    }
    let count = (MAX_PIXELS / (height * width).max(1)).clamp(MIN_INPUTS, MAX_INPUTS);
    Ok(sizes.into_iter().cycle().take(count).collect())
}

fn deviation(
    program: &Program,
    [truth, default, exact]: [&TorchExplainer; 3],
    size: [usize; 2],
    number: usize,
) -> Result<Deviation, String> {
    let input = picture(&program.metadata.preprocess, size, number as u64)?;
    let target = target(program, exact, &input)?;
    let (default, exact) = (maps(default, &input, &target)?, maps(exact, &input, &target)?);
    let mut deviation = Deviation { size, apart: distance(&default, &exact)?, from_float64: None };
    // Of each size there is to be one figure.
    if number < MIN_INPUTS || !deviation.is_close() {
        let truth = maps(truth, &input, &target)?;
        deviation.from_float64 = Some(FromFloat64 { default: distance(&default, &truth)?, exact: distance(&exact, &truth)? });
    }
    Ok(deviation)
}

/// The largest difference. What is no number is as far away as can be.
fn distance(found: &Maps, wanted: &Maps) -> Result<f64, String> {
    let largest = found.iter().zip(wanted).try_fold(0.0, |largest: f64, (found, wanted)| {
        let is_finite = found.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0;
        Ok(largest.max(if is_finite { largest_difference(found, wanted)? } else { 1.0 }))
    });
    largest.map_err(|error: TchError| error.to_string())
}

/// The class that has the highest score, over the middle of the picture where it is one of pixels, or of all predictions of a
/// detector.
fn target(program: &Program, explainer: &TorchExplainer, input: &Tensor) -> Result<ClassTarget, String> {
    let channel = || -> Result<i64, TchError> {
        let _no_grad = tch::no_grad_guard();
        let logits = explainer.plan().forward(input).map_err(|error| TchError::Torch(error.to_string()))?.f_squeeze_dim(0)?;
        let logits = if logits.dim() > 1 { logits.f_flatten(1, -1)?.f_mean_dim(1i64, false, None::<Kind>)? } else { logits };
        logits.f_argmax(0i64, false)?.f_int64_value(&[])
    };
    let channel = channel().map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?;
    let side = 8;
    let inside = |index: usize| (side / 4..side * 3 / 4).contains(&index);
    let pixels = (0..side * side).map(|index| u8::from(inside(index / side) && inside(index % side))).collect();
    let mask = match program.detections() {
        Some(_) => BinaryMask::full(1, 1),
        None => BinaryMask { height: side, width: side, pixels },
    };
    Ok(ClassTarget { class: ClassIndex(0), channel: Channel::Index(channel), pixels: TargetPixels::Mask(mask), detection: None })
}

fn maps(explainer: &TorchExplainer, input: &Tensor, target: &ClassTarget) -> Result<Maps, String> {
    let size = (input.size()[2] as usize, input.size()[3] as usize);
    let (targets, shown) = ([vec![target.clone()]], [None]);
    let (targets, shown) = (TiSlice::from_ref(&targets), TiSlice::from_ref(&shown));
    let found = explainer.saliencies(input, &[String::new()], targets, shown).map_err(|error| error.text())?;
    let found = found.passes.into_iter().next().ok_or("it gives the class no pixels")?;
    let _no_grad = tch::no_grad_guard();
    let drawn = found.columns.iter().map(|layers| heatmaps(layers, Some(size)));
    drawn.collect::<Result<_, _>>().map_err(|error| error.to_string())
}
