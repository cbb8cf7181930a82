//! How fast a device makes heatmaps with nothing around it: no files, no database, no other stage. `scripts/lab/bench.py` holds the
//! rate of a whole run against it.
//!
//! ```text
//! cargo run --release --example device_rate -- MODEL.pt2 INPUT.npy MASK.npy CHANNEL LAYERS DEVICE COUNT BATCH PRECISION [METHODS SIZE]
//! ```
//!
//! `INPUT.npy` is f32 `[1, 3, H, W]`, `MASK.npy` whole numbers `[h, w]` in which `CHANNEL` marks the class. The image is
//! explained `COUNT` times with Grad-CAM at `LAYERS` (comma-separated), in batches of `BATCH` (`auto`: as camflow takes them by
//! default) and in `PRECISION` (`fp32`, `tf32` or `bf16`); by other `METHODS` (comma-separated), and in maps of another `SIZE` (`layer`),
//! where they are given. With `classes` in place of the mask, each of the first `CHANNEL` classes of a classifier is explained. Printed is
//! one JSON object: seconds by the clock and of the processor, how many heatmaps came, and how many pixels of them at once at most.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::{error::Error, path::Path, process::ExitCode, time::Instant};

use camflow::{
    explain::{ExplainOptions, Fusion, HeatmapSize, Method, Reading, Sampling, TorchExplainer},
    media::{FrameRegion, InputPixels, LabelMask, MaskValue, read_array_file},
    names::Choice,
    pipeline::{
        Channel, ClassIndex, ClassTarget, DecodedSample, Envelope, Explainer, Fingerprint, HeatmapBatch, InputBatch, SampleRef,
        TargetPixels,
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
    let (arguments, more) = arguments.split_at(arguments.len().min(9));
    let [model, input, mask, channel, layers, device, count, batch, precision] = arguments else {
        return Err(
            "usage: device_rate MODEL.pt2 INPUT.npy MASK.npy CHANNEL LAYERS DEVICE COUNT BATCH PRECISION [METHODS SIZE]".into()
        );
    };
    let named =
        |name: &str| Method::ALL.iter().copied().find(|method| method.name() == name).ok_or(format!("no method `{name}`"));
    let (methods, size) = match more {
        [] => (vec![Method::Gradcam], HeatmapSize::Input),
        [methods, size] => (
            methods.split(',').map(named).collect::<Result<_, _>>()?,
            HeatmapSize::ALL.iter().copied().find(|known| known.name() == size).ok_or("SIZE is input, image or layer")?,
        ),
        _ => return Err("METHODS and SIZE go together".into()),
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
        methods,
        fuse_layers: false,
        fusion: Fusion::Mean,
        eigen_smooth: false,
        aug_smooth: false,
        sess: false,
        size,
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
        sampling: Sampling::default(),
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
    let target = |class: usize, channel: i64, pixels: TargetPixels| ClassTarget {
        class: ClassIndex(class),
        channel: Channel::Index(channel),
        pixels,
        detection: None,
    };
    let targets = match mask.as_str() {
        "classes" => (0..channel).map(|class| target(class as usize, class, TargetPixels::Predicted)).collect(),
        _ => {
            let label = LabelMask::from_array(read_array_file(Path::new(mask), 1 << 30)?)?;
            vec![target(0, channel, TargetPixels::Mask(label.select(&MaskValue::Index(channel))?))]
        }
    };
    let sample = SampleRef { seq: 0, id: "0".into(), media_path: input.into() };
    let sample = DecodedSample {
        envelope: Envelope::without_fields(sample, Fingerprint::of_job("", "device_rate")),
        pixels: InputPixels::Levels(levels),
        height,
        width,
        region: FrameRegion::whole(height, width),
        targets,
        attention: None,
        slices: None,
        is_clipped: false,
        is_moved: false,
    };
    let batch_of = |size: usize| InputBatch { samples: vec![sample.clone(); size], height, width };

    let started = (Instant::now(), processor_seconds());
    let (mut launched, mut done) = (0, 0);
    let (mut num_heatmaps, mut most_pixels) = (0, 0);
    while done < count {
        let mut made = if launched < count {
            let batch = batch.unwrap_or_else(|| explainer.batch_limit().of_shape(height, width)).min(count - launched);
            launched += batch;
            Some(explainer.explain(batch_of(batch))?)
        } else {
            Some(explainer.finish()?)
        };
        while let Some(HeatmapBatch { explained, failed }) = made {
            if let Some(failure) = failed.first() {
                return Err(failure.error.clone().into());
            }
            let of_batch = explained.iter().flat_map(|sample| &sample.classes).flat_map(|class| &class.heatmaps);
            let pixels: Vec<usize> = of_batch.map(|heatmap| heatmap.height * heatmap.width).collect();
            num_heatmaps += pixels.len();
            most_pixels = most_pixels.max(pixels.iter().sum());
            done += explained.iter().filter(|explained| explained.part.number + 1 == explained.part.count).count();
            made = explainer.next_part()?;
        }
    }
    let elapsed = started.0.elapsed().as_secs_f64();
    let processor = processor_seconds() - started.1;
    Ok(format!(
        "{{\"num_samples\": {done}, \"loop_s\": {elapsed}, \"cpu_s\": {processor}, \"num_heatmaps\": {num_heatmaps}, \"most_pixels\": {most_pixels}}}"
    ))
}

/// Seconds of the processor that this process has taken, in all of its threads.
fn processor_seconds() -> f64 {
    // SAFETY: all zeros is a value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: it is a place to write to.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
