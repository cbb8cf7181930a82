//! Gradients that no image changes, and the maps of all classes that come of them at once.
//!
//! Where all behind a layer is affine, pooling and a linear layer say, the gradient of a class in it is the same for all images: it is
//! computed when a class is met for the first time, by running the network on from the layer, many classes at once, and known from then
//! on. No graph is recorded and no pass goes back, and a method that weighs channels makes the maps of all classes by one matrix product.

use std::{
    any::TypeId,
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use tch::{Kind, TchError, Tensor};
use typed_index_collections::{TiSlice, TiVec};

use super::{
    Column, ExplainError,
    cam::Reduction,
    grid::{ColumnIndex, LayerIndex, SampleIndex, TargetIndex},
    pass::{ClassScore, Differentiated, Run},
    target::{ClassKey, Score, index_tensor},
};
use crate::program;

/// Numbers that are worked on at once: classes by channels by places, 16 MiB.
const AT_ONCE: usize = 1 << 22;

/// Numbers that are known at most, 256 MiB: past that, gradients are forgotten and computed anew.
const KNOWN: usize = 1 << 26;

/// The maps of a column: of each of its layers, by target, `[N, H', W']`.
pub(super) type ClassMaps = Vec<BTreeMap<TargetIndex, Tensor>>;

/// A layer, for inputs of so many rows and columns.
type At = (LayerIndex, (i64, i64));

/// The gradients that are known.
#[derive(Debug)]
pub(super) struct ClassGradients {
    /// Of which columns all layers have such gradients, which are all that the method takes.
    columns: TiVec<ColumnIndex, bool>,
    /// How many images the model takes at once.
    max_batch: usize,
    tables: RefCell<HashMap<At, Table>>,
}

/// The gradients in a layer.
#[derive(Debug)]
struct Table {
    rows: HashMap<ClassKey, i64>,
    /// `[R, C, H', W']`, or `[R, C, 1, 1]` where each is the same at all places.
    gradients: Tensor,
}

impl ClassGradients {
    /// For these columns, of a model that takes so many images at once.
    pub(super) fn new(columns: TiVec<ColumnIndex, bool>, max_batch: usize) -> Self {
        ClassGradients { columns, max_batch, tables: RefCell::default() }
    }

    /// Whether all maps of a column are made of such gradients.
    pub(super) fn has(&self, column: ColumnIndex) -> bool {
        self.columns[column]
    }

    /// The maps of a run, of all classes, of those columns.
    pub(super) fn maps(
        &self,
        run: &Run<'_>,
        columns: &TiSlice<ColumnIndex, Column>,
        reduction: Reduction,
    ) -> Result<TiVec<ColumnIndex, Option<ClassMaps>>, ExplainError> {
        let none_yet = |column: &Column| -> ClassMaps { column.layers.iter().map(|_| BTreeMap::new()).collect() };
        let of_column = |(index, column): (ColumnIndex, &Column)| self.has(index).then(|| none_yet(column));
        let mut maps: TiVec<ColumnIndex, Option<ClassMaps>> = columns.iter_enumerated().map(of_column).collect();
        let own = columns.iter_enumerated().filter(|(index, _)| self.has(*index));
        let mut layers: Vec<LayerIndex> = own.flat_map(|(_, column)| column.layers.iter().copied()).collect();
        layers.sort_unstable();
        layers.dedup();
        let targets: Vec<TargetIndex> = run.scores().targets().collect();
        for layer in layers {
            let activation = run.activation(layer)?;
            for block in targets.chunks((AT_ONCE / activation.numel().max(1)).max(1)) {
                // Of each thing that is differentiated.
                let mut known: Vec<(TypeId, Tensor)> = Vec::new();
                for (column, maps) in columns.iter().zip(&mut maps) {
                    for (_, map) in column.layers.iter().zip(maps.iter_mut().flatten()).filter(|(own, _)| **own == layer) {
                        let Some(differentiated) = column.method.differentiated() else { continue };
                        let objective = differentiated.objective;
                        let gradient = match known.iter().find(|(other, _)| *other == objective) {
                            Some((_, gradient)) => gradient.shallow_clone(),
                            None => self.of_targets(run, layer, block, differentiated)?,
                        };
                        let of_block = column.method.of_shared(&activation, &gradient, reduction)?;
                        known.push((objective, gradient));
                        map.extend(block.iter().copied().zip(of_block.f_unbind(1)?));
                    }
                }
            }
        }
        Ok(maps)
    }

    /// The gradients of targets in a layer: `[1, T, C, h, w]` where they are those of all samples, else `[N, T, C, h, w]`, with those of
    /// another sample where one does not have the target.
    fn of_targets(
        &self,
        run: &Run<'_>,
        layer: LayerIndex,
        targets: &[TargetIndex],
        differentiated: Differentiated,
    ) -> Result<Tensor, ExplainError> {
        let logits = run.output()?;
        let present: Vec<BTreeMap<SampleIndex, &Score>> =
            targets.iter().map(|target| run.scores().of_target(*target).collect()).collect();
        let of_row = |row: usize| -> Vec<&Score> {
            let own = present.iter().map(|scores| scores.get(&row.into()).or_else(|| scores.values().next()));
            own.flatten().copied().collect()
        };
        let num_samples = logits.size()[0] as usize;
        if differentiated.objective != TypeId::of::<ClassScore>() {
            let each = (0..num_samples).map(|row| self.of_objective(run, layer, &logits, row, &of_row(row), differentiated));
            return Ok(Tensor::f_stack(&each.collect::<Result<Vec<_>, _>>()?, 0)?);
        }
        let is_same = present.iter().all(|scores| {
            let mut kinds = scores.values().map(|score| score.key());
            let first = kinds.next();
            kinds.all(|kind| Some(kind) == first)
        });
        let num_rows = if is_same { 1 } else { num_samples };
        let scores: Vec<&Score> = (0..num_rows).flat_map(of_row).collect();
        let gradients = self.of_scores(run, layer, &scores)?;
        let size = gradients.size();
        Ok(gradients.f_view([num_rows as i64, targets.len() as i64, size[1], size[2], size[3]])?)
    }

    /// The gradients `[T, C, h, w]` of what else is made of a sample's logits, of `T` scores: those in the logits times the logits' own.
    fn of_objective(
        &self,
        run: &Run<'_>,
        layer: LayerIndex,
        logits: &Tensor,
        row: usize,
        scores: &[&Score],
        differentiated: Differentiated,
    ) -> Result<Tensor, ExplainError> {
        let (num_scores, num_channels) = (scores.len() as i64, logits.size()[1]);
        let channels: Option<Vec<Score>> =
            scores.first().and_then(|score| (0..num_channels).map(|channel| score.of_channel(channel)).collect());
        let channels = channels.ok_or_else(|| ExplainError::Unsuitable("there are no classes to compare".into()))?;
        let of_channels = self.of_scores(run, layer, &channels.iter().collect::<Vec<_>>())?;
        let own = logits.f_narrow(0, row as i64, 1)?.f_repeat([num_scores, 1])?.f_set_requires_grad(true)?;
        let each: Vec<_> = scores.iter().enumerate().map(|(number, score)| (SampleIndex::from(number), *score)).collect();
        let root = tch::with_grad(|| (differentiated.values)(&own, &each)?.f_sum(None::<Kind>))?;
        let in_logits = program::gradients(&root, &[own], false, false)?.swap_remove(0);
        let size = of_channels.size();
        let gradients = in_logits.f_to_kind(of_channels.kind())?.f_matmul(&of_channels.f_flatten(1, 3)?)?;
        Ok(gradients.f_view([num_scores, size[1], size[2], size[3]])?)
    }

    /// The gradient of each score, `[S, C, h, w]`.
    fn of_scores(&self, run: &Run<'_>, layer: LayerIndex, scores: &[&Score]) -> Result<Tensor, ExplainError> {
        let bug = || ExplainError::Unsuitable("the score of a class has a mask; this is a bug in camflow".into());
        let kinds = scores.iter().map(|score| score.key().ok_or_else(bug)).collect::<Result<Vec<_>, _>>()?;
        let mut tables = self.tables.borrow_mut();
        if tables.values().map(|table| table.gradients.numel()).sum::<usize>() > KNOWN {
            tables.clear();
        }
        let table = tables.entry((layer, run.input_size())).or_insert_with(Table::empty);
        let mut new: Vec<&Score> = Vec::new();
        for (kind, score) in kinds.iter().zip(scores) {
            let next = table.rows.len() as i64;
            table.rows.entry(*kind).or_insert_with(|| {
                new.push(score);
                next
            });
        }
        let activation = run.activation(layer)?.size();
        let of_image: i64 = activation[1..].iter().product();
        let at_once = (AT_ONCE / (of_image as usize).max(1)).clamp(1, self.max_batch);
        for some in new.chunks(at_once) {
            let found = run.shared_gradients(layer, some).and_then(|gradients| Ok(joined(&table.gradients, &gradients)?));
            match found {
                Ok(gradients) => table.gradients = gradients,
                Err(error) => {
                    // Rows without gradients, which a smaller batch may have memory for.
                    *table = Table::empty();
                    return Err(error);
                }
            }
        }
        let rows: Vec<i64> = kinds.iter().map(|kind| table.rows[kind]).collect();
        let first = rows.first().copied().unwrap_or(0);
        match rows.iter().zip(first..).all(|(row, next)| *row == next) {
            true => Ok(table.gradients.f_narrow(0, first, rows.len() as i64)?),
            false => Ok(table.gradients.f_index_select(0, &index_tensor(&rows, &table.gradients)?)?),
        }
    }
}

impl Table {
    fn empty() -> Self {
        Table { rows: HashMap::new(), gradients: Tensor::new() }
    }
}

/// Known gradients, if there are any yet, and new ones `[R, C, H', W']`, in which each is once where it is the same at all places.
fn joined(known: &Tensor, new: &Tensor) -> Result<Tensor, TchError> {
    let dims: &[i64] = &[2, 3];
    let (least, largest) = (new.f_amin(dims, true)?, new.f_amax(dims, true)?);
    let new = if least.f_equal(&largest)? { largest } else { new.f_contiguous()? };
    if !known.defined() {
        return Ok(new);
    }
    let (height, width) = (known.size()[2].max(new.size()[2]), known.size()[3].max(new.size()[3]));
    let wide = |gradients: &Tensor| gradients.f_expand([gradients.size()[0], gradients.size()[1], height, width], false);
    Tensor::f_cat(&[wide(known)?, wide(&new)?], 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_that_are_the_same_everywhere_are_kept_once() {
        let same = Tensor::from_slice(&[1f32, 2.0]).view([1, 2, 1, 1]).expand([1, 2, 2, 3], false);
        let varied = Tensor::arange(12, tch::kind::FLOAT_CPU).view([1, 2, 2, 3]);
        let once = joined(&Tensor::new(), &same).expect("joined");
        assert_eq!(once.size(), [1, 2, 1, 1]);
        assert_eq!(joined(&once, &same).expect("joined").size(), [2, 2, 1, 1]);
        let both = joined(&once, &varied).expect("joined");
        assert!(both.narrow(0, 0, 1).equal(&same) && both.narrow(0, 1, 1).equal(&varied));
        let both = joined(&varied, &same).expect("joined");
        assert!(both.narrow(0, 0, 1).equal(&varied) && both.narrow(0, 1, 1).equal(&same));
    }
}
