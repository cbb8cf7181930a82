//! Where runs are looked at for methods of attention, and what was seen there in the form that they take.

use tch::{Kind, Tensor};
use typed_index_collections::TiVec;

use super::{ExplainError, grid::LayerIndex};
use crate::program::{Attending, AttentionBlock, Demand, Layer, Program, ProgramError, Readout, Tap};

/// What methods of attention look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttentionNeeds {
    /// The probabilities of each block.
    pub probabilities: bool,
    /// The tokens that each block hands on.
    pub tokens: bool,
    /// Queries, keys and values of a layer's own block, with what comes of them.
    pub queries: bool,
}

impl AttentionNeeds {
    /// What either of them looks at.
    pub fn or(self, other: AttentionNeeds) -> AttentionNeeds {
        AttentionNeeds {
            probabilities: self.probabilities || other.probabilities,
            tokens: self.tokens || other.tokens,
            queries: self.queries || other.queries,
        }
    }

    /// How the model attends, for these layers, if all of it is there.
    ///
    /// # Errors
    /// [`ProgramError::Invalid`]: it does not, or not in the way that is asked for.
    pub fn check(self, program: &Program, layers: &[Layer]) -> Result<Attending, ProgramError> {
        let attending = program.attending(layers)?;
        let num_blocks = attending.counts.iter().copied().max().unwrap_or(0);
        let last = attending.blocks.last().is_none_or(|last| last.tokens.is_none());
        if self.tokens && (last || attending.blocks[..num_blocks].iter().any(|block| block.tokens.is_none())) {
            let problem = "what one of its blocks hands on to the next could not be told, as something goes around it";
            return Err(program.unfit(problem, "of the methods of attention chefer and attention-rollout do without it"));
        }
        if self.queries {
            if matches!(attending.readout, Readout::Patches) {
                let problem =
                    "grad-eclip asks what a class token, or a query that gathers the patches, looks at; this model has neither";
                return Err(program.unfit(problem, "of the methods of attention chefer and legrad do without one"));
            }
            let asked = attending.counts.iter().map(|count| attending.gathering(*count));
            if asked.into_iter().any(|block| block.queries.is_none()) {
                let problem = "queries and keys of its attention could not be told";
                return Err(program.unfit(problem, "of the methods of attention chefer and legrad do without them"));
            }
        }
        Ok(attending)
    }
}

/// Where the attention of runs is looked at.
#[derive(Debug)]
pub struct AttentionTaps {
    /// Block by block, as many as the deepest layer stands for.
    pub blocks: Vec<BlockTaps>,
    /// What the output reads of the last block's tokens.
    pub reading: Reading,
    /// How many of the blocks each layer stands for.
    pub counts: TiVec<LayerIndex, usize>,
    /// The tokens behind the last of all blocks, from which the rest of the network is run on.
    pub last_tokens: Option<Tap>,
}

/// What the output reads, as [`Readout`].
#[derive(Debug)]
pub enum Reading {
    /// These of the leading tokens.
    Leading(Vec<i64>),
    /// All patches.
    Patches,
    /// What one query gathers.
    Pooled(BlockTaps),
}

/// Where one attention is looked at.
#[derive(Debug)]
pub struct BlockTaps {
    /// Its probabilities, where they are asked for.
    pub probabilities: Option<Tap>,
    /// The tokens that the block hands on, likewise.
    pub tokens: Option<Tap>,
    /// Query, key, value and what comes of them, likewise.
    pub queries: Option<[Tap; 4]>,
    /// Whether keys are `[..., E, S]`.
    pub keys_are_transposed: bool,
}

impl AttentionTaps {
    /// Asks for what methods look at.
    ///
    /// # Errors
    /// As [`AttentionNeeds::check`].
    pub fn new(program: &Program, layers: &[Layer], needs: AttentionNeeds, demand: &mut Demand) -> Result<Self, ProgramError> {
        let attending = needs.check(program, layers)?;
        let num_blocks = attending.counts.iter().copied().max().unwrap_or(0);
        let is_pooled = matches!(attending.readout, Readout::Pooled(_));
        let mut tapped = |block: &AttentionBlock, has_queries: bool| BlockTaps {
            probabilities: needs.probabilities.then(|| demand.tap(block.probabilities)),
            tokens: block.tokens.filter(|_| needs.tokens).map(|tokens| demand.tap(tokens)),
            queries: block
                .queries
                .filter(|_| has_queries)
                .map(|(query, key)| [query, key, block.value, block.output].map(|value| demand.tap(value))),
            keys_are_transposed: block.keys_are_transposed,
        };
        let is_asked = |block: usize| needs.queries && !is_pooled && attending.counts.contains(&(block + 1));
        let blocks = attending.blocks[..num_blocks].iter().enumerate().map(|(at, block)| tapped(block, is_asked(at))).collect();
        let reading = match &attending.readout {
            Readout::Leading(tokens) => Reading::Leading(tokens.clone()),
            Readout::Patches => Reading::Patches,
            Readout::Pooled(block) => Reading::Pooled(tapped(block, needs.queries)),
        };
        let last_tokens = attending.blocks.last().and_then(|block| block.tokens).filter(|_| needs.tokens);
        let last_tokens = last_tokens.map(|tokens| {
            demand.resume_from.push(tokens);
            demand.tap(tokens)
        });
        Ok(AttentionTaps { blocks, reading, counts: attending.counts.into_iter().collect(), last_tokens })
    }

    /// The attention by which that many blocks are read.
    pub fn gathering(&self, count: usize) -> &BlockTaps {
        match &self.reading {
            Reading::Pooled(block) => block,
            Reading::Leading(_) | Reading::Patches => &self.blocks[count - 1],
        }
    }
}

/// Where the patches are among the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// So many other tokens come before them.
    pub prefix: i64,
    /// Rows and columns.
    pub grid: [i64; 2],
}

impl Place {
    /// How many tokens there are.
    pub fn num_tokens(self) -> i64 {
        self.prefix + self.grid[0] * self.grid[1]
    }

    /// The patches `[N, H', W']` of numbers of all tokens, `[N, T]`.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn of(self, tokens: &Tensor) -> Result<Tensor, tch::TchError> {
        let [rows, columns] = self.grid;
        tokens.f_narrow(1, self.prefix, rows * columns)?.f_reshape([-1, rows, columns])
    }
}

/// What belongs to the heads, `[N, heads, ...]`, of what a graph has for all images and heads, `[N * heads, ...]`, or already as that.
///
/// # Errors
/// It is neither, of `num_images` images: the model attends within parts of them.
pub(super) fn by_heads(tensor: &Tensor, num_images: i64) -> Result<Tensor, ExplainError> {
    let size = tensor.size();
    match size[..] {
        [images, _, _, _] if images == num_images => Ok(tensor.shallow_clone()),
        [all, rows, columns] if all % num_images == 0 => Ok(tensor.f_reshape([num_images, all / num_images, rows, columns])?),
        _ => Err(ExplainError::Unsuitable(format!(
            "its attention has the shape {size:?} for {num_images} images of this size, so that it is within parts of an image"
        ))),
    }
}

/// As f32, where it is shorter.
pub(super) fn precise(tensor: &Tensor) -> Result<Tensor, tch::TchError> {
    match tensor.kind() {
        Kind::Double => tensor.f_detach(),
        _ => tensor.f_detach()?.f_to_kind(Kind::Float),
    }
}
