//! Trying a model on pictures of noise, at export: whether the samples of a batch influence each other ([`depends_on_batch`]), and
//! how far heatmaps are from those in 64-bit floats ([`deviations`]); before a run, what stands behind layers ([`not_pooled`]).

mod batch;
mod deviation;
mod head;

use tch::{Kind, TchError, Tensor};

pub use batch::depends_on_batch;
pub use deviation::deviations;
pub use head::not_pooled;

use crate::program::{Influence, Layer, Program};
use camflow_media::{Interpolation, Preprocess, PreprocessStep, RgbImage, resize_rgb};

/// Pixels of noise along a side for each of the coarse ones: pictures are smooth.
const COARSE: usize = 8;

/// A picture `[1, channels, height, width]` as the model is given it: noise that is smooth as photographs are, another for each number.
fn picture(preprocess: &Preprocess, size: [usize; 2], number: u64) -> Result<Tensor, String> {
    let mut steps: Vec<PreprocessStep> = preprocess.steps.iter().filter(is_of_pixels).cloned().collect();
    let (mut pixels, channels) = (Vec::new(), preprocess.channels());
    if preprocess.reads().is_some() {
        // Of samples as they are nobody knows the range, so that what comes of them is taken: numbers about 0.
        let (mean, std) = (vec![0.5; 3], vec![0.25; 3]);
        steps = vec![PreprocessStep::Normalize { mean, std, divide_by: None }];
    }
    let preprocess = Preprocess { steps };
    for first in (0..channels).step_by(3) {
        let input = preprocess.apply(&noise(size, number, first)?).map_err(|error| error.to_string())?;
        pixels.extend(input.pixels.to_floats(&preprocess.normalization()));
    }
    pixels.truncate(channels * size[0] * size[1]);
    let tensor =
        Tensor::f_from_slice(&pixels).and_then(|pixels| pixels.f_view([1, channels as i64, size[0] as i64, size[1] as i64]));
    tensor.map_err(|error| error.to_string())
}

/// Whether a step changes the pixels of an image and not its geometry.
fn is_of_pixels(step: &&PreprocessStep) -> bool {
    matches!(step, PreprocessStep::Grayscale { .. } | PreprocessStep::Bgr | PreprocessStep::Normalize { .. })
}

/// Three channels of noise, from the channel `first` on.
fn noise([height, width]: [usize; 2], number: u64, first: usize) -> Result<RgbImage, String> {
    let mut stream = blake3::Hasher::new();
    stream.update(b"trial").update(&number.to_le_bytes());
    if first > 0 {
        stream.update(&first.to_le_bytes());
    }
    let mut stream = stream.finalize_xof();
    let mut noise = |height: usize, width: usize| {
        let mut pixels = vec![0; height * width * 3];
        stream.fill(&mut pixels);
        RgbImage::new(height, width, pixels)
    };
    let coarse = noise(height.div_ceil(COARSE), width.div_ceil(COARSE));
    let mut picture = resize_rgb(&coarse, height, width, Interpolation::Bicubic, true).map_err(|error| error.to_string())?;
    for (pixel, fine) in picture.pixels.iter_mut().zip(noise(height, width).pixels) {
        *pixel = pixel.saturating_add(fine / 16);
    }
    Ok(picture)
}

/// Rows and columns of the model's example input.
fn example_size(program: &Program) -> Result<[usize; 2], String> {
    match program.metadata.input.example[..] {
        [_, channels, height, width] if channels as usize == program.metadata.preprocess.channels() => {
            Ok([height as usize, width as usize])
        }
        ref other => Err(format!("it takes {other:?}, not images [N, C, H, W] as its preprocessing makes them")),
    }
}

/// Up to `most` layers, the numbered ones before others, spread over the network; with at least that influence on the output.
fn layers(program: &Program, most: usize, influence: Influence) -> Vec<Layer> {
    let influences = program.influences();
    let resolve = |specs: Vec<&String>| -> Vec<Layer> {
        let resolved = specs.into_iter().filter_map(|spec| program.resolve_layers(std::slice::from_ref(spec)).ok()).flatten();
        resolved.filter(|layer| influences.of(layer.tap) >= influence).collect()
    };
    let spread = |layers: Vec<Layer>, most: usize| -> Vec<Layer> {
        let count = layers.len();
        let chosen = |index: &usize| count <= most || index * most / count != (index + 1) * most / count;
        layers.into_iter().enumerate().filter(|(index, _)| chosen(index)).map(|(_, layer)| layer).collect()
    };
    let mut aliases: Vec<&String> = program.metadata.aliases.keys().collect();
    aliases.sort_by_key(|alias| alias.parse::<u64>().ok());
    let mut found = spread(resolve(aliases), most);
    let mut others = resolve(program.metadata.layers.iter().map(|layer| &layer.path).collect());
    others.retain(|layer| found.iter().all(|known| known.tap != layer.tap));
    let more = most - found.len();
    found.extend(spread(others, more));
    found
}

/// The largest difference between two tensors of one shape. Where both are NaN they do not differ.
fn largest_difference(a: &Tensor, b: &Tensor) -> Result<f64, TchError> {
    if a.numel() == 0 {
        return Ok(0.0);
    }
    let number = |tensor: &Tensor| tensor.f_detach()?.f_to_kind(Kind::Double)?.f_nan_to_num(0.0, 1e300, -1e300);
    number(a)?.f_sub(&number(b)?)?.f_abs()?.f_max()?.f_double_value(&[])
}
