//! What kernels of libtorch take for granted, and a model file need not keep: looked at before each call of the few operators
//! that do not look themselves. Without this they read or write beside their tensors, or end the process.

use tch::{Kind, Tensor};

use super::value::{ArgumentSpec, DispatchError, Input, Output};

/// The arguments of a call.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    /// Of the schema.
    pub arguments: &'a [ArgumentSpec],
    /// One for each.
    pub inputs: &'a [Input<'a>],
}

impl<'a> Call<'a> {
    fn input(&self, name: &str) -> Option<Input<'a>> {
        let position = self.arguments.iter().position(|argument| argument.name == name)?;
        self.inputs.get(position).copied()
    }

    fn tensor(&self, name: &str) -> Option<&'a Tensor> {
        match self.input(name)? {
            Input::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }

    /// Shallow copies, as a list holds bare pointers.
    fn tensors(&self, name: &str) -> Vec<Tensor> {
        let Some(Input::Tensors(list)) = self.input(name) else { return Vec::new() };
        // SAFETY: the caller of the operator holds the tensors while it is called.
        list.iter()
            .filter(|tensor| !tensor.is_null())
            .map(|tensor| unsafe { Tensor::clone_from_ptr(tensor.cast_mut()) })
            .collect()
    }

    /// A number; `default` where the schema's default was left.
    fn int(&self, name: &str, default: i64) -> i64 {
        match self.input(name) {
            Some(Input::Int(number)) => number,
            Some(Input::Bool(truth)) => i64::from(truth),
            _ => default,
        }
    }
}

/// What is to be looked at for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// Its kernels check what they are given.
    None,
    /// The fused kernel reads as many values as there are keys.
    Attention,
    /// The kernels read one number per channel.
    BatchNorm,
    /// The number of steps is a quotient, too.
    Arange,
    /// The quotient of the smallest integer and -1 is none.
    Division,
    /// Memory that others left is cleared: it must not get into a heatmap.
    Empty,
    /// Places that are no numbers have no pixel.
    Grid,
    /// The fused kernel does not look at the sizes of states and weights.
    Recurrence,
    /// An empty tensor has no element.
    SingleElement,
    /// The kernels find a pixel's place by the scale that they are told, not by the sizes.
    Upsample,
    /// The kernel reads one magnitude per row.
    WeightNorm,
}

impl Guard {
    /// For an operator by its name with the namespace.
    pub(super) fn of(operator: &str) -> Guard {
        let name = operator.strip_prefix("aten::").or_else(|| operator.strip_prefix("camflow::"));
        match name.map(|name| name.strip_suffix('_').unwrap_or(name)).unwrap_or_default() {
            "scaled_dot_product_attention" => Guard::Attention,
            "native_batch_norm" | "_native_batch_norm_legit" | "_native_batch_norm_legit_no_training" => Guard::BatchNorm,
            "arange" => Guard::Arange,
            "div" | "divide" => Guard::Division,
            "empty" | "empty_like" | "empty_permuted" | "new_empty" => Guard::Empty,
            "grid_sampler" | "grid_sampler_2d" | "grid_sampler_3d" => Guard::Grid,
            "gru" | "lstm" | "rnn_relu" | "rnn_tanh" => Guard::Recurrence,
            "_local_scalar_dense" => Guard::SingleElement,
            "_weight_norm" => Guard::WeightNorm,
            name if name.trim_start_matches('_').starts_with("upsample_") => Guard::Upsample,
            _ => Guard::None,
        }
    }

    /// Looks at the arguments.
    ///
    /// # Errors
    /// Why the operator cannot be called with them.
    pub(super) fn check(self, call: Call<'_>) -> Result<(), String> {
        match self {
            Guard::None | Guard::Empty => Ok(()),
            Guard::Arange => arange(call),
            Guard::Attention => attention(call),
            Guard::BatchNorm => batch_norm(call),
            Guard::Division => division(call),
            Guard::Grid => grid(call),
            Guard::Recurrence => recurrence(call),
            Guard::SingleElement => match call.tensor("self").map(Tensor::numel) {
                Some(1) => Ok(()),
                other => Err(format!("it takes a tensor of one element, not of {}", other.unwrap_or_default())),
            },
            Guard::Upsample => upsample(call),
            Guard::WeightNorm => weight_norm(call),
        }
    }

    /// Looks after the results.
    ///
    /// # Errors
    /// libtorch's own.
    pub(super) fn finish(self, outputs: &[Output]) -> Result<(), DispatchError> {
        for output in outputs.iter().filter(|_| self == Guard::Empty) {
            if let Output::Tensor(tensor) = output {
                let mut tensor = tensor.shallow_clone();
                let _ = tch::no_grad(|| tensor.f_zero_()).map_err(|error| super::from_tch(&error))?;
            }
        }
        Ok(())
    }
}

fn arange(call: Call<'_>) -> Result<(), String> {
    const FARTHEST: i64 = 1 << 53;
    let is_far = |name: &&&str| !(-FARTHEST..=FARTHEST).contains(&call.int(name, 0));
    match ["start", "end", "step"].iter().find(is_far) {
        Some(name) => Err(format!("its `{name}` is {}, further than any tensor reaches", call.int(name, 0))),
        None => Ok(()),
    }
}

fn attention(call: Call<'_>) -> Result<(), String> {
    let [Some(query), Some(key), Some(value)] = ["query", "key", "value"].map(|name| call.tensor(name).map(Tensor::size)) else {
        return Ok(());
    };
    let [[_, width], [keys, key_width], [values, _]] = [&query, &key, &value].map(|size| match size[..] {
        [.., rows, columns] => [rows, columns],
        _ => [-1, -1],
    });
    // Kernels divide by the number of heads.
    let is_filled = [&query, &key, &value].iter().all(|size| size.iter().all(|side| *side > 0));
    let fits = is_filled && keys >= 0 && values == keys && width == key_width;
    if fits { Ok(()) } else { Err(format!("queries {query:?}, keys {key:?} and values {value:?} do not fit together")) }
}

fn batch_norm(call: Call<'_>) -> Result<(), String> {
    let Some(input) = call.tensor("input").map(Tensor::size) else { return Ok(()) };
    let &[_, channels, ..] = &input[..] else { return Err(format!("an input {input:?} has no channels")) };
    for name in ["weight", "bias", "running_mean", "running_var"] {
        if let Some(length) = call.tensor(name).map(Tensor::numel).filter(|length| i64::try_from(*length) != Ok(channels)) {
            return Err(format!("`{name}` has {length} numbers for {channels} channels"));
        }
    }
    let is_training = call.int("training", 0) != 0;
    let has_statistics = call.tensor("running_mean").is_some() && call.tensor("running_var").is_some();
    if is_training || has_statistics { Ok(()) } else { Err("it has no mean and variance to go by".to_owned()) }
}

fn division(call: Call<'_>) -> Result<(), String> {
    let truncates = matches!(call.input("rounding_mode"), Some(Input::Str("trunc")));
    let smallest = |kind: Kind| match kind {
        Kind::Int8 => Some(i64::from(i8::MIN)),
        Kind::Int16 => Some(i64::from(i16::MIN)),
        Kind::Int => Some(i64::from(i32::MIN)),
        Kind::Int64 => Some(i64::MIN),
        _ => None,
    };
    let Some((dividend, smallest)) =
        call.tensor("self").filter(|_| truncates).and_then(|tensor| Some((tensor, smallest(tensor.kind())?)))
    else {
        return Ok(());
    };
    let holds = |tensor: &Tensor, number: i64| -> Result<bool, String> {
        let found = tensor.f_eq(number).and_then(|equal| equal.f_any()).and_then(bool::try_from);
        found.map_err(|error| super::from_tch(&error).message)
    };
    let by_minus_one = match call.input("other") {
        Some(Input::Tensor(divisor)) if smallest_fits(divisor.kind()) => holds(divisor, -1)?,
        Some(Input::Int(divisor)) => divisor == -1,
        _ => false,
    };
    if by_minus_one && holds(dividend, smallest)? {
        return Err(format!("{smallest} divided by -1 is no number of this kind"));
    }
    Ok(())
}

fn smallest_fits(kind: Kind) -> bool {
    matches!(kind, Kind::Int8 | Kind::Int16 | Kind::Int | Kind::Int64)
}

fn grid(call: Call<'_>) -> Result<(), String> {
    /// Far outside of any picture; multiplied by its size it is still a number.
    const FARTHEST: f64 = 1e20;
    let Some(grid) = call.tensor("grid").filter(|grid| grid.is_floating_point()) else { return Ok(()) };
    // Smaller kinds do not know the limit.
    let near = grid
        .f_to_kind(Kind::Float)
        .and_then(|grid| grid.f_abs()?.f_le(FARTHEST))
        .and_then(|near| near.f_all())
        .and_then(bool::try_from);
    match near {
        Ok(true) => Ok(()),
        Ok(false) => Err("its grid holds places that are no numbers, or far outside of the picture".to_owned()),
        Err(error) => Err(super::from_tch(&error).message),
    }
}

fn recurrence(call: Call<'_>) -> Result<(), String> {
    let Some(input) = call.tensor("input").map(Tensor::size) else {
        return Err("packed sequences are not supported".to_owned());
    };
    let [is_bidirectional, has_biases, batch_first] =
        ["bidirectional", "has_biases", "batch_first"].map(|name| call.int(name, 0) != 0);
    let (layers, directions) = (call.int("num_layers", 0), if is_bidirectional { 2 } else { 1 });
    let states = match call.tensor("hx") {
        Some(state) => vec![state.shallow_clone()],
        None => call.tensors("hx"),
    };
    let weights: Vec<Vec<i64>> = call.tensors("params").iter().map(Tensor::size).collect();
    let per_cell = if has_biases { 4 } else { 2 };
    let cells = layers.checked_mul(directions).and_then(|cells| usize::try_from(cells).ok()).unwrap_or(0);
    let (&[first, second, _], Some(&[_, hidden])) = (&input[..], weights.get(1).map(Vec::as_slice)) else {
        return Err(format!("its input {input:?} and its weights {weights:?} do not fit together"));
    };
    let batch = if batch_first { first } else { second };
    let of_states = [cells as i64, batch, hidden];
    if states.is_empty() || states.iter().any(|state| state.size() != of_states) {
        let sizes: Vec<Vec<i64>> = states.iter().map(Tensor::size).collect();
        return Err(format!("its states are {sizes:?}, not {of_states:?}"));
    }
    let rows = weights[1][0];
    let fits = |cell: &[Vec<i64>], width: i64| {
        cell[0] == [rows, width] && cell[1] == [rows, hidden] && cell[2..].iter().all(|bias| *bias == [rows])
    };
    let width = |cell: usize| if cell / (directions as usize) == 0 { input[2] } else { hidden * directions };
    let all_fit = weights.len().checked_div(per_cell) == Some(cells)
        && weights.len().is_multiple_of(per_cell)
        && weights.chunks(per_cell).enumerate().all(|(index, cell)| fits(cell, width(index)));
    if all_fit { Ok(()) } else { Err(format!("its weights {weights:?} do not fit its input {input:?}")) }
}

fn upsample(call: Call<'_>) -> Result<(), String> {
    if let Some(Input::Floats(factors)) = call.input("scale_factors")
        && let Some(factor) = factors.iter().find(|factor| !factor.is_finite() || **factor <= 0.0)
    {
        return Err(format!("nothing is enlarged by {factor}"));
    }
    let (Some(input), Some(Input::Ints(output))) = (call.tensor("self").map(Tensor::size), call.input("output_size")) else {
        return Ok(());
    };
    let names: &[&str] = match output.len() {
        1 => &["scales"],
        2 => &["scales_h", "scales_w"],
        _ => &["scales_d", "scales_h", "scales_w"],
    };
    let sides = input.iter().skip(2).zip(output).zip(names);
    for ((before, after), name) in sides {
        let Some(Input::Float(scale)) = call.input(name) else { continue };
        // The size is rounded down.
        let (exact, after_f64) = (*before as f64 * scale, *after as f64);
        let fits = scale > 0.0 && exact > after_f64 * 0.999 && exact < (after_f64 + 1.0) * 1.001;
        if !fits {
            return Err(format!("its `{name}` is {scale}, but it makes {after} of {before}"));
        }
    }
    Ok(())
}

fn weight_norm(call: Call<'_>) -> Result<(), String> {
    let [Some(direction), Some(magnitude)] = ["v", "g"].map(|name| call.tensor(name)) else { return Ok(()) };
    let (size, lengths, dim) = (direction.size(), magnitude.size(), call.int("dim", 0));
    let kept = usize::try_from(if dim < 0 { dim + size.len() as i64 } else { dim }).ok().filter(|kept| *kept < size.len());
    let wanted: Vec<i64> = size.iter().enumerate().map(|(at, side)| if kept == Some(at) { *side } else { 1 }).collect();
    let is_outer = kept.is_some_and(|kept| kept == 0 || kept + 1 == size.len());
    let fits = is_outer
        && direction.numel() > 0
        && lengths == wanted
        && direction.kind() == magnitude.kind()
        && direction.is_floating_point();
    if fits { Ok(()) } else { Err(format!("magnitudes {lengths:?} along {dim} do not fit directions {size:?}")) }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::{super::dispatch::Operator, *};

    fn ones(size: &[i64]) -> Tensor {
        Tensor::ones(size, (Kind::Float, Device::Cpu))
    }

    /// Each of these ends the process, or reads what is not its own, if it is let through.
    #[test]
    fn what_kernels_take_for_granted_is_checked() {
        let refused = |name: &str, overload: &str, inputs: &[Input<'_>]| {
            let operator = Operator::find(name, overload).expect(name);
            let rest = std::iter::repeat_n(Input::Default, operator.arguments.len() - inputs.len());
            let inputs: Vec<Input<'_>> = inputs.iter().copied().chain(rest).collect();
            operator.call(&inputs).expect_err(name).message
        };
        let (query, key) = (ones(&[1, 2, 4, 8]), ones(&[1, 2, 500_000, 8]));
        let inputs = [Input::Tensor(&query), Input::Tensor(&key), Input::Tensor(&query)];
        assert!(refused("aten::scaled_dot_product_attention", "", &inputs).contains("do not fit together"));

        let (wide, one) = (ones(&[1, 1_000_000, 1, 1]), ones(&[1]));
        let mut inputs = vec![Input::Tensor(&wide)];
        inputs.extend([Input::Tensor(&one); 4]);
        inputs.extend([Input::Bool(false), Input::Float(0.1), Input::Float(1e-5)]);
        assert!(refused("aten::_native_batch_norm_legit", "", &inputs).contains("1000000 channels"));
        inputs.remove(5);
        assert!(refused("aten::_native_batch_norm_legit_no_training", "", &inputs).contains("1000000 channels"));

        let (smallest, minus) = (Tensor::from_slice(&[i64::MIN]), Tensor::from_slice(&[-1_i64]));
        for other in [Input::Tensor(&minus), Input::Int(-1)] {
            let overload = if matches!(other, Input::Int(_)) { "Scalar_mode" } else { "Tensor_mode" };
            let text = refused("aten::div", overload, &[Input::Tensor(&smallest), other, Input::Str("trunc")]);
            assert!(text.contains("divided by -1"), "{text}");
        }

        let (picture, places) = (ones(&[1, 1, 4, 4]), ones(&[1, 2, 2, 2]) * f64::NAN);
        let inputs = [Input::Tensor(&picture), Input::Tensor(&places), Input::Int(0), Input::Int(1), Input::Bool(false)];
        assert!(refused("aten::grid_sampler_2d", "", &inputs).contains("no numbers"));

        let (direction, magnitude) = (ones(&[4, 1_000_000]), ones(&[1]));
        let inputs = [Input::Tensor(&direction), Input::Tensor(&magnitude), Input::Int(1)];
        assert!(refused("aten::_weight_norm", "", &inputs).contains("magnitudes [1]"));

        let column = ones(&[6, 1, 8, 1]);
        let mut inputs = vec![Input::Tensor(&column), Input::Ints(&[4, 3]), Input::Bool(false), Input::None, Input::Float(1e-30)];
        assert!(refused("aten::upsample_bilinear2d", "", &inputs).contains("but it makes 3 of 1"));
        let (ones_of_one, tiny) = (ones(&[1, 1, 1, 1]), [Input::Ints(&[1, 1]), Input::Float(1e-30), Input::Float(1.0)]);
        let inputs_of_one = [Input::Tensor(&ones_of_one), tiny[0], tiny[1], tiny[2]];
        assert!(refused("aten::_upsample_nearest_exact2d", "", &inputs_of_one).contains("but it makes 1 of 1"));
        inputs[4] = Input::Float(3.0);
        assert!(Operator::find("aten::upsample_bilinear2d", "").expect("upsample").call(&inputs).is_ok());
        let inputs = [Input::Tensor(&column), Input::None, Input::Bool(false), Input::Floats(&[f64::NAN, 1.0])];
        assert!(refused("aten::upsample_bilinear2d", "vec", &inputs).contains("NaN"));

        let volume = ones(&[1, 1, 4, 4, 4]);
        let text = refused("aten::reflection_pad3d", "", &[Input::Tensor(&volume), Input::Ints(&[])]);
        assert!(text.contains("takes 6 numbers, not 0"), "{text}");

        let nothing = ones(&[0]);
        assert!(refused("aten::_local_scalar_dense", "", &[Input::Tensor(&nothing)]).contains("one element"));
    }

    #[test]
    fn a_recurrence_runs_with_weights_that_fit_and_no_others() {
        let lstm = Operator::find("aten::lstm", "input").expect("lstm");
        let run = |hidden: i64, states: i64| {
            let (input, state) = (ones(&[3, 2, 4]), ones(&[2, 2, states]));
            let states = [state.as_ptr(), state.as_ptr()];
            let rows = 4 * hidden;
            let cell = || [ones(&[rows, 4]), ones(&[rows, hidden]), ones(&[rows]), ones(&[rows])];
            let weights: Vec<Tensor> = [cell(), cell()].into_iter().flatten().collect();
            let weights: Vec<_> = weights.iter().map(|weight| weight.as_ptr()).collect();
            let (input, states, weights) = (Input::Tensor(&input), Input::Tensors(&states), Input::Tensors(&weights));
            let (yes, no) = (Input::Bool(true), Input::Bool(false));
            lstm.call(&[input, states, weights, yes, Input::Int(1), Input::Float(0.0), no, yes, no]).map(|outputs| outputs.len())
        };
        assert_eq!(run(5, 5), Ok(3));
        assert!(run(5, 3000).expect_err("states do not fit").message.contains("its states are"));
    }

    #[test]
    fn new_memory_is_cleared() {
        let empty = Operator::find("aten::empty", "memory_format").expect("empty");
        let mut inputs = vec![Input::Default; empty.arguments.len()];
        inputs[0] = Input::Ints(&[1000]);
        for _ in 0..20 {
            drop(ones(&[1000]));
            let outputs = empty.call(&inputs).expect("call");
            let [Output::Tensor(tensor)] = &outputs[..] else { panic!("{outputs:?}") };
            assert_eq!(tensor.count_nonzero(None::<i64>).int64_value(&[]), 0);
        }
    }
}
