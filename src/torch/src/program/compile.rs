//! Fourth phase: the graph becomes a [`Plan`] for one device, one output and one set of taps.
//!
//! Nothing before the shallowest tap records gradients, weights never require them, nodes that neither the output nor a tap
//! needs are dropped, and every value is freed after its last use.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use tch::{Kind, Tensor};

use super::{
    Program, ProgramError,
    concatenation::without_zeros,
    dispatch::{self, ArgumentSpec, Operator},
    graph::{Arg, Graph, Node, Operation, ValueId},
    guided::guided,
    local::local,
    normalization::of_any_stride,
    passes::{self, InPlace},
    patches::turned,
    plan::{Action, Demand, Plan, PlanOptions, Precision, Step, Suffix, device_name},
    suffix::suffix,
    upsampling::by_products,
    wide,
};

/// For the name of an operator that of one which gives the same, and gradients in a better way.
type Twin<'a> = &'a dyn Fn(&str) -> Option<&'static str>;

fn no_twin(_: &str) -> Option<&'static str> {
    None
}

impl Plan {
    /// Prunes, folds, moves weights to the device and resolves operators.
    ///
    /// # Errors
    /// An operator or weight is missing (already reported by [`Program::open`]), or the device has no memory for the weights.
    pub fn new(program: &Program, demand: &Demand, options: PlanOptions) -> Result<Plan, ProgramError> {
        let Demand { output, boxes, taps, resume_from, guided: is_guided, patches } = demand;
        let (output, boxes) = (*output, *boxes);
        let _no_grad = tch::no_grad_guard();
        let torch = |error: tch::TchError| program.device_error(options.device, &error);
        let mut graph = program.graph.clone();
        let is_wide = options.precision == Precision::Fp64;
        if is_wide {
            wide::widen(&mut graph);
        }
        passes::write_out_attention(&mut graph, &program.attentions.sites, taps);
        let mut folded = (Vec::new(), 0);
        if !options.exact {
            folded = passes::fold_batch_norms(&mut graph, taps, &|id| program.constant(id)).map_err(torch)?;
        }
        passes::copy_overwritten_taps(&mut graph, taps);
        let aliases = passes::aliases(&graph);
        let quicker: fn(&str) -> Option<&'static str> = match options.multiplies() {
            true => by_products,
            false if options.leaves_out_zeros(boxes) => without_zeros,
            false => no_twin,
        };
        let sound = |name: &str| (!options.device.is_cuda()).then(|| of_any_stride(name)).flatten();
        let twin_of = |name: &str| is_guided.then(|| guided(name)).flatten().or_else(|| quicker(name)).or_else(|| sound(name));
        let wanted: Vec<ValueId> = taps.iter().copied().chain([output]).chain(boxes).collect();
        let keep = passes::needed(&graph, &aliases, &wanted);
        let dependent = passes::dependents(&graph, &aliases, taps);

        let suffixes: HashMap<ValueId, Suffix> =
            resume_from.iter().map(|tap| (*tap, suffix(&graph, &aliases, &keep, &[*tap], output))).collect();
        let local = (*patches && options.leaves_out_zeros(boxes) && options.precision == Precision::Fp32)
            .then(|| local(&graph, &aliases, &keep, taps, output))
            .flatten();
        let mut kept_values: HashSet<ValueId> = suffixes.values().flat_map(|suffix| &suffix.boundary).copied().collect();
        if let Some(local) = &local {
            kept_values.extend(local.boundary.iter().copied().chain(local.maps.iter().map(|map| map.value)));
        }

        let kept = || graph.nodes.iter().enumerate().filter(|(index, _)| keep[*index]);
        let mut last_use: HashMap<ValueId, usize> = HashMap::new();
        for (index, node) in kept() {
            for value in node.uses().chain(node.defines()) {
                last_use.insert(value, index);
            }
        }
        let channels_last = options.is_channels_last();
        let mut num_uses: HashMap<ValueId, usize> = HashMap::new();
        let mut num_short_uses: HashMap<ValueId, usize> = HashMap::new();
        for (_, node) in kept() {
            node.uses().for_each(|value| *num_uses.entry(value).or_default() += 1);
            passes::autocast_weights(node).for_each(|value| *num_short_uses.entry(value).or_default() += 1);
        }
        // Autocast would make such a weight shorter in every run.
        let is_short = |id: &ValueId| options.precision == Precision::Bf16 && num_uses.get(id) == num_short_uses.get(id);
        let of_convolutions: HashSet<ValueId> = kept().filter_map(|(_, node)| passes::convolution_weight(node)).collect();
        let mut constants = HashMap::new();
        let mut folded_constants: HashMap<ValueId, Tensor> = folded.0.into_iter().collect();
        for id in num_uses.keys().copied() {
            let Some(tensor) = folded_constants.remove(&id).or_else(|| program.constant(id)) else { continue };
            #[expect(clippy::disallowed_methods, reason = "once, before anything runs")]
            let mut tensor = tensor.f_to_device(options.device).map_err(torch)?;
            if is_wide {
                tensor = wide::widened(tensor).map_err(torch)?;
            }
            if is_short(&id) && tensor.kind() == Kind::Float {
                tensor = tensor.f_to_kind(Kind::BFloat16).map_err(torch)?;
            }
            if channels_last && of_convolutions.contains(&id) {
                tensor = dispatch::channels_last(&tensor).map_err(|error| program.refused(options.device, error))?;
            }
            constants.insert(id, tensor);
        }

        let mut modes = aliases.in_place.clone();
        let read = local.iter().flat_map(|local| &local.read);
        let protected = wanted.iter().chain(&kept_values).chain(read).copied().collect();
        passes::reuse_memory(&graph, &mut modes, &protected);

        let mut steps = Vec::new();
        let mut problems = Vec::new();
        for (index, node) in kept() {
            let grad = !node.no_grad && passes::carries_data(node) && node.uses().any(|value| dependent.contains(&value));
            let free = node
                .uses()
                .chain(node.defines())
                .collect::<HashSet<_>>()
                .into_iter()
                .filter(|value| {
                    last_use[value] == index
                        && *value != output
                        && Some(*value) != boxes
                        && !constants.contains_key(value)
                        && !kept_values.contains(value)
                })
                .collect();
            match step(node, modes[index], grad, free, &twin_of) {
                Ok(step) => steps.push(step),
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            return Err(program.invalid(problems, Vec::new()));
        }
        let backwards = local.iter().flat_map(|local| local.back.keys());
        let of_step = |index: &usize| Some((*index, turned(&steps[*index], &constants).transpose()?));
        let turned = backwards.filter_map(of_step).map(|(index, weight)| Ok((index, weight?)));
        let turned = turned.collect::<Result<_, _>>().map_err(torch)?;
        Ok(Plan {
            steps,
            constants,
            written_constants: aliases.written_constants,
            num_values: graph.values.len(),
            input: program.input(),
            output,
            boxes,
            output_dimensions: program.output_sizes().map(<[_]>::len),
            lacks_channels: program.lacks_channels(),
            comparison: program.comparison(options.device)?,
            taps: taps.clone(),
            suffixes,
            local,
            turned,
            places: Mutex::new(None),
            kept: kept_values,
            batch_dims: graph.batch_dims,
            options,
            device_name: device_name(options.device),
            channels_last,
            num_folded: folded.1,
            _weights: program.archive.content(),
        })
    }
}

/// Checks that every node's operator exists here and is called as its schema wants; returns all problems.
pub(super) fn check(graph: &Graph) -> Vec<String> {
    let aliases = passes::aliases(graph);
    let nodes = graph.nodes.iter().zip(&aliases.in_place);
    nodes.filter_map(|(node, mode)| step(node, *mode, false, Vec::new(), &no_twin).err()).collect()
}

fn step(node: &Node, mode: InPlace, grad: bool, free: Vec<ValueId>, twin_of: Twin<'_>) -> Result<Step, String> {
    let mut step = Step {
        node: node.name.clone(),
        operator: String::new(),
        action: Action::Identity,
        args: Vec::new(),
        outputs: node.outputs.clone(),
        grad,
        rebind: None,
        free,
    };
    match &node.operation {
        Operation::Probabilities => {
            step.action = Action::Probabilities;
            step.operator = "attention".to_owned();
            step.args = node.args.iter().map(|(_, arg)| Some(arg.clone())).collect();
        }
        Operation::Identity => step.args = node.args.iter().map(|(_, arg)| Some(arg.clone())).collect(),
        Operation::Symbolic(op) => {
            step.action = Action::Symbolic(*op);
            step.operator = format!("{op:?}");
            step.args = node.args.iter().map(|(_, arg)| Some(arg.clone())).collect();
        }
        Operation::Operator { name, overload } => {
            step.operator = if overload.is_empty() { name.clone() } else { format!("{name}.{overload}") };
            let (operator, clone_first) = resolve(twin_of(name).unwrap_or(name), overload, mode)
                .ok_or_else(|| format!("node `{}`: this libtorch has no operator `{}`", node.name, step.operator))?;
            step.args =
                arrange(node, &operator).map_err(|problem| format!("node `{}` ({}): {problem}", node.name, step.operator))?;
            step.action = Action::Call { operator: Arc::new(operator), clone_first };
            if matches!(mode, InPlace::Rebind | InPlace::Reuse) {
                step.rebind = node.first_value();
            }
        }
    }
    Ok(step)
}

fn resolve(name: &str, overload: &str, mode: InPlace) -> Option<(Operator, bool)> {
    if matches!(name, "aten::view" | "aten::_unsafe_view") {
        // Strides at run time need not be those at export.
        return Operator::find("aten::reshape", "").map(|operator| (operator, false));
    }
    if mode == InPlace::Rebind {
        let twin = name.strip_suffix('_').and_then(|twin| Operator::find(twin, overload));
        return match twin {
            Some(operator) => Some((operator, false)),
            // No functional twin: write into a copy.
            None => Operator::find(name, overload).map(|operator| (operator, true)),
        };
    }
    Operator::find(name, overload).map(|operator| (operator, false))
}

fn arrange(node: &Node, operator: &Operator) -> Result<Vec<Option<Arg>>, String> {
    if operator.arguments.iter().any(|argument| argument.is_out) {
        return Err("it writes into a tensor that it is given; write the model without `out=`".to_owned());
    }
    let mut args: Vec<Option<Arg>> = vec![None; operator.arguments.len()];
    let renamed = |name: &str| {
        if matches!(node.operator(), "view" | "_unsafe_view") && name == "size" { "shape".to_owned() } else { name.to_owned() }
    };
    for (name, arg) in &node.args {
        let name = renamed(name);
        // `dropout_` calls `self` what its functional twin `dropout` calls `input`.
        let named = |argument: &ArgumentSpec| argument.name == name || (name == "self" && argument.name == "input");
        let position = operator.arguments.iter().position(named);
        let position = position.ok_or_else(|| format!("this libtorch's operator has no argument `{name}`"))?;
        args[position] = Some(arg.clone());
    }
    // An operator that creates a tensor from nothing would put it on the CPU; others follow their first argument.
    let creates = operator.arguments.first().is_none_or(|first| first.name != "self" && first.name != "input");
    for (argument, arg) in operator.arguments.iter().zip(&mut args) {
        match arg {
            None if argument.is_device && creates => *arg = Some(Arg::Device),
            Some(Arg::None) if argument.is_device => *arg = Some(Arg::Device),
            None if !argument.has_default => return Err(format!("argument `{}` is missing", argument.name)),
            _ => {}
        }
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::graph::Output;

    #[test]
    fn a_functional_twin_may_name_its_input_differently() {
        let input = ValueId::default();
        let args = vec![("self".into(), Arg::Value(input)), ("p".into(), Arg::Float(0.2)), ("train".into(), Arg::Bool(false))];
        let operation = Operation::Operator { name: "aten::dropout_".into(), overload: String::new() };
        let node = Node::new("drop".into(), operation, args, vec![Output::Value(input)]);
        let step = step(&node, InPlace::Rebind, false, Vec::new(), &no_twin).expect("`dropout` calls it `input`");
        assert_eq!(step.args[0], Some(Arg::Value(input)));
        assert_eq!(step.rebind, Some(input));
    }
}
