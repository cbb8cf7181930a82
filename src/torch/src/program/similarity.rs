//! What comes after a network that gives embeddings: how near each is to some references, or to texts.

use tch::{Device, Kind, TchError, Tensor};

use super::{ExecError, Plan, Program, ProgramError, Task, TextConfidence, Uploader, from_tch, to_host};
use camflow_media::ModelInput;

/// Embeddings that others are compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct References {
    /// Each `[D]`.
    pub embeddings: Vec<Vec<f32>>,
    /// Whether the distance, 1 less the cosine, is wanted in place of the cosine.
    pub is_distance: bool,
}

/// Texts that the embeddings of an image tower are scored against.
#[derive(Clone, Debug, PartialEq)]
pub struct TextScores {
    /// The classes that the texts stand for, which give fields and files their names.
    pub names: Vec<String>,
    /// The embedding of each text, `[D]`.
    pub embeddings: Vec<Vec<f32>>,
    /// What the cosine is multiplied by.
    pub scale: f64,
    /// What is added to it.
    pub bias: f64,
    /// How scores become probabilities.
    pub confidence: TextConfidence,
}

impl TextScores {
    /// Whether a text's score becomes a probability: a softmax over one text is 1, whatever the image shows.
    pub fn has_confidence(&self) -> bool {
        self.confidence == TextConfidence::Sigmoid || self.names.len() > 1
    }

    /// The last matrix `[D, K]`: the texts' unit vectors, scaled.
    fn matrix(&self) -> Result<Tensor, TchError> {
        let rows = self.embeddings.iter().map(|row| Tensor::f_from_slice(row)).collect::<Result<Vec<_>, _>>()?;
        let rows = Tensor::f_stack(&rows, 0)?;
        unit(&rows)?.f_mul_scalar(self.scale)?.f_transpose(0, 1)?.f_contiguous()
    }
}

fn unit(embeddings: &Tensor) -> Result<Tensor, TchError> {
    embeddings.f_div(&embeddings.f_norm_scalaropt_dim(2.0, [-1i64].as_slice(), true)?)
}

/// The same where a plan runs.
pub(super) enum Comparison {
    /// With references.
    References {
        /// `[1, R, D]`
        references: Tensor,
        /// As in [`References`].
        is_distance: bool,
    },
    /// With texts.
    Texts {
        /// `[D, K]`
        matrix: Tensor,
        /// As in [`TextScores`].
        bias: f64,
    },
}

impl Comparison {
    /// The similarities `[N, R]` of embeddings `[N, D]`: the cosine of the angle, as `torch.nn.CosineSimilarity` has it. To texts the
    /// scores `[N, K]`, as CLIP has them: the cosine, scaled and shifted.
    pub(super) fn of(&self, embeddings: &Tensor) -> Result<Tensor, TchError> {
        /// `torch.nn.CosineSimilarity`'s.
        const EPSILON: f64 = 1e-8;
        match self {
            Comparison::References { references, is_distance } => {
                let embeddings = embeddings.f_unsqueeze(1)?;
                let cosines = Tensor::f_cosine_similarity(&embeddings, &references.f_to_kind(embeddings.kind())?, 2, EPSILON)?;
                if *is_distance { cosines.f_neg()?.f_add_scalar(1.0) } else { Ok(cosines) }
            }
            Comparison::Texts { matrix, bias } => {
                unit(embeddings)?.f_matmul(&matrix.f_to_kind(embeddings.kind())?)?.f_add_scalar(*bias)
            }
        }
    }
}

impl Program {
    /// Has the program give scores `[N, K]` of these texts in place of embeddings `[N, D]`: it is a classifier of them then.
    ///
    /// # Errors
    /// An embedding has another length than those of images.
    pub fn score_texts(&mut self, texts: TextScores) -> Result<(), ProgramError> {
        let wanted = self.num_channels();
        let is_wrong = |row: &Vec<f32>| wanted.is_some_and(|wanted| wanted != row.len() as i64);
        if let Some((name, row)) = texts.names.iter().zip(&texts.embeddings).find(|(_, row)| is_wrong(row)) {
            let problem = format!(
                "the embedding of text `{name}` has {} numbers, and those of images have {}",
                row.len(),
                wanted.unwrap_or_default()
            );
            return Err(self.invalid(vec![problem], vec!["export the model again".to_owned()]));
        }
        self.metadata.task = Task::Classification;
        self.metadata.classes = (0..).zip(texts.names.iter().cloned()).collect();
        self.texts = Some(texts);
        Ok(())
    }

    /// The texts that are scored, where such are.
    pub fn texts(&self) -> Option<&TextScores> {
        self.texts.as_ref()
    }

    /// What compares a plan's output with the texts.
    #[expect(clippy::disallowed_methods, reason = "once, before anything runs")]
    pub(super) fn comparison(&self, device: Device) -> Result<Option<Comparison>, ProgramError> {
        let Some(texts) = &self.texts else { return Ok(None) };
        let matrix =
            texts.matrix().and_then(|matrix| matrix.f_to_device(device)).map_err(|error| self.device_error(device, &error))?;
        Ok(Some(Comparison::Texts { matrix, bias: texts.bias }))
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
        self.comparison = Some(Comparison::References { references, is_distance: *is_distance });
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
            let found =
                Comparison::References { references: references.shallow_clone(), is_distance }.of(&embeddings).expect("cosines");
            Vec::<f32>::try_from(found.flatten(0, -1)).expect("numbers")
        };
        let near = |found: Vec<f32>, wanted: [f32; 4]| {
            assert!(found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-6), "{found:?}");
        };
        near(of(false), [1.0, 0.6, 0.0, -0.8]);
        near(of(true), [0.0, 0.4, 1.0, 1.8]);
    }

    #[test]
    fn scores_of_texts_are_scaled_cosines_and_a_bias() {
        let texts = TextScores {
            names: vec!["right".to_owned(), "up and right".to_owned()],
            embeddings: vec![vec![2.0, 0.0], vec![3.0, 4.0]],
            scale: 10.0,
            bias: -1.0,
            confidence: TextConfidence::Softmax,
        };
        let matrix = texts.matrix().expect("a matrix");
        let found = Comparison::Texts { matrix, bias: texts.bias }.of(&Tensor::from_slice(&[0f32, 5.0]).view([1, 2]));
        let found = Vec::<f32>::try_from(found.expect("scores").flatten(0, -1)).expect("numbers");
        assert!((found[0] + 1.0).abs() < 1e-6 && (found[1] - 7.0).abs() < 1e-6, "{found:?}");
        assert!(texts.has_confidence());
        let alone = TextScores { names: vec!["right".to_owned()], ..texts };
        assert!(!alone.has_confidence(), "a softmax over one text says nothing");
        assert!(TextScores { confidence: TextConfidence::Sigmoid, ..alone }.has_confidence());
    }
}
