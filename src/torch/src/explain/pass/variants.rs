//! What methods ask for beside the run of the batch itself: gradients at variants of its images, and probes of single samples.

use std::{collections::BTreeMap, rc::Rc};

use tch::{Kind, TchError, Tensor};
use typed_index_collections::TiVec;

use super::{ClassScore, Objective, Pass, Run};
use crate::{
    explain::{
        ExplainError,
        grid::{LayerIndex, SampleIndex, TargetIndex},
        noise,
        probe::Probe,
        target::Score,
    },
    program,
};

/// Variants of images with normal noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// How many.
    pub count: usize,
    /// Deviation of what is added to each number of the model's input.
    pub deviation: f64,
}

/// What the target layers gave for a variant of the batch, and the gradients of each target's score; as the model has them.
#[derive(Debug)]
pub(super) struct VariantRun {
    activations: TiVec<LayerIndex, Tensor>,
    /// Undefined where the score does not depend on a layer.
    gradients: BTreeMap<TargetIndex, TiVec<LayerIndex, Tensor>>,
}

impl Run<'_> {
    /// The variants, run once for all targets: one after the other, as each keeps a graph while it is differentiated.
    fn noisy(&self, noise: Noise) -> Result<Rc<Vec<VariantRun>>, ExplainError> {
        let known = self.noisy.borrow().iter().find(|(known, _)| *known == noise).map(|(_, runs)| runs.clone());
        if let Some(known) = known {
            return Ok(known);
        }
        let runs = (0..noise.count).map(|number| self.noisy_run(noise, number)).collect::<Result<Vec<_>, _>>()?;
        let runs = Rc::new(runs);
        self.noisy.borrow_mut().push((noise, runs.clone()));
        Ok(runs)
    }

    fn noisy_run(&self, noise: Noise, number: usize) -> Result<VariantRun, ExplainError> {
        let image = self.execution.input.f_detach()?;
        let size = image.size();
        let names: Vec<String> = self.keys.iter().map(|key| format!("{key}\0{number}")).collect();
        let added = noise::normal(&names, size[1..].iter().product(), image.device())?.f_mul_scalar(noise.deviation)?;
        let input = image.f_add(&added.f_view(size.as_slice())?.f_to_kind(image.kind())?)?;
        let execution = tch::with_grad(|| self.plan.run(&input))?;
        let mut targets = self.scores.targets().peekable();
        let mut gradients = BTreeMap::new();
        while let Some(target) = targets.next() {
            let present: Vec<(SampleIndex, &Score)> = self.scores.of_target(target).collect();
            let root = tch::with_grad(|| ClassScore::values(&execution.output, &present)?.f_sum(None::<Kind>))?;
            let found = program::gradients(&root, &execution.taps, targets.peek().is_some(), false)?;
            gradients.insert(target, self.taps.layers.iter().map(|tap| tap.of(&found).shallow_clone()).collect());
        }
        let activations = self.taps.layers.iter().map(|tap| tap.of(&execution.taps).f_detach());
        Ok(VariantRun { activations: activations.collect::<Result<_, TchError>>()?, gradients })
    }
}

impl Pass<'_> {
    /// Of each variant of the images with noise, which follows from the samples' keys, the activation of a layer and the gradient of the
    /// class's score, `[N, C, H', W']` both.
    pub fn noisy_gradients(&self, layer: LayerIndex, noise: Noise) -> Result<Vec<(Tensor, Tensor)>, ExplainError> {
        let runs = self.run.noisy(noise)?;
        let of_run = |run: &VariantRun| {
            let activation = self.nchw(&run.activations[layer].f_to_kind(self.run.plan.kind())?, layer)?;
            let gradient = self.gradient_of_layer(&run.gradients[&self.target][layer], layer)?;
            Ok((activation, gradient))
        };
        runs.iter().map(of_run).collect()
    }

    /// What a method finds of each sample of this pass by itself, all of one shape, with a first dimension of the batch before it; zero for
    /// samples without the target.
    pub fn each(&self, find: impl Fn(&Probe<'_>, &Score) -> Result<Tensor, ExplainError>) -> Result<Tensor, ExplainError> {
        let mut rows: Vec<Option<Tensor>> = (0..self.num_images()).map(|_| None).collect();
        for &(sample, score) in &self.present {
            let probe = Probe::new(self.run.plan, &self.run.execution, sample, self.run.probe_options)?;
            rows[usize::from(sample)] = Some(find(&probe, score)?);
        }
        let nothing = rows.iter().flatten().next().expect("a pass has samples").f_zeros_like()?;
        let rows: Vec<&Tensor> = rows.iter().map(|row| row.as_ref().unwrap_or(&nothing)).collect();
        Ok(Tensor::f_stack(&rows, 0)?)
    }
}
