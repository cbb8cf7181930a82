//! What explaining a batch asks of libtorch: calls of operators, bytes that are allocated and waits of the host, each with what
//! forward and backward pass take of it by themselves. The numbers are the same on every machine, and say what holds a GPU up.
//!
//! ```text
//! cargo run --example device_counts -- MODEL.pt2 HEIGHT WIDTH LAYERS METHODS TARGET BATCH
//! ```
//!
//! The batch is `BATCH` images of noise with `HEIGHT` x `WIDTH` pixels, explained at `LAYERS` by `METHODS` (comma-separated; with `+faithfulness` at
//! their end the heatmaps are examined, too).
//! `TARGET` is `mask` (another one for each image), `predicted`, `top`, or `classes:COUNT`, the first ones of a classifier. Printed is one JSON object, also with what comes when of
//! batches of one that are launched ahead of their results, and how far these are from those of batches that are not.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use std::{error::Error, path::Path, process::ExitCode};

use camflow::{
    explain::{ExplainOptions, Fusion, HeatmapSize, Method, Reading, Sampling, TorchExplainer},
    media::{BinaryMask, FrameRegion, InputPixels},
    names::Choice,
    pipeline::{
        Channel, ClassIndex, ClassTarget, DecodedSample, Envelope, ExplainedSample, Explainer, Fingerprint, HeatmapBatch,
        InputBatch, SampleRef, TargetPixels,
    },
    program::{Counts, Demand, Passes, Plan, PlanOptions, Precision, Program, counted, gradients},
};
use tch::{Device, Kind, Tensor};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match count(&arguments) {
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

fn count(arguments: &[String]) -> Result<String, Box<dyn Error>> {
    let [model, height, width, layers, methods, target, batch] = arguments else {
        return Err("usage: device_counts MODEL.pt2 HEIGHT WIDTH LAYERS METHODS TARGET BATCH".into());
    };
    let (height, width, batch): (usize, usize, usize) = (height.parse()?, width.parse()?, batch.parse()?);
    let program = Program::open(Path::new(model))?;
    let layers = program.resolve_layers(&layers.split(',').map(str::to_owned).collect::<Vec<_>>())?;
    let (of_methods, faithfulness) = match methods.strip_suffix("+faithfulness") {
        Some(of_methods) => (of_methods, true),
        None => (methods.as_str(), false),
    };
    let method = |name| Method::ALL.iter().copied().find(|method| method.name() == name).ok_or(format!("no method `{name}`"));
    let options = ExplainOptions {
        layers: layers.clone(),
        methods: of_methods.split(',').map(method).collect::<Result<_, _>>()?,
        fuse_layers: false,
        fusion: Fusion::Mean,
        eigen_smooth: false,
        aug_smooth: false,
        sess: false,
        size: HeatmapSize::Input,
        with_layer_maps: false,
        reading: Reading { one_channel: program.one_channel(), ..Reading::default() },
        references: None,
        faithfulness,
        counterfactuals: None,
        confidence: false,
        predictions: false,
        detections: false,
        one_by_one: false,
        probe_batch: 1,
        sampling: Sampling::default(),
        slice_batch: None,
    };
    // The operators of the model as they are, unless it is about what can be done without them.
    let exact = num_classes(target) == 0;
    let plan_options = PlanOptions { device: Device::Cpu, exact, precision: Precision::Fp32 };
    let mut explainer = TorchExplainer::new(&program, plan_options, options)?;
    let taps = layers.iter().map(|layer| layer.tap).collect();
    let plan = Plan::new(&program, &Demand { taps, ..Demand::of(program.primary_output()) }, plan_options)?;

    tch::manual_seed(0);
    let input = Tensor::f_randn([batch as i64, 3, height as i64, width as i64], (Kind::Float, Device::Cpu))?;
    let samples = (0..batch as u64).map(|seq| sample(seq, target, (height, width))).collect::<Result<_, _>>()?;
    // The first batch of an explainer measures itself.
    explainer.explain_now(InputBatch { samples: vec![sample(0, target, (height, width))?], height, width })?;

    let mut num_logits = 0;
    let passes = || -> Result<(), Box<dyn Error>> {
        let execution = plan.run(&input)?;
        num_logits = execution.output.numel();
        gradients(&execution.output.f_sum(None::<Kind>)?, &execution.taps, false, false)?;
        Ok(())
    };
    let (done, passes) = counted("cpu", passes);
    done?;
    let samples: Vec<DecodedSample> = samples;
    let batch_of = |samples: &[DecodedSample]| InputBatch { samples: samples.to_vec(), height, width };
    let batch = batch_of(&samples);
    // As a GPU is asked.
    explainer.run_ahead(true);
    let (made, all) = counted("cpu", || explainer.explain_now(batch));
    explainer.run_ahead(false);
    let made = made?;
    if let Some(failure) = made.failed.first() {
        return Err(failure.error.clone().into());
    }
    // The same one by one; then each launched before the one before it is looked at.
    let mut alone = HeatmapBatch::default();
    for sample in samples.chunks(1) {
        alone.explained.extend(explainer.explain_now(batch_of(sample))?.explained);
    }
    explainer.run_ahead(true);
    let mut ahead = Vec::new();
    for sample in samples.chunks(1) {
        ahead.push(explainer.explain(batch_of(sample))?);
    }
    ahead.push(explainer.finish()?);
    let num_ahead: Vec<usize> = ahead.iter().map(|made| made.explained.len()).collect();
    let distance = distance(&alone, ahead.iter().flat_map(|made| &made.explained)).ok_or("other samples than one by one")?;
    let num_heatmaps: usize = made.explained.iter().flat_map(|sample| &sample.classes).map(|class| class.heatmaps.len()).sum();
    let (passes, all) = passes.zip(all).ok_or("this libtorch does not count")?;
    Ok(format!(
        "{{\"num_heatmaps\": {num_heatmaps}, \"logits_bytes\": {}, \"passes\": {}, \"all\": {}, \"num_ahead\": {num_ahead:?}, \"distance\": {distance}}}",
        4 * num_logits,
        json(passes),
        json(all)
    ))
}

/// The largest difference between heatmaps of the same samples.
fn distance<'a>(made: &HeatmapBatch, other: impl Iterator<Item = &'a ExplainedSample>) -> Option<f32> {
    let heatmaps = |sample: &ExplainedSample| -> Vec<f32> {
        let heatmaps = sample.classes.iter().flat_map(|class| &class.heatmaps);
        heatmaps.flat_map(|heatmap| heatmap.values.clone()).collect()
    };
    let other: Vec<&ExplainedSample> = other.collect();
    let is_same = made.explained.len() == other.len()
        && made.explained.iter().zip(&other).all(|(one, other)| one.envelope.sample == other.envelope.sample);
    let differences = made.explained.iter().zip(other).flat_map(|(one, other)| {
        heatmaps(one).into_iter().zip(heatmaps(other)).map(|(one, other)| (one - other).abs()).collect::<Vec<_>>()
    });
    is_same.then(|| differences.fold(0.0, f32::max))
}

/// Of `classes:COUNT`; 0 of other targets.
fn num_classes(target: &str) -> usize {
    target.strip_prefix("classes:").and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn json(Counts { calls, bytes, waits, passes: Passes { whole, resumed, backward } }: Counts) -> String {
    format!(
        "{{\"calls\": {calls}, \"bytes\": {bytes}, \"waits\": {waits}, \"whole\": {whole}, \"resumed\": {resumed}, \"backward\": {backward}}}"
    )
}

fn sample(seq: u64, target: &str, (height, width): (usize, usize)) -> Result<DecodedSample, String> {
    let row = (seq as usize) % height;
    let mask = (0..height * width).map(|pixel| u8::from(pixel / width >= row)).collect();
    let (channel, pixels) = match target {
        "mask" => (Channel::Index(1), TargetPixels::Mask(BinaryMask { height, width, pixels: mask })),
        "predicted" => (Channel::Index(1), TargetPixels::Predicted),
        "top" => (Channel::Top, TargetPixels::Predicted),
        _ if num_classes(target) > 0 => (Channel::Index(0), TargetPixels::Predicted),
        other => return Err(format!("TARGET is mask, predicted, top or classes:COUNT, not {other}")),
    };
    let of_class = |class: usize| ClassTarget {
        class: ClassIndex(class),
        channel: if num_classes(target) > 0 { Channel::Index(class as i64) } else { channel },
        pixels: pixels.clone(),
        detection: None,
    };
    Ok(DecodedSample {
        envelope: Envelope::without_fields(
            SampleRef { seq, id: seq.to_string(), media_path: "noise".into() },
            Fingerprint::of_job("", "device_counts"),
        ),
        pixels: InputPixels::Levels((0..3 * height * width).map(|place| ((place as u64 * 31 + seq * 7) % 256) as u8).collect()),
        height,
        width,
        region: FrameRegion::whole(height, width),
        targets: (0..num_classes(target).max(1)).map(of_class).collect(),
        attention: None,
        slices: None,
        is_clipped: false,
        is_moved: false,
    })
}
