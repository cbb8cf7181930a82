//! Gradients of single predictions of a detector, computed where they are not zero: in a rectangle of each layer (`local.rs`).
//!
//! A prediction's logit is one value of a map of the head. Its gradient is taken back step by step, each time to the rectangle of the
//! step's argument that its result depends on. What that takes of numbers was kept from the run of the image; they are as libtorch's own
//! engine would have them, in sums of another order.

use std::collections::{BTreeSet, HashMap};

use tch::{Device, Kind, TchError, Tensor};

use super::{
    dispatch::Output,
    exec::{ExecError, Execution, Frame, Value, from_tch},
    graph::{Arg, IntArg, ValueId},
    influence::gradients,
    plan::{Back, Local, Places, Plan, Read, Step},
};

/// Numbers above this one have no place of their own in f64.
const MAX_LABEL: i64 = 1 << 53;

/// A rectangle of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// The first row.
    pub top: i64,
    /// The first column.
    pub left: i64,
    /// How many rows.
    pub height: i64,
    /// How many columns.
    pub width: i64,
}

impl Area {
    /// That of one sample of `[N, C, H, W]`: `[1, C, h, w]`.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn of(self, whole: &Tensor, sample: i64) -> Result<Tensor, TchError> {
        whole.f_narrow(0, sample, 1)?.f_narrow(2, self.top, self.height)?.f_narrow(3, self.left, self.width)
    }

    /// The smallest one that holds both.
    fn join(self, other: Area) -> Area {
        let (top, left) = (self.top.min(other.top), self.left.min(other.left));
        let bottom = (self.top + self.height).max(other.top + other.height);
        let right = (self.left + self.width).max(other.left + other.width);
        Area { top, left, height: bottom - top, width: right - left }
    }
}

/// A gradient `[1, C, h, w]` of a layer's `[1, C, H, W]`, which is zero elsewhere.
#[derive(Debug)]
pub(crate) struct Patch {
    /// Where it is not.
    pub(crate) area: Area,
    /// The numbers.
    pub(crate) values: Tensor,
}

impl Patch {
    /// The same in an area that holds it.
    fn within(&self, area: Area) -> Result<Tensor, TchError> {
        if area == self.area {
            return Ok(self.values.shallow_clone());
        }
        let (above, before) = (self.area.top - area.top, self.area.left - area.left);
        let below = area.height - above - self.area.height;
        self.values.f_constant_pad_nd([before, area.width - before - self.area.width, above, below])
    }

    fn plus(&self, other: &Patch) -> Result<Patch, TchError> {
        let area = self.area.join(other.area);
        Ok(Patch { area, values: self.within(area)?.f_add(&other.within(area)?)? })
    }

    fn with(&self, values: Tensor) -> Patch {
        Patch { area: self.area, values }
    }
}

/// Why there is no patch.
enum Stop {
    /// Some operator does what it was not expected to do.
    Unlike,
    Failed(ExecError),
}

impl From<TchError> for Stop {
    fn from(error: TchError) -> Self {
        let [node, operator] = ["the gradient of a prediction", "backward"].map(str::to_owned);
        Stop::Failed(ExecError { node, operator, source: from_tch(&error) })
    }
}

impl From<ExecError> for Stop {
    fn from(error: ExecError) -> Self {
        Stop::Failed(error)
    }
}

impl Plan {
    /// Whether some predictions have gradients in patches.
    pub(crate) fn has_patches(&self) -> bool {
        self.local.is_some()
    }

    /// The gradient of a sum of one sample's logits, those of a channel in some predictions, with respect to each tap; none where it is zero
    /// everywhere. `None` for all: these predictions depend on more than a part of the layers.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub(crate) fn patches(
        &self,
        execution: &Execution,
        sample: i64,
        channel: i64,
        predictions: &[i64],
    ) -> Result<Option<Vec<Option<Patch>>>, ExecError> {
        let Some(local) = &self.local else { return Ok(None) };
        match self.taken_back(local, execution, sample, channel, predictions) {
            Ok(found) => Ok(Some(found)),
            Err(Stop::Unlike) => Ok(None),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn taken_back(
        &self,
        local: &Local,
        execution: &Execution,
        sample: i64,
        channel: i64,
        predictions: &[i64],
    ) -> Result<Vec<Option<Patch>>, Stop> {
        let mut gradients = self.at_maps(local, execution, channel, predictions)?;
        let mut steps = BTreeSet::new();
        for map in local.maps.iter().filter(|map| gradients.contains_key(&map.value)) {
            steps.extend(map.way.as_ref().ok_or(Stop::Unlike)?.iter().copied());
        }
        let mut found: Vec<Option<Patch>> = self.taps.iter().map(|_| None).collect();
        let mut frame = self.frame(None)?;
        for index in steps.into_iter().rev() {
            let step: &Step = &self.steps[index];
            let gives = step.gives();
            let own: Vec<Option<Patch>> = gives.iter().map(|value| gradients.remove(value)).collect();
            for (value, gradient) in gives.iter().zip(&own) {
                let Some(gradient) = gradient else { continue };
                self.tell(*value, gradient, &mut found);
            }
            if own.iter().all(Option::is_none) {
                continue;
            }
            let read = execution.tape.get(&index).ok_or(Stop::Unlike)?;
            for (value, gradient) in self.step_back(local.back[&index], index, read, &own, sample, &mut frame)? {
                let sum = match gradients.remove(&value) {
                    Some(known) => known.plus(&gradient)?,
                    None => gradient,
                };
                gradients.insert(value, sum);
            }
        }
        // Of taps that no step on the way gives: the first ones.
        for (value, gradient) in &gradients {
            self.tell(*value, gradient, &mut found);
        }
        Ok(found)
    }

    /// Several taps may be of one value: modules that hand on what others gave.
    fn tell(&self, value: ValueId, gradient: &Patch, found: &mut [Option<Patch>]) {
        for (place, _) in found.iter_mut().zip(&self.taps).filter(|(_, tap)| **tap == value) {
            *place = Some(gradient.with(gradient.values.shallow_clone()));
        }
    }

    /// The gradient with respect to each map.
    fn at_maps(
        &self,
        local: &Local,
        execution: &Execution,
        channel: i64,
        predictions: &[i64],
    ) -> Result<HashMap<ValueId, Patch>, Stop> {
        let mut places = self.places.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let sizes = local.maps.iter().map(|map| match execution.kept.get(&map.value) {
            Some(Value::Tensor(map)) if map.dim() == 4 => Ok(map.size()),
            _ => Err(Stop::Unlike),
        });
        let sizes = sizes.collect::<Result<Vec<_>, _>>()?;
        if places.as_ref().is_none_or(|places| places.sizes != sizes) {
            let labels = self.labels(local, execution, &sizes)?;
            *places = Some(Places { sizes: sizes.clone(), labels });
        }
        let labels = &places.as_ref().ok_or(Stop::Unlike)?.labels;
        let mut cells: HashMap<usize, Vec<[i64; 3]>> = HashMap::new();
        for prediction in predictions {
            let mut label = labels.f_double_value(&[channel, *prediction])? as i64;
            let of_map = |size: &Vec<i64>| {
                let length = size[1] * size[2] * size[3];
                if label < length {
                    return true;
                }
                label -= length;
                false
            };
            let map = sizes.iter().position(of_map).ok_or(Stop::Unlike)?;
            let (height, width) = (sizes[map][2], sizes[map][3]);
            cells.entry(map).or_default().push([label / (height * width), label / width % height, label % width]);
        }
        let mut found = HashMap::new();
        for (map, cells) in cells {
            let ends = |axis: usize| {
                let along = cells.iter().map(|cell| cell[axis]);
                (along.clone().min().unwrap_or(0), along.max().unwrap_or(0))
            };
            let ((top, bottom), (left, right)) = (ends(1), ends(2));
            let (channels, height, width) = (sizes[map][1], bottom - top + 1, right - left + 1);
            let mut values = vec![0f32; (channels * height * width) as usize];
            for [channel, row, column] in &cells {
                values[((channel * height + row - top) * width + column - left) as usize] += 1.0;
            }
            let values = Tensor::f_from_slice(&values)?.f_view([1, channels, height, width])?;
            found.insert(local.maps[map].value, Patch { area: Area { top, left, height, width }, values });
        }
        Ok(found)
    }

    /// Where each logit `[K, Q]` comes from: numbers take the way from the maps to the logits.
    fn labels(&self, local: &Local, execution: &Execution, sizes: &[Vec<i64>]) -> Result<Tensor, Stop> {
        let _no_grad = tch::no_grad_guard();
        let mut frame = self.frame(None)?;
        let mut start = 0;
        for (map, size) in local.maps.iter().zip(sizes) {
            let end = start + size[1] * size[2] * size[3];
            if end > MAX_LABEL {
                return Err(Stop::Unlike);
            }
            let labels = Tensor::f_arange_start(start, end, (Kind::Double, Device::Cpu))?;
            let labels = labels.f_view([1, size[1], size[2], size[3]])?.f_repeat([size[0], 1, 1, 1])?;
            self.supply(map.value, Value::Tensor(labels), &mut frame);
            start = end;
        }
        for id in &local.boundary {
            if let Some(value) = execution.kept.get(id) {
                self.supply(*id, value.share(), &mut frame);
            }
        }
        for step in &local.moves {
            self.advance(&self.steps[*step], &mut frame)?;
        }
        let moved = frame.tensor(self.output).filter(|moved| moved.size() == execution.output.size() && moved.dim() == 4);
        Ok(moved.ok_or(Stop::Unlike)?.f_select(0, 0)?.f_flatten(1, -1)?.f_contiguous()?)
    }

    /// From the gradients of a step's results to those of what it read.
    fn step_back(
        &self,
        back: Back,
        index: usize,
        read: &[Read],
        own: &[Option<Patch>],
        sample: i64,
        frame: &mut Frame,
    ) -> Result<Vec<(ValueId, Patch)>, Stop> {
        let step = &self.steps[index];
        let one = || own.first().and_then(Option::as_ref).ok_or(Stop::Unlike);
        let depending = || read.iter().filter(|read| read.depends);
        if depending().any(|read| read.size.len() != 4) {
            return Err(Stop::Unlike);
        }
        match back {
            Back::AsItIs | Back::Sum => {
                let own = one()?;
                self.check_places(step, read)?;
                Ok(depending().map(|read| (read.value, own.with(own.values.shallow_clone()))).collect())
            }
            Back::Concatenation => {
                let (own, mut start, mut found) = (one()?, 0, Vec::new());
                self.check_places(step, read)?;
                for read in read {
                    let channels = *read.size.get(1).ok_or(Stop::Unlike)?;
                    if read.depends {
                        found.push((read.value, own.with(own.values.f_narrow(1, start, channels)?)));
                    }
                    start += channels;
                }
                if start == own.values.size()[1] { Ok(found) } else { Err(Stop::Unlike) }
            }
            Back::Convolution => self.through_convolution(index, read, one()?),
            Back::Silu => {
                let (own, read) = (one()?, read.first().ok_or(Stop::Unlike)?);
                let input = own.area.of(&read.tensor.as_ref().ok_or(Stop::Unlike)?.f_detach()?, sample)?;
                Ok(vec![(read.value, own.with(input.f_silu_backward(&own.values)?))])
            }
            Back::Again => {
                self.check_places(step, read)?;
                self.again(step, read, own, sample, frame)
            }
        }
    }

    /// What a step reads has to lie over the same places, or to be the same for all of them.
    fn check_places(&self, step: &Step, read: &[Read]) -> Result<(), Stop> {
        let size = read.iter().find(|read| read.depends).map(|read| read.size[2..].to_vec()).ok_or(Stop::Unlike)?;
        let is_norm = step.operator.starts_with("aten::batch_norm");
        let fits = |other: &[i64], depends: bool| match other {
            [.., height, width] => [*height, *width] == size[..] || !depends && [*height, *width] == [1, 1],
            [length] => is_norm || *length == 1,
            [] => true,
        };
        let constants = step.reads().into_iter().filter(|value| read.iter().all(|read| read.value != *value));
        let mut constants = constants.filter_map(|value| self.constants.get(&value));
        let all_fit =
            constants.all(|constant| fits(&constant.size(), false)) && read.iter().all(|read| fits(&read.size, read.depends));
        if all_fit { Ok(()) } else { Err(Stop::Unlike) }
    }

    fn through_convolution(&self, index: usize, read: &[Read], own: &Patch) -> Result<Vec<(ValueId, Patch)>, Stop> {
        let step = &self.steps[index];
        let Some(Some(Arg::Value(weight))) = step.args.get(1) else { return Err(Stop::Unlike) };
        // One that is computed of the image may depend on it, too.
        let weight = self.constants.get(weight).filter(|_| !self.written_constants.contains(weight)).ok_or(Stop::Unlike)?;
        let number = |at: usize, default: i64| numbers(step, at, default).ok_or(Stop::Unlike);
        let (strides, paddings, dilations, [groups, _]) = (number(3, 1)?, number(4, 0)?, number(5, 1)?, number(6, 1)?);
        let [read] = read else { return Err(Stop::Unlike) };
        let size = weight.size();
        let values = match (groups, strides, &size[2..]) {
            _ if let Some(turned) = self.turned.get(&index) => {
                let reach = [dilations[0] * (size[2] - 1), dilations[1] * (size[3] - 1)];
                own.values.f_conv2d(turned, None::<Tensor>, [1i64, 1], reach, dilations, groups)?
            }
            (1, [1, 1], [1, 1]) => {
                let rows = own.values.f_permute([0, 2, 3, 1])?.f_reshape([-1, size[0]])?;
                let rows = rows.f_mm(&weight.f_view([size[0], size[1]])?)?;
                rows.f_view([1, own.area.height, own.area.width, size[1]])?.f_permute([0, 3, 1, 2])?
            }
            _ => {
                let nothing = None::<Tensor>;
                own.values.f_conv_transpose2d(weight, nothing, strides, [0i64, 0], [0i64, 0], groups, dilations)?
            }
        };
        let taken = values.size();
        // What a convolution reads beside the image is zeros.
        let along = |axis: usize, first: i64| {
            let start = first * strides[axis] - paddings[axis];
            let (from, to) = (start.max(0), (start + taken[2 + axis]).min(read.size[2 + axis]));
            (from, to - from, from - start)
        };
        let ((top, height, above), (left, width, before)) = (along(0, own.area.top), along(1, own.area.left));
        if height <= 0 || width <= 0 {
            return Ok(Vec::new());
        }
        let values = values.f_narrow(2, above, height)?.f_narrow(3, before, width)?;
        Ok(vec![(read.value, Patch { area: Area { top, left, height, width }, values })])
    }

    /// By libtorch's own derivative of a step, which is run once more.
    fn again(
        &self,
        step: &Step,
        read: &[Read],
        own: &[Option<Patch>],
        sample: i64,
        frame: &mut Frame,
    ) -> Result<Vec<(ValueId, Patch)>, Stop> {
        let area = own.iter().flatten().map(|own| own.area).reduce(Area::join).ok_or(Stop::Unlike)?;
        let mut leaves = Vec::new();
        for read in read {
            let whole = read.tensor.as_ref().ok_or(Stop::Unlike)?.f_detach()?;
            let part = match read.size[..] {
                [_, _, 1, 1] if !read.depends => whole.f_narrow(0, if read.size[0] == 1 { 0 } else { sample }, 1)?,
                [_, _, _, _] => area.of(&whole, if read.size[0] == 1 { 0 } else { sample })?,
                _ => whole,
            };
            let part = if read.depends { part.f_set_requires_grad(true)? } else { part };
            if read.depends {
                leaves.push((read.value, part.shallow_clone()));
            }
            self.supply(read.value, Value::Tensor(part), frame);
        }
        let found = tch::with_grad(|| -> Result<Vec<Tensor>, Stop> {
            let results = self.results(step, frame)?;
            let results = results.into_iter().flat_map(|result| match result {
                Output::Tensor(tensor) => vec![tensor],
                Output::Tensors(tensors) => tensors,
                _ => Vec::new(),
            });
            let mut sum: Option<Tensor> = None;
            for (result, own) in results.zip(own) {
                let Some(own) = own else { continue };
                let part = result.f_mul(&own.within(area)?)?.f_sum(None::<Kind>)?;
                sum = Some(match sum {
                    Some(sum) => sum.f_add(&part)?,
                    None => part,
                });
            }
            let inputs: Vec<Tensor> = leaves.iter().map(|(_, leaf)| leaf.shallow_clone()).collect();
            Ok(gradients(&sum.ok_or(Stop::Unlike)?, &inputs, false, false)?)
        })?;
        let found = leaves.into_iter().zip(found).filter(|(_, gradient)| gradient.defined());
        Ok(found.map(|((value, _), values)| (value, Patch { area, values })).collect())
    }
}

/// The weight `[I, O / groups, h, w]` whose convolution with a gradient, padded as far as it reaches, is what a convolution of stride 1 takes
/// back. Transposed ones have slow kernels on CPUs, which take groups one by one. `None`: it is another step, or a matrix product will do.
///
/// # Errors
/// No memory is left.
pub(super) fn turned(step: &Step, constants: &HashMap<ValueId, Tensor>) -> Result<Option<Tensor>, TchError> {
    let (Some(Some(Arg::Value(weight))), "aten::conv2d") = (step.args.get(1), &*step.operator) else { return Ok(None) };
    let (Some(weight), Some([1, 1]), Some([groups, _])) = (constants.get(weight), numbers(step, 3, 1), numbers(step, 6, 1))
    else {
        return Ok(None);
    };
    let size = weight.size();
    if size.len() != 4 || groups < 1 || size[0] % groups != 0 || size[2..] == [1, 1] && groups == 1 {
        return Ok(None);
    }
    let by_group = weight.f_reshape([groups, size[0] / groups, size[1], size[2], size[3]])?;
    let exchanged = by_group.f_transpose(1, 2)?.f_flip([3, 4])?;
    exchanged.f_reshape([groups * size[1], size[0] / groups, size[2], size[3]])?.f_contiguous().map(Some)
}

/// An argument of a convolution, for rows and columns.
fn numbers(step: &Step, at: usize, default: i64) -> Option<[i64; 2]> {
    both(step.args.get(at).and_then(Option::as_ref), default)
}

/// A number for rows and columns.
fn both(arg: Option<&Arg>, default: i64) -> Option<[i64; 2]> {
    let of = |numbers: &[i64]| match *numbers {
        [both] => Some([both, both]),
        [rows, columns] => Some([rows, columns]),
        _ => None,
    };
    match arg {
        None | Some(Arg::None) => Some([default; 2]),
        Some(Arg::Int(both)) => Some([*both; 2]),
        Some(Arg::Ints(numbers)) => of(numbers),
        Some(Arg::SymInts(numbers)) => {
            let constant = |number: &IntArg| match number {
                IntArg::Constant(number) => Some(*number),
                IntArg::Value(_) => None,
            };
            of(&numbers.iter().map(constant).collect::<Option<Vec<_>>>()?)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::to_host;

    fn patch(top: i64, left: i64, values: &[f32], size: [i64; 2]) -> Patch {
        let area = Area { top, left, height: size[0], width: size[1] };
        Patch { area, values: Tensor::from_slice(values).view([1, 1, size[0], size[1]]) }
    }

    #[test]
    fn patches_are_added_where_they_lie() {
        let sum = patch(1, 2, &[1.0, 2.0], [1, 2]).plus(&patch(0, 3, &[3.0, 4.0], [2, 1])).expect("added");
        assert_eq!(sum.area, Area { top: 0, left: 2, height: 2, width: 2 });
        assert_eq!(to_host::<f32>(&sum.values).expect("values"), [0.0, 3.0, 1.0, 6.0]);
    }

    #[test]
    fn numbers_of_a_convolution_are_for_rows_and_columns() {
        assert_eq!(both(None, 1), Some([1, 1]));
        assert_eq!(both(Some(&Arg::Ints(vec![2])), 1), Some([2, 2]));
        assert_eq!(both(Some(&Arg::Ints(vec![2, 3])), 1), Some([2, 3]));
        assert_eq!(both(Some(&Arg::SymInts(vec![IntArg::Constant(4), IntArg::Constant(5)])), 0), Some([4, 5]));
        assert_eq!(both(Some(&Arg::SymInts(vec![IntArg::Value(ValueId::default())])), 0), None);
        assert_eq!(both(Some(&Arg::Str("same".into())), 0), None);
    }
}
