//! One tensor through the model: forward, then pass by pass the saliency maps of all methods.

use tch::{Kind, TchError, Tensor};
use typed_index_collections::{TiSlice, TiVec};

use super::{
    ExplainError, TorchExplainer,
    class_gradients::ClassMaps,
    detection::predicted,
    grid::{Cell, ColumnIndex, Grid, SampleIndex, TargetIndex},
    pass::{Pass, Run, Setting},
    probe::ProbeOptions,
    target::{Boxes, Score, class_confidences, class_scores, pixel_values, predictions, resolve},
};
use crate::program::Execution;
use camflow_media::BinaryMask;
use camflow_pipeline::ClassTarget;

/// The maps of a batch.
pub(super) struct Saliencies {
    /// What was differentiated, of each class that is there.
    pub targets: Grid<Score>,
    /// How much that is, f64 `[n]` of each pass, on the device.
    pub values: Vec<Tensor>,
    /// The classes' probabilities, the same, if they were asked for, or tiles are weighed by them.
    pub confidences: Vec<Tensor>,
    /// What a classifier predicts for each sample, as [`predictions`] says it, if that was asked for.
    pub predictions: Option<Tensor>,
    /// What a detector predicts for them, as [`predicted`] says it, likewise.
    pub detected: Option<Tensor>,
    /// What a segmentation network gives each pixel, as [`pixel_values`] says it, likewise.
    pub pixels: Option<Tensor>,
    /// Target by target.
    pub passes: Vec<PassMaps>,
}

impl Saliencies {
    /// The first passes, with what belongs to them, which are left out here.
    pub(super) fn take_first(&mut self, count: usize) -> Saliencies {
        let count = count.min(self.passes.len());
        let passes: Vec<PassMaps> = self.passes.drain(..count).collect();
        let mut targets = Grid::default();
        for pass in &passes {
            for &sample in &pass.samples {
                let cell = Cell { sample, target: pass.target };
                if let Some(score) = self.targets.remove(cell) {
                    targets.insert(cell, score);
                }
            }
        }
        let share = |all: &Option<Tensor>| all.as_ref().map(Tensor::shallow_clone);
        Saliencies {
            targets,
            values: self.values.drain(..count).collect(),
            confidences: self.confidences.drain(..count.min(self.confidences.len())).collect(),
            predictions: share(&self.predictions),
            detected: share(&self.detected),
            pixels: share(&self.pixels),
            passes,
        }
    }
}

/// The maps of one target of every sample that has it.
pub(super) struct PassMaps {
    /// Which target.
    pub target: TargetIndex,
    /// Those samples.
    pub samples: Vec<SampleIndex>,
    /// The saliency `[N, H', W']` of each layer of the column, or of the network. Rows of other samples mean nothing.
    pub columns: TiVec<ColumnIndex, Vec<Tensor>>,
}

impl TorchExplainer {
    /// The maps of an input's targets. `keys` tell samples apart where chance plays a part; `shown` are the parts of the input
    /// that show an image, where others do not.
    pub(super) fn saliencies(
        &self,
        input: &Tensor,
        keys: &[String],
        targets: &TiSlice<SampleIndex, Vec<ClassTarget>>,
        shown: &TiSlice<SampleIndex, Option<BinaryMask>>,
    ) -> Result<Saliencies, ExplainError> {
        let execution = {
            let _no_grad = self.derivatives.is_empty().then(tch::no_grad_guard);
            self.plan.run(input)?
        };
        let _no_grad = tch::no_grad_guard();
        let scores = self.resolve(&execution, targets, shown)?;
        let output = &execution.output;
        let predictions = match self.options.predictions && output.dim() == 2 {
            true => Some(predictions(&output.f_detach()?, self.options.reading)?),
            false => None,
        };
        let detected = match (&execution.boxes, self.options.reading.detections) {
            (Some(boxes), Some(detections)) if self.options.detections => {
                Some(predicted(&output.f_detach()?, &boxes.f_detach()?, self.options.reading, detections.scores)?)
            }
            _ => None,
        };
        let pixels = match self.options.detections && output.dim() == 4 && self.options.reading.detections.is_none() {
            true => Some(pixel_values(&output.f_detach()?, self.options.reading)?),
            false => None,
        };
        let setting = Setting {
            plan: &self.plan,
            layers: &self.options.layers,
            taps: &self.taps,
            derivatives: &self.derivatives,
            probe_options: ProbeOptions { batch: self.probe_batch as i64 },
            sampling: (self.options.sampling, &self.black),
        };
        let guided = match &self.guided {
            Some((plan, tap)) => {
                Some((tch::with_grad(|| plan.run(&execution.input.f_detach()?).map_err(ExplainError::from))?, *tap))
            }
            None => None,
        };
        let run = Run::new(setting, execution, guided, scores, keys);
        let reduction = self.options.reduction();
        let mut shared = self.class_gradients.maps(&run, &self.columns, reduction)?;
        let is_all_shared = shared.iter().all(Option::is_some);
        let targets: Vec<TargetIndex> = run.scores().targets().collect();
        // Of methods that look at no class, what the first pass gave.
        let mut alike: TiVec<ColumnIndex, Vec<Tensor>> = self.columns.iter().map(|_| Vec::new()).collect();
        let mut passes = Vec::new();
        for (number, &target) in targets.iter().enumerate() {
            // A pass is the same for all columns.
            let pass = (!is_all_shared).then(|| Pass::new(&run, target, number + 1 == targets.len()));
            let of_column =
                |((index, column), shared): ((ColumnIndex, &super::Column), &mut Option<ClassMaps>)| match (shared, &pass) {
                    (Some(maps), _) => Ok(maps.iter_mut().filter_map(|of_layer| of_layer.remove(&target)).collect()),
                    (None, Some(pass)) if column.method.is_of_class() => {
                        column.method.saliencies(pass, &column.layers, reduction)
                    }
                    (None, Some(pass)) => {
                        if alike[index].is_empty() {
                            alike[index] = column.method.saliencies(pass, &column.layers, reduction)?;
                        }
                        Ok(alike[index].iter().map(Tensor::shallow_clone).collect())
                    }
                    (None, None) => Ok(Vec::new()),
                };
            let columns = self.columns.iter_enumerated().zip(&mut shared).map(of_column).collect::<Result<_, _>>()?;
            let samples = run.scores().of_target(target).map(|(sample, _)| sample).collect();
            passes.push(PassMaps { target, samples, columns });
        }
        let output = run.output()?;
        let values = self.by_pass(&run, &passes, |scores| class_scores(&output, scores))?;
        let confidences = match self.options.confidence || self.options.sess {
            true => self.by_pass(&run, &passes, |scores| class_confidences(&output, scores))?,
            false => Vec::new(),
        };
        Ok(Saliencies { targets: run.into_scores(), values, confidences, predictions, detected, pixels, passes })
    }

    /// Numbers of all scores, f64 `[n]` of each pass. Those of classes are asked for together; maps of logits would take too much memory.
    fn by_pass(
        &self,
        run: &Run<'_>,
        passes: &[PassMaps],
        numbers: impl Fn(&[(SampleIndex, &Score)]) -> Result<Tensor, TchError>,
    ) -> Result<Vec<Tensor>, TchError> {
        let at_once = if run.scores().iter().all(|(_, score)| score.key().is_some()) { passes.len() } else { 1 };
        let mut found = Vec::new();
        for some in passes.chunks(at_once.max(1)) {
            let scores: Vec<_> = some.iter().flat_map(|pass| run.scores().of_target(pass.target)).collect();
            let sizes: Vec<i64> = some.iter().map(|pass| pass.samples.len() as i64).collect();
            found.extend(numbers(&scores)?.f_to_kind(Kind::Double)?.f_split_with_sizes(sizes, 0)?);
        }
        Ok(found)
    }

    /// What is differentiated, of each class that is there.
    fn resolve(
        &self,
        execution: &Execution,
        targets: &TiSlice<SampleIndex, Vec<ClassTarget>>,
        shown: &TiSlice<SampleIndex, Option<BinaryMask>>,
    ) -> Result<Grid<Score>, ExplainError> {
        let output = &execution.output;
        if output.dim() != 2 && output.dim() != 4 {
            return Err(ExplainError::Unsuitable(format!(
                "the model's output has shape {:?}; class logits [N, K] or [N, K, H, W] are wanted, wrap the model at export",
                output.size()
            )));
        }
        if self.options.sess && output.dim() != 2 {
            return Err(ExplainError::Unsuitable(
                "`--sess` weighs tiles by the probabilities of a classifier [N, K]; this model gives a map".into(),
            ));
        }
        self.options.methods.iter().try_for_each(|method| method.check_output(output))?;
        let (_, _, height, width) = execution.input.size4()?;
        let boxes = execution.boxes.as_ref().map(|sides| Boxes { sides, input: (height as usize, width as usize) });
        Ok(resolve(&output.f_detach()?, boxes, targets, self.options.reading, shown)?)
    }
}
