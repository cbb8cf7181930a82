//! What comes after a network that gives embeddings: how near each is to some references.

use tch::{Kind, TchError, Tensor};

use super::{ExecError, Plan, Program, ProgramError, Uploader, from_tch, to_host};
use camflow_media::ModelInput;

/// Embeddings that others are compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct References {
    /// Each `[D]`.
    pub embeddings: Vec<Vec<f32>>,
    /// Whether the distance, 1 less the cosine, is wanted in place of the cosine.
    pub is_distance: bool,
}

/// The same where a plan runs.
pub(super) struct Comparison {
    /// `[1, R, D]`
    references: Tensor,
    is_distance: bool,
}

impl Comparison {
    /// The similarities `[N, R]` of embeddings `[N, D]`: the cosine of the angle, as `torch.nn.CosineSimilarity` has it.
    pub(super) fn of(&self, embeddings: &Tensor) -> Result<Tensor, TchError> {
        /// `torch.nn.CosineSimilarity`'s.
        const EPSILON: f64 = 1e-8;
        let embeddings = embeddings.f_unsqueeze(1)?;
        let cosines = Tensor::f_cosine_similarity(&embeddings, &self.references.f_to_kind(embeddings.kind())?, 2, EPSILON)?;
        if self.is_distance { cosines.f_neg()?.f_add_scalar(1.0) } else { Ok(cosines) }
    }
}

impl Plan {
    /// Has the plan give similarities `[N, R]` to these references in place of the embeddings `[N, D]` of its model.
    ///
    /// # Errors
    /// The device has no memory for them, or they are of different lengths.
    pub fn compare(&mut self, program: &Program, references: &References) -> Result<(), ProgramError> {
        let References { embeddings, is_distance } = references;
        #[expect(clippy::disallowed_methods, reason = "once, before anything runs")]
        let on_device = || {
            let rows = embeddings.iter().map(|row| Tensor::f_from_slice(row)).collect::<Result<Vec<_>, _>>()?;
            Tensor::f_stack(&rows, 0)?.f_unsqueeze(0)?.f_to_kind(Kind::Float)?.f_to_device(self.device())
        };
        let references = on_device().map_err(|error| program.device_error(self.device(), &error))?;
        self.comparison = Some(Comparison { references, is_distance: *is_distance });
        Ok(())
    }

    /// The model's output for one image, `[D]` numbers of a model that gives embeddings `[N, D]`.
    ///
    /// # Errors
    /// A node of the graph fails, for want of memory say.
    pub fn embedding(&self, program: &Program, image: &ModelInput) -> Result<Vec<f32>, ExecError> {
        let at = |operator: &str| {
            let operator = operator.to_owned();
            move |error: TchError| ExecError { node: "an embedding".into(), operator, source: from_tch(&error) }
        };
        let input = Uploader::new(self.device(), program)
            .and_then(|uploader| uploader.upload(&[&image.pixels], (image.height, image.width)))
            .map_err(at("upload"))?;
        let output = self.forward(&input)?;
        output.f_flatten(0, -1).and_then(|output| to_host::<f32>(&output.f_to_kind(Kind::Float)?)).map_err(at("copy"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarities_are_cosines_and_distances_what_is_missing_to_one() {
        let references = Tensor::from_slice(&[1f32, 0.0, 3.0, 4.0]).view([1, 2, 2]);
        let embeddings = Tensor::from_slice(&[2f32, 0.0, 0.0, -5.0]).view([2, 2]);
        let of = |is_distance| {
            let found = Comparison { references: references.shallow_clone(), is_distance }.of(&embeddings).expect("cosines");
            Vec::<f32>::try_from(found.flatten(0, -1)).expect("numbers")
        };
        let near = |found: Vec<f32>, wanted: [f32; 4]| {
            assert!(found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6), "{found:?}");
        };
        near(of(false), [1.0, 0.6, 0.0, -0.8]);
        near(of(true), [0.0, 0.4, 1.0, 1.8]);
    }
}
