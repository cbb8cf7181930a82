//! What methods of attention are computed from, and how they go from block to block.
//!
//! They all end in how much each token counts for what the output reads of the last tokens: of a class token (of several, such as
//! DeiT's with the distilled one, their mean), of all patches, their mean, or of what a query gathers by an attention of its own.

use std::{any::TypeId, marker::PhantomData};

use tch::{Kind, TchError, Tensor};

use super::evidence::{Evidence, Needs};
use crate::{
    explain::{
        ExplainError,
        attention::{AttentionNeeds, Place, Reading},
        grid::LayerIndex,
        pass::{ClassScore, Derivative, Order, Pass},
    },
    program::{Influence, Tap, send},
};

/// What a reader of tokens sees of them.
#[derive(Debug)]
pub(super) enum Reader {
    /// The mean of these leading ones.
    Leading(Vec<i64>),
    /// The mean of all patches.
    Patches,
    /// What a query attends to, `[N, heads, 1, T]`.
    Query(Heads),
}

/// The attention of a block, head by head.
#[derive(Debug)]
pub(super) struct Heads {
    /// The probabilities `[N, heads, L, T]`: how much each of `L` queries looks at each of `T` tokens.
    pub probabilities: Tensor,
    /// The gradient of the class's score of that shape; undefined where it is not asked for.
    pub gradient: Tensor,
}

impl Heads {
    /// The mean probabilities over heads, `[N, L, T]`.
    pub(super) fn mean(&self) -> Result<Tensor, TchError> {
        mean_of_heads(&self.probabilities)
    }

    /// The mean over heads of what attention and its gradient have in common, `(dy/dA * A)^+`, `[N, L, T]`.
    pub(super) fn relevance(&self) -> Result<Tensor, TchError> {
        mean_of_heads(&self.gradient.f_mul(&self.probabilities)?.f_relu()?)
    }
}

/// The mean of `[N, heads, L, T]` over heads.
pub(super) fn mean_of_heads(heads: &Tensor) -> Result<Tensor, TchError> {
    heads.f_mean_dim([1i64].as_slice(), false, None::<Kind>)
}

/// The attention of all blocks up to a layer.
#[derive(Debug)]
pub(super) struct Attention<G> {
    /// In their order.
    pub blocks: Vec<Heads>,
    /// What is read of the last one's tokens.
    pub reader: Reader,
    /// Where the patches are.
    pub place: Place,
    pub(super) with_gradients: PhantomData<G>,
}

/// Attention alone.
#[derive(Debug)]
pub(super) struct Forward;

/// Attention with the gradients of the class's score.
#[derive(Debug)]
pub(super) struct Backward;

/// Whether gradients are asked for.
pub(super) trait Direction: 'static {
    const HAS_GRADIENTS: bool;
}

impl Direction for Forward {
    const HAS_GRADIENTS: bool = false;
}

impl Direction for Backward {
    const HAS_GRADIENTS: bool = true;
}

impl<G> Attention<G> {
    /// How much each patch `[N, H', W']` counts for what is read, where each token of a block is made of those before it as `mix` has it
    /// of the block's attention, `[N, L, T]`.
    ///
    /// # Errors
    /// libtorch fails.
    pub(super) fn followed(&self, mix: impl Fn(&Heads, bool) -> Result<Tensor, TchError>) -> Result<Tensor, TchError> {
        let Some(last) = self.blocks.last() else {
            return Err(TchError::Shape("there is no block of attention".into()));
        };
        // From the end: a row times matrices, where products of matrices would take as many times longer as there are tokens.
        let mut row = match &self.reader {
            Reader::Query(heads) => mix(heads, false)?,
            Reader::Leading(_) | Reader::Patches => self.read_row(&last.probabilities)?,
        };
        for block in self.blocks.iter().rev() {
            row = row.f_matmul(&mix(block, true)?)?;
        }
        self.place.of(&row.f_squeeze_dim(1)?)
    }

    /// How much each patch `[N, H', W']` counts for the tokens that are read, by what `of` gives of the last block, `[N, T, T]`.
    ///
    /// # Errors
    /// libtorch fails.
    pub(super) fn last_row(&self, of: impl Fn(&Heads) -> Result<Tensor, TchError>) -> Result<Tensor, TchError> {
        let Some(last) = self.blocks.last() else {
            return Err(TchError::Shape("there is no block of attention".into()));
        };
        let row = self.read_row(&last.probabilities)?.f_matmul(&of(last)?)?;
        self.place.of(&row.f_squeeze_dim(1)?)
    }

    /// The row `[N, 1, T]` that takes the mean of the tokens that are read.
    fn read_row(&self, like: &Tensor) -> Result<Tensor, TchError> {
        let (images, num_tokens) = (like.size()[0], self.place.num_tokens());
        let tokens: Vec<i64> = match &self.reader {
            Reader::Leading(tokens) => tokens.clone(),
            Reader::Patches | Reader::Query(_) => (self.place.prefix..num_tokens).collect(),
        };
        let mut shares = vec![0.0; num_tokens as usize];
        for token in &tokens {
            shares[*token as usize] = 1.0 / tokens.len() as f32;
        }
        let row = send(&shares, &[1, 1, num_tokens], like.device())?.f_to_kind(like.kind())?;
        row.f_expand([images, 1, num_tokens], false)
    }
}

/// `[N, T, T]` with the identity added.
pub(super) fn with_identity(matrices: &Tensor) -> Result<Tensor, TchError> {
    let tokens = matrices.size()[2];
    matrices.f_add(&Tensor::f_eye(tokens, (matrices.kind(), matrices.device()))?)
}

/// What is recorded for methods of attention.
fn needs(attention: AttentionNeeds, objective: Option<TypeId>) -> Needs {
    let influence = if objective.is_some() { Influence::Gradient } else { Influence::WithoutGradient };
    let derivative = objective.map(|objective| Derivative { objective, order: Order::First });
    Needs { derivative, attention: Some(attention), ..Needs::of_layers(influence) }
}

impl<'a, G: Direction> Evidence<'a> for Attention<G> {
    fn needs() -> Needs {
        let attention = AttentionNeeds { probabilities: true, ..AttentionNeeds::default() };
        needs(attention, G::HAS_GRADIENTS.then(TypeId::of::<ClassScore>))
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        let of = |layer: &LayerIndex| {
            let taps = pass.attention();
            let heads = |tap: Option<Tap>| -> Result<Heads, ExplainError> {
                let tap =
                    tap.ok_or_else(|| ExplainError::Unsuitable("attention was not captured; this is a bug in camflow".into()))?;
                let gradient = if G::HAS_GRADIENTS { pass.attention_gradient::<ClassScore>(tap)? } else { Tensor::new() };
                Ok(Heads { probabilities: pass.attention_of(tap)?, gradient })
            };
            let place = pass.place(*layer)?;
            let blocks = taps.blocks[..taps.counts[*layer]].iter().map(|block| heads(block.probabilities));
            let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
            let reader = match &taps.reading {
                Reading::Leading(tokens) => Reader::Leading(tokens.clone()),
                Reading::Patches => Reader::Patches,
                Reading::Pooled(block) => Reader::Query(heads(block.probabilities)?),
            };
            Ok(Attention { blocks, reader, place, with_gradients: PhantomData })
        };
        layers.iter().map(of).collect()
    }

    fn is_of_class() -> bool {
        G::HAS_GRADIENTS
    }
}

/// Of each block up to a layer, the gradient of its attention in what the rest of the network makes of its tokens.
#[derive(Debug)]
pub(super) struct Formation {
    /// `[N, heads, L, T]`, block by block.
    pub gradients: Vec<Tensor>,
    /// Where the patches are.
    pub place: Place,
}

impl<'a> Evidence<'a> for Formation {
    fn needs() -> Needs {
        let attention = AttentionNeeds { probabilities: true, tokens: true, queries: false };
        needs(attention, Some(TypeId::of::<Formation>()))
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        let of = |layer: &LayerIndex| Ok(Formation { gradients: pass.formation(*layer)?, place: pass.place(*layer)? });
        layers.iter().map(of).collect()
    }
}

/// What the attention of a block is computed from, and the gradient of what comes of it.
#[derive(Debug)]
pub(super) struct Gathering {
    /// The queries of what the output reads, `[N, heads, L, E]`.
    pub query: Tensor,
    /// The keys `[N, heads, T, E]`.
    pub key: Tensor,
    /// The values `[N, heads, T, E]`.
    pub value: Tensor,
    /// The gradient of what the queries gather, `[N, heads, L, E]`.
    pub gradient: Tensor,
    /// Where the patches are.
    pub place: Place,
}

impl<'a> Evidence<'a> for Gathering {
    fn needs() -> Needs {
        let attention = AttentionNeeds { queries: true, ..AttentionNeeds::default() };
        needs(attention, Some(TypeId::of::<ClassScore>()))
    }

    fn gather(pass: &'a Pass<'a>, layers: &[LayerIndex]) -> Result<Vec<Self>, ExplainError> {
        let of = |layer: &LayerIndex| {
            let taps = pass.attention();
            let block = taps.gathering(taps.counts[*layer]);
            let Some([query, key, value, output]) = block.queries else {
                return Err(ExplainError::Unsuitable("queries were not captured; this is a bug in camflow".into()));
            };
            let key = pass.attention_of(key)?;
            let key = if block.keys_are_transposed { key.f_transpose(2, 3)? } else { key };
            let (query, gradient) = (pass.attention_of(query)?, pass.attention_gradient::<ClassScore>(output)?);
            let read = |tensor: Tensor| -> Result<Tensor, TchError> {
                match &taps.reading {
                    Reading::Leading(tokens) => {
                        let rows = tokens.iter().map(|token| tensor.f_narrow(2, *token, 1)).collect::<Result<Vec<_>, _>>()?;
                        Tensor::f_cat(&rows, 2)
                    }
                    Reading::Patches | Reading::Pooled(_) => Ok(tensor),
                }
            };
            let value = pass.attention_of(value)?;
            Ok(Gathering { query: read(query)?, key, value, gradient: read(gradient)?, place: pass.place(*layer)? })
        };
        layers.iter().map(of).collect()
    }
}

#[cfg(test)]
pub(super) mod testing {
    use tch::Tensor;

    use super::{super::testing::tensor, *};

    /// Two blocks of one head each among a class token and two patches.
    pub(in super::super) fn two_blocks<G>(reader: Reader) -> Attention<G> {
        let first = tensor(&[0.2, 0.5, 0.3, 0.0, 1.0, 0.0, 0.5, 0.0, 0.5], [1, 1, 3, 3]);
        let second = tensor(&[0.0, 0.4, 0.6, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0], [1, 1, 3, 3]);
        let gradients = [
            tensor(&[1.0, 2.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0], [1, 1, 3, 3]),
            tensor(&[0.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1, 1, 3, 3]),
        ];
        let blocks = [first, second].into_iter().zip(gradients);
        let blocks = blocks.map(|(probabilities, gradient)| Heads { probabilities, gradient }).collect();
        Attention { blocks, reader, place: Place { prefix: 1, grid: [1, 2] }, with_gradients: PhantomData }
    }

    /// The product of matrices that rows stand for, written out.
    pub(in super::super) fn product(matrices: &[Tensor]) -> Tensor {
        let mut matrices = matrices.iter();
        let first = matrices.next().expect("a matrix").shallow_clone();
        matrices.fold(first, |before, matrix| matrix.matmul(&before))
    }
}
