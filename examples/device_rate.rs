//! How fast a device makes heatmaps with nothing around it: no files, no database, no other stage. `scripts/lab/bench.py` holds the
//! rate of a whole run against it.
//!
//! ```text
//! cargo run --release --example device_rate -- MODEL.pt2 INPUT.npy MASK.npy CHANNEL LAYERS DEVICE COUNT BATCH PRECISION
//! ```
//!
//! `INPUT.npy` is f32 `[1, 3, H, W]`, `MASK.npy` whole numbers `[h, w]` in which `CHANNEL` marks the class. The image is
//! explained `COUNT` times with Grad-CAM at `LAYERS` (comma-separated), in batches of `BATCH` (`auto`: as camflow takes them by
//! default) and in `PRECISION` (`fp32`, `tf32` or `bf16`). Printed is one JSON object.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::{error::Error, path::Path, process::ExitCode, time::Instant};

use camflow::{
    explain::{ExplainOptions, Fusion, HeatmapSize, Method, Reading, TorchExplainer},
    media::{FrameRegion, InputPixels, LabelMask, MaskValue, read_array_file},
    names::Choice,
    pipeline::{
        Channel, ClassIndex, ClassTarget, DecodedSample, Envelope, Explainer, Fingerprint, InputBatch, SampleRef, TargetPixels,
    },
    program::{CudaStatus, PlanOptions, Precision, Program, allow_tf32, cuda_status, keep_freed_memory},
};
use tch::Device;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match measure(&arguments) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &[String]) -> Result<String, Box<dyn Error>> {
    let [model, input, mask, channel, layers, device, count, batch, precision] = arguments else {
        return Err("usage: device_rate MODEL.pt2 INPUT.npy MASK.npy CHANNEL LAYERS DEVICE COUNT BATCH PRECISION".into());
    };
    keep_freed_memory();
    let channel: i64 = channel.parse()?;
    let count: usize = count.parse()?;
    let device = match (device.as_str(), cuda_status()) {
        ("cpu", _) => Device::Cpu,
        (_, CudaStatus::Available(_)) => Device::Cuda(0),
        (_, CudaStatus::Unavailable(reason)) => return Err(reason.to_string().into()),
    };
    let program = Program::open(Path::new(model))?;
    let layers = program.resolve_layers(&layers.split(',').map(str::to_owned).collect::<Vec<_>>())?;
    let options = ExplainOptions {
        layers,
        methods: vec![Method::Gradcam],
        fuse_layers: false,
        fusion: Fusion::Mean,
        eigen_smooth: false,
        aug_smooth: false,
        sess: false,
        size: HeatmapSize::Input,
        with_layer_maps: false,
        reading: Reading { one_channel: program.one_channel(), ..Reading::default() },
        references: None,
        faithfulness: false,
        counterfactuals: None,
        confidence: false,
        predictions: false,
        detections: false,
        one_by_one: false,
        probe_batch: 1,
        slice_batch: None,
    };
    let precision = Precision::ALL.iter().find(|known| known.name() == precision).ok_or("PRECISION is fp32, tf32 or bf16")?;
    allow_tf32(*precision == Precision::Tf32);
    let plan_options = PlanOptions { device, exact: false, precision: *precision };
    let mut explainer = TorchExplainer::new(&program, plan_options, options)?;

    let image = read_array_file(Path::new(input), 1 << 30)?;
    let [_, _, height, width] = image.shape[..] else { return Err("the input is not [1, 3, H, W]".into()) };
    // The levels of which this is the input, as images come.
    let normalization = program.metadata.preprocess.normalization();
    let (floats, channels) = (image.values.to_f32(), normalization.mean.len());
    let mut levels = vec![0; floats.len()];
    for (place, level) in levels.iter_mut().enumerate() {
        let (pixel, channel) = (place / channels, place % channels);
        let sample = floats[channel * height * width + pixel] * normalization.std[channel] + normalization.mean[channel];
        *level = (sample * normalization.divide_by).round() as u8;
    }
    let batch: Option<usize> = if batch == "auto" { None } else { Some(batch.parse()?) };
    let label = LabelMask::from_array(read_array_file(Path::new(mask), 1 << 30)?)?;
    let selected = label.select(&MaskValue::Index(channel))?;
    let sample = SampleRef { seq: 0, id: "0".into(), media_path: input.into() };
    let sample = DecodedSample {
        envelope: Envelope::without_fields(sample, Fingerprint::of_job("", "device_rate")),
        pixels: InputPixels::Levels(levels),
        height,
        width,
        region: FrameRegion::whole(height, width),
        targets: vec![ClassTarget {
            class: ClassIndex(0),
            channel: Channel::Index(channel),
            pixels: TargetPixels::Mask(selected),
            detection: None,
        }],
        attention: None,
        slices: None,
        is_clipped: false,
        is_moved: false,
    };
    let batch_of = |size: usize| InputBatch { samples: vec![sample.clone(); size], height, width };

    let started = Instant::now();
    let (mut launched, mut done) = (0, 0);
    while done < count {
        let made = if launched < count {
            let batch = batch.unwrap_or_else(|| explainer.batch_limit().of_shape(height, width)).min(count - launched);
            launched += batch;
            explainer.explain(batch_of(batch))?
        } else {
            explainer.finish()?
        };
        if let Some(failure) = made.failed.first() {
            return Err(failure.error.clone().into());
        }
        done += made.explained.len();
    }
    let elapsed = started.elapsed().as_secs_f64();
    Ok(format!("{{\"num_samples\": {done}, \"loop_s\": {elapsed}}}"))
}
