//! Which values the output that is explained depends on, and from which of them on a gradient comes back from it.

use std::collections::HashSet;

use tch::{TchError, Tensor};

use super::{
    Layer, Layout, Program, ProgramError,
    counts::{self, Passes},
    graph::{Arg, Graph, Node, Operation, ValueId},
    passes::{self, Aliases, InPlace},
};
use camflow_names::backticked;

/// Operators that take data and hand it on without a gradient, whatever type it has. Others do so by giving whole numbers.
const WITHOUT_GRADIENT: &[&str] = &["detach", "detach_", "item", "_local_scalar_dense", "rand_like", "randn_like", "histc"];

/// Norms over the last dimensions, that of channels where it is the last one.
const NORMS: &[&str] = &["layer_norm", "native_layer_norm", "rms_norm"];

/// Layers that an error names instead of one that has no influence.
const MAX_NAMED: usize = 3;

/// What a value does to the output that is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Influence {
    /// Nothing: the output is the same whatever it is.
    None,
    /// The output depends on it, but no gradient comes back to it.
    WithoutGradient,
    /// The output has a gradient with respect to it.
    Gradient,
}

/// The influence of all values of a program.
#[derive(Debug)]
pub struct Influences {
    data: HashSet<ValueId>,
    gradient: HashSet<ValueId>,
}

impl Influences {
    /// What this value does to the output.
    pub fn of(&self, value: ValueId) -> Influence {
        match (self.data.contains(&value), self.gradient.contains(&value)) {
            (_, true) => Influence::Gradient,
            (true, false) => Influence::WithoutGradient,
            (false, false) => Influence::None,
        }
    }
}

impl Program {
    /// What every value does to the output that is explained, as far as the graph says: a gradient may be lost in ways that only
    /// a run shows.
    pub fn influences(&self) -> Influences {
        influences(&self.graph, self.primary_output())
    }

    /// Whether the scores of a classifier are an affine function of this value whose coefficients no image changes, as behind them are but
    /// pooling and linear layers: then the gradient of a class is the same for all images. False where the graph does not say so.
    pub(crate) fn is_affine_behind(&self, value: ValueId) -> bool {
        let is_classifier = self.output_sizes().is_some_and(|sizes| sizes.len() == 2) && self.detections().is_none();
        // Texts are compared by the cosine.
        let is_last = self.texts.is_none();
        is_classifier && is_last && passes::is_affine(&self.graph, &passes::aliases(&self.graph), value, self.primary_output())
    }

    /// The module of the norm over channels that alone reads this layer, if that is so. Such a norm gives the same of any multiple of what it
    /// is given: the gradient at a place is orthogonal to the activation there, and their products cancel over channels but for epsilon.
    pub fn only_norm_behind(&self, layer: &Layer) -> Option<&str> {
        let reads = |node: &&Node| passes::carries_data(node) && node.uses().any(|value| value == layer.tap);
        let mut readers = self.graph.nodes.iter().filter(reads).peekable();
        let first = *readers.peek()?;
        let is_output = self.graph.outputs.iter().flatten().any(|output| *output == layer.tap);
        let is_norm = |node: &Node| {
            let is_over_last = matches!(node.arg("normalized_shape"), Some(Arg::Ints(shape)) if shape.len() == 1);
            NORMS.contains(&node.operator()) && is_over_last && node.first_value() == Some(layer.tap)
        };
        let has_channels_last = layer.layout != Layout::Nchw;
        let (module, _) = first.modules.last()?;
        (has_channels_last && !is_output && readers.all(is_norm)).then_some(module)
    }

    /// The layers that are explained when none is named, and what to tell of them. Those whose influence is less than `needed`
    /// are left out: exporters have named some that do not feed the output.
    pub fn default_layers(&self, needed: Influence) -> (Vec<String>, Option<String>) {
        let influences = self.influences();
        let needed = needed.max(Influence::WithoutGradient);
        let suffices = |spec: &String| self.resolve_layer(spec).is_ok_and(|layer| influences.of(layer.tap) >= needed);
        let named = &self.metadata.default_layers;
        let kept: Vec<String> = named.iter().filter(|spec| suffices(spec)).cloned().collect();
        // What is no layer at all is told where layers are resolved.
        if kept.len() == named.len() || named.iter().any(|spec| self.resolve_layer(spec).is_err()) {
            return (named.clone(), None);
        }
        let mut numbered: Vec<&String> = self.metadata.aliases.keys().collect();
        numbered.sort_by_key(|alias| alias.parse::<u64>().ok());
        let paths = self.metadata.layers.iter().map(|layer| &layer.path);
        let other = || numbered.iter().copied().rev().chain(paths.rev()).find(|spec| suffices(spec)).cloned();
        let chosen = if kept.is_empty() { other().into_iter().collect() } else { kept };
        if chosen.is_empty() {
            return (named.clone(), None);
        }
        let dropped = named.iter().filter(|spec| !suffices(spec)).filter_map(|spec| Some(influences.of(self.tap(spec)?))).max();
        let notice = format!(
            "the model's own choice of layers is {}, but {}; {} is explained instead, `--layers` names others",
            backticked(named.iter()),
            match dropped {
                Some(Influence::WithoutGradient) => "no gradient comes back to it from the output",
                _ => "it has no influence on the output",
            },
            backticked(chosen.iter()),
        );
        (chosen, Some(notice))
    }

    /// The last `count` numbered layers with that influence, in their order.
    pub fn last_layers(&self, count: usize, needed: Influence) -> Vec<String> {
        let influences = self.influences();
        let needed = needed.max(Influence::WithoutGradient);
        let mut numbered: Vec<&String> = self.metadata.aliases.keys().collect();
        numbered.sort_by_key(|alias| alias.parse::<u64>().ok());
        numbered.retain(|alias| self.tap(alias).is_some_and(|tap| influences.of(tap) >= needed));
        numbered.split_off(numbered.len().saturating_sub(count)).into_iter().cloned().collect()
    }

    /// Refuses layers whose influence on the output is less than `needed`, and with `of_image` a model of which no gradient comes
    /// back to the image.
    ///
    /// # Errors
    /// [`ProgramError::Invalid`] with every such layer, why it has no influence, and the nearest that have.
    pub fn check_influence(&self, layers: &[Layer], needed: Influence, of_image: bool) -> Result<(), ProgramError> {
        let influences = self.influences();
        let mut problems: Vec<String> = Vec::new();
        for layer in layers {
            if influences.of(layer.tap) < needed {
                let what = format!("layer `{}`{}", layer.label, path_of(layer));
                problems.push(self.problem(&what, layer.tap, &influences));
            }
        }
        if of_image && influences.of(self.input()) < Influence::Gradient {
            problems.push(self.problem("the image", self.input(), &influences));
        }
        let Some(first) = layers.iter().find(|layer| influences.of(layer.tap) < needed) else {
            if problems.is_empty() {
                return Ok(());
            }
            let hint = "use a method that has target layers, such as gradcam, with a layer behind that place".to_owned();
            return Err(self.invalid(problems, vec![hint]));
        };
        let near = self.nearest_layers(first.tap, needed, &influences);
        let hint = match (near.is_empty(), needed) {
            (false, _) => format!("the nearest layers that have influence are {}; name one with `--layers`", backticked(near.iter())),
            (true, Influence::Gradient) => {
                "no layer of this model has a gradient; export it so that it returns class logits, without `detach`, `torch.no_grad()` or `argmax` before them, or use a method without gradients, such as eigencam or scorecam".to_owned()
            }
            (true, _) => "no layer of this model has any; export it so that it returns class logits".to_owned(),
        };
        Err(self.invalid(problems, vec![hint]))
    }

    fn problem(&self, what: &str, value: ValueId, influences: &Influences) -> String {
        let key = self.metadata.outputs.get(self.metadata.primary_output).cloned().flatten();
        let output = key.map_or_else(|| "the model's output".to_owned(), |key| format!("the model's output `{key}`"));
        if influences.of(value) == Influence::None {
            return format!("{what} has no influence on {output}: nothing flows from it there");
        }
        let why = barriers(&self.graph, value, influences);
        let why = if why.is_empty() { "it gives whole numbers".to_owned() } else { format!("it ends at {}", why.join(", ")) };
        format!("{what} has no influence on {output} that a gradient shows: {why}")
    }

    /// The layers with that influence whose values are computed nearest to this one: those that the exporter knows.
    pub(super) fn nearest_layers(&self, value: ValueId, needed: Influence, influences: &Influences) -> Vec<String> {
        let place =
            |wanted: ValueId| self.graph.nodes.iter().position(|node| node.defines().any(|value| value == wanted)).unwrap_or(0);
        let here = place(value);
        let known = self.metadata.layers.iter().map(|layer| &layer.path);
        let mut near: Vec<(usize, &String)> = known
            .filter_map(|path| Some((path, self.resolve_layer(path).ok()?.tap)))
            .filter(|(_, tap)| influences.of(*tap) >= needed)
            .map(|(path, tap)| (place(tap).abs_diff(here), path))
            .collect();
        near.sort_by_key(|(distance, _)| *distance);
        near.into_iter().take(MAX_NAMED).map(|(_, path)| path.clone()).collect()
    }
}

fn path_of(layer: &Layer) -> String {
    if layer.label == layer.path { String::new() } else { format!(" (`{}`)", layer.path) }
}

fn influences(graph: &Graph, output: ValueId) -> Influences {
    let aliases = passes::aliases(graph);
    let data = reaching(graph, &aliases, output, &passes::carries_data, &|_| true);
    let has_gradient = |value: ValueId| !graph.whole_numbers.contains(&value);
    let gradient = reaching(graph, &aliases, output, &passes_gradient, &has_gradient);
    Influences { data, gradient }
}

/// Whether a gradient comes back through the node, if its values can have one.
fn passes_gradient(node: &Node) -> bool {
    let is_symbolic = matches!(node.operation, Operation::Symbolic(_));
    !node.no_grad && !is_symbolic && passes::carries_data(node) && !WITHOUT_GRADIENT.contains(&node.operator())
}

/// The values from which something comes to the output, through nodes that pass it on and values that can carry it. Where memory
/// is really written to, rather too many.
fn reaching(
    graph: &Graph,
    aliases: &Aliases,
    output: ValueId,
    passes: &dyn Fn(&Node) -> bool,
    carries: &dyn Fn(ValueId) -> bool,
) -> HashSet<ValueId> {
    let mut reaching: HashSet<ValueId> = [output].into_iter().filter(|output| carries(*output)).collect();
    let mut memory: HashSet<ValueId> = reaching.iter().map(|value| aliases.root(*value)).collect();
    loop {
        let before = (reaching.len(), memory.len());
        for (node, mode) in graph.nodes.iter().zip(&aliases.in_place).rev() {
            if !passes(node) {
                continue;
            }
            let written = node.first_value().filter(|_| node.is_in_place());
            // What reads an overwritten value later may still call it by its old name.
            let is_read = written.is_some_and(|first| {
                reaching.contains(&first) || (*mode == InPlace::Write && memory.contains(&aliases.root(first)))
            });
            if is_read || node.defines().any(|value| reaching.contains(&value)) {
                for value in node.uses().filter(|value| carries(*value)) {
                    reaching.insert(value);
                    memory.insert(aliases.root(value));
                }
            }
        }
        if before == (reaching.len(), memory.len()) {
            return reaching;
        }
    }
}

/// The first places between a value and the output that let data through and no gradient, in words.
fn barriers(graph: &Graph, value: ValueId, influences: &Influences) -> Vec<String> {
    let dependent = passes::dependents(graph, &passes::aliases(graph), &[value]);
    let mut found: Vec<String> = Vec::new();
    for node in &graph.nodes {
        let is_between = node.uses().any(|value| dependent.contains(&value) && !graph.whole_numbers.contains(&value))
            && node.defines().any(|value| influences.data.contains(&value));
        let gives_whole = node.defines().all(|value| graph.whole_numbers.contains(&value));
        let why = match (is_between, node.no_grad, gives_whole) {
            (false, ..) => continue,
            (true, true, _) => "inside `torch.no_grad()`",
            (true, false, true) => "which gives whole numbers",
            (true, false, false) if !passes_gradient(node) => "which passes no gradient on",
            _ => continue,
        };
        found.push(format!("node `{}`, {why}", node.name));
        if found.len() == MAX_NAMED {
            break;
        }
    }
    found
}

/// The gradient of each of `inputs` in the sum of a scalar, undefined where it does not depend on it. `keep_graph` and
/// `create_graph` as in PyTorch.
///
/// # Errors
/// libtorch fails; or there is no gradient at all, of which its engine would take no notice until it reads from nowhere.
pub fn gradients(root: &Tensor, inputs: &[Tensor], keep_graph: bool, create_graph: bool) -> Result<Vec<Tensor>, TchError> {
    if !root.requires_grad() {
        return Err(TchError::Torch(
            "the score does not depend on any of the layers by a gradient; `camflow inspect` lists the layers of the model"
                .into(),
        ));
    }
    counts::add(Passes { backward: 1, ..Passes::default() });
    Tensor::f_run_backward(&[root], inputs, keep_graph, create_graph)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::graph::{Arg, Output};

    /// A chain `a -> b -> ...` of operators on one value.
    fn chain(operators: &[&str]) -> Graph {
        let mut graph = Graph::default();
        let mut value = graph.add_value("x".into());
        graph.inputs.push(value);
        for operator in operators {
            let next = graph.add_value((*operator).to_owned());
            let operation = Operation::Operator { name: format!("aten::{operator}"), overload: String::new() };
            let args = vec![("self".into(), Arg::Value(value))];
            graph.nodes.push(Node::new((*operator).to_owned(), operation, args, vec![Output::Value(next)]));
            value = next;
        }
        graph.outputs.push(Some(value));
        graph
    }

    fn all(graph: &Graph) -> Vec<Influence> {
        let influences = influences(graph, graph.outputs[0].expect("an output"));
        (0..graph.values.len()).map(|index| influences.of(ValueId(index as u32))).collect()
    }

    #[test]
    fn gradients_end_where_an_operator_passes_none_on() {
        use Influence::{Gradient, None, WithoutGradient};
        assert_eq!(all(&chain(&["relu", "sum"])), [Gradient; 3]);
        assert_eq!(all(&chain(&["relu", "detach", "sum"])), [WithoutGradient, WithoutGradient, Gradient, Gradient]);
        assert_eq!(all(&chain(&["relu", "zeros_like", "sum"])), [None, None, Gradient, Gradient]);
        // A write that nobody else sees, before it is detached.
        assert_eq!(all(&chain(&["conv2d", "relu_", "detach", "sum"]))[..3], [WithoutGradient; 3]);
        let mut frozen = chain(&["conv2d", "relu", "sum"]);
        frozen.nodes[1].no_grad = true;
        assert_eq!(all(&frozen), [WithoutGradient, WithoutGradient, Gradient, Gradient]);
        let mut classes = chain(&["conv2d", "argmax"]);
        classes.whole_numbers.insert(ValueId(2));
        assert_eq!(all(&classes), [WithoutGradient; 3]);
    }

    #[test]
    fn what_is_behind_the_output_or_beside_it_has_no_influence() {
        let mut graph = chain(&["conv2d", "sigmoid"]);
        graph.outputs[0] = Some(ValueId(1));
        assert_eq!(all(&graph), [Influence::Gradient, Influence::Gradient, Influence::None]);
    }

    #[test]
    fn the_barriers_are_named() {
        let graph = chain(&["relu", "detach", "sum"]);
        let influences = influences(&graph, ValueId(3));
        assert_eq!(barriers(&graph, ValueId(1), &influences), ["node `detach`, which passes no gradient on"]);
    }

    #[test]
    fn a_score_without_a_gradient_is_an_error() {
        let leaf = Tensor::ones([2], tch::kind::FLOAT_CPU).set_requires_grad(true);
        let dead = leaf.detach().sum(tch::Kind::Float);
        assert!(gradients(&dead, &[leaf.shallow_clone()], false, false).is_err());
        let alive = (&leaf * 3.0).sum(tch::Kind::Float);
        assert_eq!(gradients(&alive, &[leaf], false, false).expect("gradients")[0].double_value(&[0]), 3.0);
    }
}
