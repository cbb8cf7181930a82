//! Running the end of the graph again from a replaced activation: AblationCAM asks what the score becomes without a channel,
//! hundreds of times per image.
//!
//! Only what the activation reaches is run again. The rest of what those steps read (a residual branch that goes around the
//! layer, an attention mask) was kept from the run of the image itself, and is repeated along its batch dimension.

use tch::Tensor;

use super::{
    counts::{self, Passes},
    exec::{ExecError, Execution, Value, from_tch},
    graph::{BatchDim, ValueId},
    plan::{Plan, Suffix, Tap},
};

fn repeating(error: &tch::TchError) -> ExecError {
    ExecError { node: "an activation before the layer".into(), operator: "repeat".into(), source: from_tch(error) }
}

impl Plan {
    /// The output `[B, ...]` for an activation of `count`, `B`, images at a tap in place of sample `sample`'s, without gradients.
    ///
    /// # Errors
    /// A node fails, for want of memory say.
    ///
    /// # Panics
    /// The plan was not made to resume from this tap.
    pub fn resume(
        &self,
        tap: Tap,
        execution: &Execution,
        sample: i64,
        activation: &Tensor,
        count: i64,
    ) -> Result<Tensor, ExecError> {
        let _no_grad = tch::no_grad_guard();
        self.resume_recording(tap, execution, sample, activation, count)
    }

    /// The same with the gradient graph from that activation on, where gradients are recorded.
    ///
    /// # Errors
    /// As for [`Plan::resume`].
    ///
    /// # Panics
    /// As there.
    pub fn resume_recording(
        &self,
        tap: Tap,
        execution: &Execution,
        sample: i64,
        activation: &Tensor,
        count: i64,
    ) -> Result<Tensor, ExecError> {
        let tap = self.taps[tap.0];
        let suffix = self.suffixes.get(&tap).expect("the plan was made to resume from this tap");
        let _precision = self.reduced_precision();
        let runs_on = self.can_repeat(suffix);
        let [resumed, whole] = [runs_on, !runs_on].map(|is_so| if is_so { count as u64 } else { 0 });
        counts::add(Passes { whole, resumed, backward: 0 });
        let mut frame = self.frame(Some((tap, Value::Tensor(activation.shallow_clone()))))?;
        if runs_on {
            for id in &suffix.boundary {
                let Some(value) = execution.kept.get(id) else { continue };
                let value = match value {
                    Value::Tensor(tensor) => {
                        let repeated = self.repeat(*id, tensor, execution.input.size()[0], sample, count);
                        let repeated = repeated.and_then(|repeated| match suffix.written.contains(id) {
                            true => repeated.f_to_dtype(repeated.kind(), false, true),
                            false => Ok(repeated),
                        });
                        Value::Tensor(repeated.map_err(|error| repeating(&error))?)
                    }
                    scalar => scalar.share(),
                };
                self.supply(*id, value, &mut frame);
            }
            for step in &suffix.steps {
                self.advance(&self.steps[*step], &mut frame)?;
            }
        } else {
            let mut size = execution.input.size();
            size[0] = count;
            let input = execution.input.f_narrow(0, sample, 1).and_then(|input| input.f_expand(&size, false));
            self.supply(self.input, Value::Tensor(input.map_err(|error| repeating(&error))?), &mut frame);
            for step in &self.steps {
                self.advance(step, &mut frame)?;
            }
        }
        self.take_output(&mut frame)
    }

    /// The output and the taps on the way to it, with their gradient graph, for another activation of the whole batch at a tap.
    ///
    /// # Errors
    /// A node fails, for want of memory say.
    ///
    /// # Panics
    /// The plan was not made to resume from this tap.
    pub fn run_on(
        &self,
        tap: Tap,
        execution: &Execution,
        activation: &Tensor,
    ) -> Result<(Tensor, Vec<Option<Tensor>>), ExecError> {
        let tap = self.taps[tap.0];
        let suffix = self.suffixes.get(&tap).expect("the plan was made to resume from this tap");
        let _precision = self.reduced_precision();
        let mut frame = self.frame(Some((tap, Value::Tensor(activation.shallow_clone()))))?;
        self.capture(&mut frame);
        for id in &suffix.boundary {
            let Some(value) = execution.kept.get(id) else { continue };
            let value = match value {
                Value::Tensor(tensor) if suffix.written.contains(id) => {
                    Value::Tensor(tensor.f_to_dtype(tensor.kind(), false, true).map_err(|error| repeating(&error))?)
                }
                value => value.share(),
            };
            self.supply(*id, value, &mut frame);
        }
        for step in &suffix.steps {
            self.advance(&self.steps[*step], &mut frame)?;
        }
        Ok((self.take_output(&mut frame)?, frame.take_taps()))
    }

    /// Whether the graph can be run on from a tap without running all of it.
    ///
    /// # Panics
    /// The plan was not made to resume from this tap.
    pub fn runs_on_from(&self, tap: Tap) -> bool {
        self.can_repeat(self.suffixes.get(&self.taps[tap.0]).expect("the plan was made to resume from this tap"))
    }

    /// Whether every value of the boundary can be had for another batch size. Otherwise all of the graph is run.
    fn can_repeat(&self, suffix: &Suffix) -> bool {
        suffix.boundary.iter().all(|id| self.batch_dims.get(id) != Some(&BatchDim::Unclear))
    }

    /// One sample's part of a value, `count` times.
    fn repeat(&self, id: ValueId, tensor: &Tensor, batch: i64, sample: i64, count: i64) -> Result<Tensor, tch::TchError> {
        let Some(BatchDim::At(dim)) = self.batch_dims.get(&id) else { return Ok(tensor.shallow_clone()) };
        let per_sample = tensor.size()[*dim] / batch;
        let part = tensor.f_detach()?.f_narrow(*dim as i64, sample * per_sample, per_sample)?;
        let mut size = part.size();
        if per_sample == 1 {
            size[*dim] = count;
            return part.f_expand(&size, false);
        }
        let mut repeats = vec![1; size.len()];
        repeats[*dim] = count;
        part.f_repeat(&repeats)
    }
}
