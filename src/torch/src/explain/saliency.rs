//! One tensor through the model: forward, then pass by pass the saliency maps of all methods.

use tch::{Kind, Tensor};
use typed_index_collections::{TiSlice, TiVec};

use super::{
    ExplainError, TorchExplainer,
    cam::Reduction,
    detection::predicted,
    grid::{ColumnIndex, Grid, SampleIndex, TargetIndex},
    pass::{ClassScore, Pass, Run, Setting},
    probe::ProbeOptions,
    target::{Boxes, Score, pixel_values, predictions, resolve},
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
        };
        let run = Run::new(setting, execution, scores, keys);
        let reduction = if self.options.eigen_smooth { Reduction::FirstComponent } else { Reduction::Sum };
        let mut passes = Vec::new();
        let mut values = Vec::new();
        let mut confidences = Vec::new();
        let mut targets = run.scores().targets().peekable();
        while let Some(target) = targets.next() {
            let pass = Pass::new(&run, target, targets.peek().is_none());
            let of_column = |column: &super::Column| column.method.saliencies(&pass, &column.layers, reduction);
            let columns = self.columns.iter().map(of_column).collect::<Result<_, _>>()?;
            if self.options.confidence || self.options.sess {
                confidences.push(pass.confidences()?.f_to_kind(Kind::Double)?);
            }
            values.push(pass.values::<ClassScore>()?.f_detach()?.f_to_kind(Kind::Double)?);
            passes.push(PassMaps { target, samples: pass.samples().collect(), columns });
        }
        drop(targets);
        Ok(Saliencies { targets: run.into_scores(), values, confidences, predictions, detected, pixels, passes })
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
