//! Whether a model's heatmaps can be trusted: runs the checks of [`camflow_study::sanity`] on a few images.

mod case;
mod variants;

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use super::{Observer, cam::check_head};
use camflow_diagnostic::Diagnostic;
use camflow_measure::relative_change;
use camflow_names::{Choice, counted};
use camflow_pipeline::{Cancellation, Channel, ClassTarget, DecodedSample, Explainer, Heatmap, InputBatch, TargetPixels};
use camflow_study::sanity::{
    CaseCheck, Check, CheckedColumn, Compared, HeatmapCheck, MethodPair, ModelCheck, RandomisedStep, Similarity, entropies,
};
use camflow_torch::explain::{ExplainOptions, HeatmapSize, Method, TorchExplainer};
use camflow_torch::program::{PlanOptions, Program, WeightedModule};
use case::{Case, Seen, is_constant, seen};
use variants::{Motion, noisy};

/// Images in the batch in which a heatmap should be what it is alone.
const BATCH: usize = 4;

/// Part of the shorter side of the model's input by which images are shifted, where nobody says by how much.
const SHIFT_PART: usize = 28;

/// Methods that are compared where nobody names any: those of gradients that are used most, and one of activations alone.
const COMPARED: [Method; 5] = [Method::Gradcam, Method::GradcamPlusPlus, Method::Layercam, Method::Hirescam, Method::Eigencam];

/// How a model is checked.
#[derive(Clone, Debug)]
pub struct CheckModelSpec {
    /// In how many steps weights are randomised; 0: module by module.
    pub num_steps: usize,
    /// Whether the weights of each step are also randomised alone.
    pub independent: bool,
    /// What draws follow from.
    pub seed: u64,
    /// By how many pixels images are shifted; `None`: one 28th of the shorter side.
    pub shift: Option<usize>,
    /// How far noise moves each number of the model's input at most.
    pub noise: f64,
    /// How many draws of noise.
    pub draws: usize,
    /// Methods to compare with; empty: the usual ones.
    pub methods: Vec<Method>,
    /// What the channels are called.
    pub class_names: BTreeMap<i64, String>,
    /// Whether maps are kept, to be looked at.
    pub keeps_maps: bool,
}

/// A map that was made.
#[derive(Clone, Debug)]
pub struct KeptMap {
    /// What of: `original`, `mirrored`, `shifted_right`, `shifted_down` (all moved back), `noise`, `randomised_1` with the weights of the
    /// first step random, and `alone_1` with those alone.
    pub name: String,
    /// f32 `[height, width]` in `[0, 1]`, over the model's input.
    pub values: Vec<f32>,
}

/// The maps of one class of one image.
#[derive(Clone, Debug)]
pub struct KeptMaps {
    /// Which of the samples.
    pub sample: usize,
    /// By column.
    pub columns: Vec<Vec<KeptMap>>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct CheckedModel {
    /// The figures.
    pub found: ModelCheck,
    /// Of each case, where maps are kept.
    pub maps: Vec<KeptMaps>,
    /// Images that could not be explained, and why.
    pub failed: Vec<(PathBuf, String)>,
}

/// Checks a model by what its heatmaps of these samples do. `None`: it was stopped.
///
/// # Errors
/// The device fails, or the model cannot be run with what is asked.
pub fn check_model(
    program: &mut Program,
    plan_options: PlanOptions,
    options: &ExplainOptions,
    samples: Vec<DecodedSample>,
    spec: &CheckModelSpec,
    cancellation: &Cancellation,
    observer: &dyn Observer,
) -> Result<Option<CheckedModel>, Diagnostic> {
    if let Some(method) = spec.methods.iter().find(|method| method.needs_linear_head()) {
        check_head(*method, program, &options.layers)?;
    }
    let mut options = options.clone();
    // Over the model's input, where all changes are made.
    options.size = HeatmapSize::Input;
    options.confidence = !options.reading.is_value;
    options.predictions = options.confidence;
    options.with_layer_maps = false;
    let mut run =
        Run { options, plan_options, spec, cancellation, observer, checked: CheckedModel::default(), cases: Vec::new() };
    let done = run.all(program, samples);
    program.restore_weights();
    match done {
        Ok(()) => Ok(Some(run.checked)),
        Err(Stop::Cancelled) => Ok(None),
        Err(Stop::Fault(fault)) => Err(*fault),
    }
}

/// A case with other weights, by column.
struct Changed {
    compared: Vec<Compared>,
    maps: Vec<Heatmap>,
}

/// Why checking ends early.
enum Stop {
    Cancelled,
    Fault(Box<Diagnostic>),
}

impl<E: Into<Diagnostic>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Fault(Box::new(error.into()))
    }
}

struct Run<'a> {
    options: ExplainOptions,
    plan_options: PlanOptions,
    spec: &'a CheckModelSpec,
    cancellation: &'a Cancellation,
    observer: &'a dyn Observer,
    checked: CheckedModel,
    cases: Vec<Case>,
}

impl Run<'_> {
    fn all(&mut self, program: &mut Program, samples: Vec<DecodedSample>) -> Result<(), Stop> {
        let columns = self.options.columns().into_iter().map(|column| CheckedColumn {
            method: column.method.name().to_owned(),
            layer: column.label,
            path: column.path,
        });
        let side = samples.iter().map(|sample| sample.height.min(sample.width)).min().unwrap_or(0);
        self.checked.found = ModelCheck {
            model: program.metadata.name.clone(),
            seed: self.spec.seed,
            shift: self.spec.shift.unwrap_or((side + SHIFT_PART / 2) / SHIFT_PART).max(1),
            noise: self.spec.noise,
            columns: columns.collect(),
            ..ModelCheck::default()
        };
        let mut explainer = self.explainer(program)?;
        self.originals(&mut explainer, samples)?;
        if self.cases.is_empty() {
            return Ok(());
        }
        self.observer.step("the same images again, and in batches");
        self.repeated(&mut explainer)?;
        self.observer.step("images mirrored and shifted");
        self.moved(&mut explainer)?;
        if self.spec.draws > 0 {
            self.observer.step("images with noise");
            self.noise(&mut explainer, program)?;
        } else {
            self.not_made(Check::Noise, "no draws of noise are asked for");
        }
        drop(explainer);
        self.observer.step("other methods");
        self.agreement(program)?;
        self.randomised(program)
    }

    fn explainer(&self, program: &Program) -> Result<TorchExplainer, Diagnostic> {
        Ok(TorchExplainer::new(program, self.plan_options, self.options.clone())?)
    }

    fn not_made(&mut self, check: Check, reason: &str) {
        self.checked.found.reasons.push((check, reason.to_owned()));
    }

    /// One sample, alone.
    fn explain(&self, explainer: &mut TorchExplainer, sample: DecodedSample) -> Result<Result<Seen, String>, Stop> {
        if self.cancellation.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        let (height, width) = (sample.height, sample.width);
        let mut made = explainer.explain_now(InputBatch { samples: vec![sample], height, width })?;
        Ok(match (made.explained.pop(), made.failed.pop()) {
            (Some(explained), _) => Ok(seen(explained)),
            (None, failed) => Err(failed.map_or_else(|| "the model gives nothing".to_owned(), |failed| failed.error)),
        })
    }

    fn originals(&mut self, explainer: &mut TorchExplainer, samples: Vec<DecodedSample>) -> Result<(), Stop> {
        self.observer.step(&format!("heatmaps of {}", counted(samples.len(), "image", "images")));
        for (place, sample) in samples.into_iter().enumerate() {
            let image = sample.envelope.sample.media_path.clone();
            let seen = match self.explain(explainer, sample.clone())? {
                Ok(seen) => seen,
                Err(error) => {
                    self.checked.failed.push((image, error));
                    continue;
                }
            };
            if seen.classes.is_empty() {
                self.checked.found.num_absent += 1;
            }
            for original in seen.classes {
                let Some(asked) = sample.targets.iter().find(|target| target.class == original.class) else { continue };
                let with = |pixels: TargetPixels| DecodedSample {
                    targets: vec![ClassTarget { channel: Channel::Index(original.channel), pixels, ..asked.clone() }],
                    ..sample.clone()
                };
                let own = match (&original.detections, &original.object, &asked.pixels) {
                    (Some(detections), ..) => TargetPixels::Mask(detections.clone()),
                    (None, Some(object), TargetPixels::Predicted) => TargetPixels::Mask(object.clone()),
                    // The score of a classifier counts whatever it decides.
                    (None, None, TargetPixels::Predicted) => TargetPixels::Labelled,
                    (_, _, pixels) => pixels.clone(),
                };
                let fixed = with(own);
                let decided = if original.detections.is_some() { with(asked.pixels.clone()) } else { fixed.clone() };
                let channel = original.channel;
                self.checked.found.cases.push(CaseCheck {
                    name: sample.envelope.sample.id.clone(),
                    image: image.clone(),
                    class: self.spec.class_names.get(&channel).cloned().unwrap_or_else(|| channel.to_string()),
                    channel,
                    confidence: original.confidence,
                    heatmaps: original
                        .heatmaps
                        .iter()
                        .map(|map| HeatmapCheck { is_constant: is_constant(&map.values), ..HeatmapCheck::default() })
                        .collect(),
                    agreements: Vec::new(),
                });
                let columns = original.heatmaps.iter().map(|_| Vec::new()).collect();
                self.checked.maps.push(KeptMaps { sample: place, columns });
                let prediction = seen.prediction;
                let heatmaps = original.heatmaps.clone();
                self.cases.push(Case { fixed, decided, original, prediction });
                self.keep(self.cases.len() - 1, "original", &heatmaps);
            }
        }
        Ok(())
    }

    /// Keeps the maps of all columns of a case, where that is asked.
    fn keep(&mut self, case: usize, name: &str, heatmaps: &[Heatmap]) {
        if self.spec.keeps_maps {
            for (column, heatmap) in self.checked.maps[case].columns.iter_mut().zip(heatmaps) {
                column.push(KeptMap { name: name.to_owned(), values: heatmap.values.clone() });
            }
        }
    }

    fn repeated(&mut self, explainer: &mut TorchExplainer) -> Result<(), Stop> {
        for case in 0..self.cases.len() {
            let again = self.explain(explainer, self.cases[case].fixed.clone())?;
            let differences = self.cases[case].differences(&again);
            for (heatmap, difference) in self.checked.found.cases[case].heatmaps.iter_mut().zip(differences) {
                heatmap.repeat = Some(difference);
            }
        }
        if self.options.one_by_one || explainer.is_one_by_one() {
            self.not_made(Check::Batch, "the model takes one image at a time");
            return Ok(());
        }
        let mut waiting: Vec<usize> = (0..self.cases.len()).collect();
        while let Some(first) = waiting.first().copied() {
            let size = self.cases[first].size();
            let batch: Vec<usize> = waiting.iter().copied().filter(|case| self.cases[*case].size() == size).take(BATCH).collect();
            waiting.retain(|case| !batch.contains(case));
            let mut samples: Vec<DecodedSample> = batch.iter().map(|case| self.cases[*case].fixed.clone()).collect();
            if let [only] = &samples[..] {
                // Something else has to be there.
                samples.extend(Motion::Mirror.of(only));
            }
            for (seq, sample) in samples.iter_mut().enumerate() {
                sample.envelope.sample.seq = seq as u64;
            }
            if self.cancellation.is_cancelled() {
                return Err(Stop::Cancelled);
            }
            let made = explainer.explain_now(InputBatch { samples, height: size.0, width: size.1 })?;
            for explained in made.explained {
                let Some(case) = batch.get(explained.envelope.sample.seq as usize).copied() else { continue };
                let differences = self.cases[case].differences(&Ok(seen(explained)));
                for (heatmap, difference) in self.checked.found.cases[case].heatmaps.iter_mut().zip(differences) {
                    heatmap.batch = Some(difference);
                }
            }
        }
        Ok(())
    }

    fn moved(&mut self, explainer: &mut TorchExplainer) -> Result<(), Stop> {
        let shift = self.checked.found.shift;
        let motions = [Motion::Mirror, Motion::Shift { right: shift, down: 0 }, Motion::Shift { right: 0, down: shift }];
        for case in 0..self.cases.len() {
            for motion in motions {
                let seen = match motion.of(&self.cases[case].decided) {
                    Some(sample) => self.explain(explainer, sample)?,
                    None => Err(format!("{} the image shows nothing of what is explained", motion.name().replace('_', " "))),
                };
                let of = &self.cases[case];
                let size = of.size();
                let compared = of.compared(&seen, true, |before, after| {
                    let (before, after, size) = motion.both(before, after, size);
                    Similarity::of(&before, &after, size)
                });
                if let Ok(found) = of.find(&seen) {
                    let back = |map: &Heatmap| Heatmap { values: motion.back(&map.values, size), ..map.clone() };
                    let heatmaps: Vec<Heatmap> = found.heatmaps.iter().map(back).collect();
                    self.keep(case, motion.name(), &heatmaps);
                }
                for (heatmap, compared) in self.checked.found.cases[case].heatmaps.iter_mut().zip(compared) {
                    match motion {
                        Motion::Mirror => heatmap.flip = Some(compared),
                        Motion::Shift { .. } => heatmap.shifts.push(compared),
                    }
                }
            }
        }
        Ok(())
    }

    fn noise(&mut self, explainer: &mut TorchExplainer, program: &Program) -> Result<(), Stop> {
        let normalization = program.metadata.preprocess.normalization();
        for case in 0..self.cases.len() {
            for number in 0..self.spec.draws {
                let sample = noisy(&self.cases[case].fixed, &normalization, self.spec.noise, self.spec.seed, number);
                let seen = self.explain(explainer, sample)?;
                let of = &self.cases[case];
                let found = of.find(&seen).ok();
                let is_moved = of.is_moved(&seen, found.and_then(|found| found.confidence));
                if let (0, Some(found)) = (number, found) {
                    let heatmaps = found.heatmaps.clone();
                    self.keep(case, "noise", &heatmaps);
                }
                for (column, heatmap) in self.checked.found.cases[case].heatmaps.iter_mut().enumerate() {
                    let before = &self.cases[case].original.heatmaps[column].values;
                    let after = self.cases[case].find(&seen).ok().and_then(|found| found.heatmaps.get(column));
                    heatmap.noise.push(after.and_then(|after| relative_change(before, &after.values)));
                    heatmap.num_noise_moved += usize::from(is_moved);
                }
            }
        }
        Ok(())
    }

    fn agreement(&mut self, program: &Program) -> Result<(), Stop> {
        let mut methods = self.options.methods.clone();
        let is_possible = |method: &Method| {
            let layers = &self.options.layers;
            program.check_influence(layers, method.needed_influence(), method.needs_image_gradient()).is_ok()
        };
        let others: Vec<Method> = match self.spec.methods.is_empty() {
            true => COMPARED.into_iter().filter(is_possible).collect(),
            false => self.spec.methods.clone(),
        };
        let known: HashSet<Method> = methods.iter().copied().collect();
        methods.extend(others.into_iter().filter(|method| !known.contains(method)));
        let options = ExplainOptions { methods, ..self.options.clone() };
        let columns = options.columns();
        let mut pairs = Vec::new();
        for (first, one) in columns.iter().enumerate() {
            for (second, other) in columns.iter().enumerate().skip(first + 1) {
                if one.label == other.label {
                    pairs.push((first, second));
                }
            }
        }
        if pairs.is_empty() {
            self.not_made(Check::Agreement, "no other method can be compared with");
            return Ok(());
        }
        self.checked.found.pairs = pairs
            .iter()
            .map(|(first, second)| MethodPair {
                methods: [*first, *second].map(|place| columns[place].method.name().to_owned()),
                layer: columns[*first].label.clone(),
            })
            .collect();
        let mut explainer = TorchExplainer::new(program, self.plan_options, options)?;
        for case in 0..self.cases.len() {
            let seen = self.explain(&mut explainer, self.cases[case].fixed.clone())?;
            let agreements = match self.cases[case].find(&seen) {
                Ok(found) => {
                    let values = |place: usize| &found.heatmaps[place].values;
                    pairs.iter().map(|(a, b)| camflow_measure::spearman(values(*a), values(*b))).collect()
                }
                Err(_) => vec![None; pairs.len()],
            };
            self.checked.found.cases[case].agreements = agreements;
        }
        Ok(())
    }

    fn randomised(&mut self, program: &mut Program) -> Result<(), Stop> {
        let modules = program.weighted_modules();
        if modules.is_empty() {
            for check in [Check::Randomisation, Check::Output] {
                self.not_made(check, "the output is computed without weights");
            }
            return Ok(());
        }
        let steps = in_steps(modules, self.spec.num_steps);
        self.checked.found.steps = steps
            .iter()
            .map(|modules| RandomisedStep {
                modules: modules.iter().map(|module| module.path.clone()).collect(),
                num_weights: modules.iter().map(|module| module.num_weights).sum(),
            })
            .collect();
        for (number, modules) in steps.iter().enumerate() {
            let label = self.checked.found.steps[number].label();
            self.observer.step(&format!("weights randomised down to {label} (step {} of {})", number + 1, steps.len()));
            modules.iter().try_for_each(|module| program.randomise(module, self.spec.seed))?;
            let compared = self.compare_all(program, &format!("randomised_{}", number + 1))?;
            let is_last = number + 1 == steps.len();
            for (case, Changed { compared, maps: last }) in compared.into_iter().enumerate() {
                for (column, one) in compared.into_iter().enumerate() {
                    let heatmap = &mut self.checked.found.cases[case].heatmaps[column];
                    heatmap.cascading.push(one);
                    if is_last {
                        let before = &self.cases[case].original.heatmaps[column].values;
                        heatmap.entropies = entropies(before, last.get(column).map(|map| &map.values[..]));
                    }
                }
            }
        }
        for (number, modules) in steps.iter().enumerate().filter(|_| self.spec.independent) {
            let label = self.checked.found.steps[number].label();
            self.observer.step(&format!("weights of {label} randomised alone (step {} of {})", number + 1, steps.len()));
            program.restore_weights();
            modules.iter().try_for_each(|module| program.randomise(module, self.spec.seed))?;
            let compared = self.compare_all(program, &format!("alone_{}", number + 1))?;
            for (case, Changed { compared, .. }) in compared.into_iter().enumerate() {
                for (column, one) in compared.into_iter().enumerate() {
                    self.checked.found.cases[case].heatmaps[column].independent.push(one);
                }
            }
        }
        Ok(())
    }

    /// All cases with the program's weights as they are now, beside the original ones; and the maps.
    fn compare_all(&mut self, program: &Program, name: &str) -> Result<Vec<Changed>, Stop> {
        let mut explainer = self.explainer(program)?;
        let mut all = Vec::new();
        for case in 0..self.cases.len() {
            let seen = self.explain(&mut explainer, self.cases[case].fixed.clone())?;
            let of = &self.cases[case];
            let size = of.size();
            // Of course the model answers otherwise.
            let compared = of.compared(&seen, false, |before, after| Similarity::of(before, after, size));
            let maps = of.find(&seen).map(|found| found.heatmaps.clone()).unwrap_or_default();
            self.keep(case, name, &maps);
            all.push(Changed { compared, maps });
        }
        Ok(all)
    }
}

/// Modules in so many steps, from the first on: that one by itself, the others in parts of about the same number; with 0, or as many as
/// there are, each by itself.
fn in_steps(modules: Vec<WeightedModule>, num_steps: usize) -> Vec<Vec<WeightedModule>> {
    if num_steps == 0 || num_steps >= modules.len() {
        return modules.into_iter().map(|module| vec![module]).collect();
    }
    let (rest, num_rest) = (modules.len() - 1, num_steps - 1);
    let mut steps: Vec<Vec<WeightedModule>> = vec![Vec::new(); num_steps];
    for (place, module) in modules.into_iter().enumerate() {
        let step = if place == 0 || num_rest == 0 { 0 } else { 1 + (place - 1) * num_rest / rest };
        steps[step].push(module);
    }
    steps
}

/// Makes sure that a prediction of a detector can be followed from one model to another.
///
/// # Errors
/// It has two stages, and looks at other regions in each image and with other weights.
pub fn check_unranked(program: &Program) -> Result<(), Diagnostic> {
    if program.metadata.detections.as_ref().is_some_and(|detections| detections.ranked) {
        let model = camflow_media::shown(program.path());
        return Err(Diagnostic::invalid(format!(
            "model `{model}` looks at other regions in each image: it has two stages, and with other weights no prediction is the same"
        ))
        .hint("check a detector of one stage"));
    }
    Ok(())
}
