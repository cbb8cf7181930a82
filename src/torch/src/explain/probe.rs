//! What the gradient-free methods need of the model: the score of many variants of one sample.

use tch::{Kind, TchError, Tensor};

use super::{ExplainError, grid::SampleIndex, target::Score};
use crate::program::{self, ExecError, Execution, Plan, Tap, from_tch};

/// One sample of a batch that went through the model.
pub struct Probe<'a> {
    /// The model.
    pub plan: &'a Plan,
    /// Which sample of the batch.
    pub sample: SampleIndex,
    /// How its variants are run.
    pub options: ProbeOptions,
    execution: &'a Execution,
    image: Tensor,
    /// Where the image is captured, if it is.
    input: Option<Tap>,
}

impl<'a> Probe<'a> {
    /// Of a sample of the batch.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn new(plan: &'a Plan, execution: &'a Execution, sample: SampleIndex, options: ProbeOptions) -> Result<Self, TchError> {
        let image = execution.input.f_detach()?.f_narrow(0, sample.row(), 1)?;
        Ok(Probe { plan, sample, options, execution, image, input: None })
    }

    /// With where the image is captured, for gradients.
    pub fn with_image(self, input: Option<Tap>) -> Self {
        Probe { input, ..self }
    }

    /// The gradients `[T, B, C, H, W]` of each score in other images `[B, C, H, W]`.
    ///
    /// # Errors
    /// A node of the graph fails, for want of memory say; there is no gradient.
    ///
    /// # Panics
    /// The image is not captured.
    pub fn gradients(&self, images: &Tensor, scores: &[&Score]) -> Result<Tensor, ExplainError> {
        let tap = self.input.expect("captured where gradients are needed");
        let execution = tch::with_grad(|| self.plan.run(images))?;
        let input = tap.of(&execution.taps);
        let mut found = Vec::new();
        for (place, score) in scores.iter().enumerate() {
            let root = tch::with_grad(|| score.of(&execution.output)?.f_sum(None::<Kind>))?;
            let keep_graph = place + 1 < scores.len();
            let gradient = program::gradients(&root, &[input.shallow_clone()], keep_graph, false)?.remove(0);
            if !gradient.defined() && !self.plan.leaves_out_zeros() {
                return Err(ExplainError::Unsuitable("the image has no influence on the score that a gradient shows".into()));
            }
            found.push(if gradient.defined() { gradient.f_detach()? } else { input.f_zeros_like()? });
        }
        Ok(Tensor::f_stack(&found, 0)?)
    }

    /// The sample's input, `[1, 3, H, W]`.
    pub fn image(&self) -> &Tensor {
        &self.image
    }

    /// The sample's logits, `[1, K]` or `[1, K, h, w]`.
    pub fn logits(&self) -> Result<Tensor, TchError> {
        self.execution.output.f_detach()?.f_narrow(0, self.sample.row(), 1)
    }

    /// The logits `[B, ...]` for the activations of `count`, `B`, variants at a tap in place of the sample's.
    ///
    /// # Errors
    /// A node of the graph fails, for want of memory say.
    pub fn resume(&self, tap: Tap, activations: &Tensor, count: i64) -> Result<Tensor, ExecError> {
        self.plan.resume(tap, self.execution, self.sample.row(), activations, count)
    }

    /// libtorch's error outside the graph.
    pub fn failed(&self, doing: &str, error: &TchError) -> ExecError {
        ExecError { node: "the method itself".into(), operator: doing.into(), source: from_tch(error) }
    }
}

/// How variants are run.
#[derive(Clone, Copy, Debug)]
pub struct ProbeOptions {
    /// How many at a time.
    pub batch: i64,
}

impl ProbeOptions {
    /// Start and length of each batch.
    pub fn batches(self, total: i64) -> impl Iterator<Item = (i64, i64)> {
        (0..total).step_by(self.batch.max(1) as usize).map(move |first| (first, self.batch.min(total - first)))
    }
}

/// The scores `[T, B]` of logits `[B, ...]`.
pub(super) fn score_all(logits: &Tensor, scores: &[&Score]) -> Result<Tensor, TchError> {
    let rows: Vec<Tensor> = scores.iter().map(|score| score.of(logits)).collect::<Result<_, _>>()?;
    Tensor::f_stack(&rows, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_cover_everything_once() {
        assert_eq!(ProbeOptions { batch: 4 }.batches(10).collect::<Vec<_>>(), [(0, 4), (4, 4), (8, 2)]);
        assert_eq!(ProbeOptions { batch: 4 }.batches(0).count(), 0);
    }
}
