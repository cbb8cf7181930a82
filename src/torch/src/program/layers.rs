//! From what a user calls a layer to the graph value where it is captured.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Influence, Program, ProgramError,
    graph::ValueId,
    metadata::{Layout, TokenInfo, WindowInfo},
};
use camflow_diagnostic::Diagnostic;
use camflow_names::{backticked, counted, nearest, word};

/// A target layer, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What field names call it: the number of an alias, else the path.
    pub label: String,
    /// Its PyTorch path; of a module that is called several times with the number of the call, `PATH@0`.
    pub path: String,
    /// Where it is captured.
    pub tap: ValueId,
    /// How its activation is laid out.
    pub layout: Layout,
    /// How its tokens map to a grid, if it is laid out in tokens and the model says how.
    pub tokens: Option<TokenInfo>,
    /// In which order its tokens are, where that is not row by row.
    pub windows: Option<Windows>,
}

/// Tokens in another order than that of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// How many rows of the activation are of one image.
    pub per_image: i64,
    /// For each place of the grid, row by row, which of the image's tokens lies there.
    pub order: Arc<[i64]>,
}

impl Layer {
    /// How many entries of an activation's dimension of images are of one image.
    pub(crate) fn per_image(&self) -> i64 {
        self.windows.as_ref().map_or(1, |windows| windows.per_image)
    }
}

/// Splits `1-4,backbone.layer3` into single layers: `1`, `2`, `3`, `4`, `backbone.layer3`.
pub fn split_layers(spec: &str) -> Vec<String> {
    let mut layers: Vec<String> = Vec::new();
    for part in spec.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let range =
            part.split_once('-').and_then(|(from, to)| Some((from.trim().parse::<u32>().ok()?, to.trim().parse::<u32>().ok()?)));
        match range {
            // A bound keeps a typing error such as `1-40000000` from becoming a list of that length.
            Some((from, to)) if from <= to && to - from < 1000 => layers.extend((from..=to).map(|number| number.to_string())),
            _ => layers.push(part.to_owned()),
        }
    }
    let mut seen = std::collections::HashSet::new();
    layers.retain(|layer| seen.insert(layer.clone()));
    layers
}

/// Whether this looks like `1-4`.
fn is_range(name: &str) -> bool {
    let is_number = |text: &str| !text.trim().is_empty() && text.trim().bytes().all(|byte| byte.is_ascii_digit());
    name.split_once('-').is_some_and(|(from, to)| is_number(from) && is_number(to))
}

impl Program {
    /// Resolves layers by alias (`4`, also `layer4`) or path (`backbone.layer4`, `backbone.layer4@1` for its second call).
    ///
    /// # Errors
    /// [`ProgramError::Invalid`] with every layer that the model does not have, and the nearest that it has.
    pub fn resolve_layers(&self, specs: &[String]) -> Result<Vec<Layer>, ProgramError> {
        let (mut problems, mut hints) = (Vec::new(), Vec::new());
        let mut layers: Vec<Layer> = Vec::new();
        for spec in specs {
            match self.resolve_layer(spec) {
                Ok(layer) => layers.push(layer),
                Err(problem) => {
                    problems.push(problem.message);
                    hints.extend(problem.hints);
                }
            }
        }
        hints.dedup();
        // Of a range all may be missing.
        const NAMED: usize = 4;
        if problems.len() > NAMED + 1 {
            let more = problems.len() - NAMED;
            problems.truncate(NAMED);
            problems.push(format!("{more} more are missing"));
        }
        if problems.is_empty() { Ok(layers) } else { Err(self.invalid(problems, hints)) }
    }

    /// Refuses modules that are none of the layers which the model says it has: how their output lies over the image is unknown.
    /// It may be of the image as a whole, of objects, or in an order of its own.
    ///
    /// # Errors
    /// [`ProgramError::Invalid`] with every such module, and the layers that are computed nearest to it.
    pub fn check_layouts(&self, layers: &[Layer]) -> Result<(), ProgramError> {
        let known = &self.metadata.layers;
        let is_known = |layer: &Layer| known.iter().any(|known| layer.path.split('@').next() == Some(&known.path));
        let unknown: Vec<&Layer> = layers.iter().filter(|layer| !known.is_empty() && !is_known(layer)).collect();
        let Some(first) = unknown.first() else { return Ok(()) };
        let what = |layer: &&Layer| {
            let path = &layer.path;
            format!(
                "module `{path}` is no layer: its output does not lie over the image in a way that the exporter could tell (vectors, objects, tokens in an order of their own)"
            )
        };
        let near = self.nearest_layers(first.tap, Influence::WithoutGradient, &self.influences());
        let hint = format!(
            "the nearest layers are {}; if it does lie over the image, say how when you export the model: `-- --layout {}=nchw`, `nhwc` or `tokens:ROWSxCOLUMNS`",
            backticked(near.iter()),
            first.path
        );
        Err(self.invalid(unknown.iter().map(what).collect(), vec![hint]))
    }

    /// Where a module's activation is captured, if it can be.
    pub fn tap(&self, path: &str) -> Option<ValueId> {
        self.resolve_layer(path).ok().map(|layer| layer.tap)
    }

    pub(super) fn resolve_layer<'a>(&'a self, spec: &'a str) -> Result<Layer, Diagnostic> {
        let split = |text: &'a str| match text.split_once('@') {
            Some((name, call)) => {
                let number = call.parse::<usize>();
                let number =
                    number.map_err(|_| Diagnostic::invalid(format!("`{text}`: `{call}` is not the number of a call")))?;
                Ok::<_, Diagnostic>((name, Some(number)))
            }
            None => Ok((text, None)),
        };
        let (name, call) = split(spec)?;
        // A numbered layer may be a later call.
        let (path, own_call) = split(self.metadata.aliases.get(name).map_or(name, String::as_str))?;
        let call = call.or(own_call);
        let Some(calls) = self.graph.modules.get(path) else {
            return Err(self.no_layer(name));
        };
        // As pytorch_grad_cam, which takes the first of the activations that its hook has seen, and the gradient that came last.
        let call = call.unwrap_or(0);
        let outputs = calls.get(call).ok_or_else(|| {
            let times = counted(calls.len(), "time", "times");
            Diagnostic::invalid(format!("module `{path}` is called {times}, so there is no `{spec}`"))
                .hint("calls are counted from 0")
        })?;
        let [tap] = outputs[..] else {
            let problem = format!("module `{path}` returns {} tensors", outputs.len());
            return Err(Diagnostic::invalid(problem).hint("choose a module that returns one"));
        };
        let known = self.metadata.layers.iter().find(|layer| layer.path == path);
        let layout = known.map(|layer| layer.layout).unwrap_or_default();
        let own = known.and_then(|layer| layer.tokens.as_ref());
        let tokens = own.or(self.metadata.tokens.as_ref()).filter(|_| layout.has_tokens()).cloned();
        let windows = known.and_then(|layer| layer.windows).and_then(|WindowInfo { per_image, order }| {
            Some(Windows { per_image, order: self.metadata.orders.get(order)?.as_slice().into() })
        });
        let path = if calls.len() > 1 { format!("{path}@{call}") } else { path.to_owned() };
        Ok(Layer { label: spec.to_owned(), path, tap, layout, tokens, windows })
    }

    /// Says which layers there are instead.
    fn no_layer(&self, name: &str) -> Diagnostic {
        let aliases = &self.metadata.aliases;
        let (problem, there_are) = match name.parse::<u32>() {
            _ if is_range(name) && !aliases.is_empty() => {
                (format!("`{name}` is no range of its layers"), numbers(&numbered(aliases.keys())))
            }
            Ok(_) if !aliases.is_empty() => (format!("it has no layer `{name}`"), numbers(&numbered(aliases.keys()))),
            _ => (
                format!("it has no module `{name}` to use as a layer"),
                format!("the nearest to `{name}` are {}", backticked(nearest_modules(name, self.graph.modules.keys()))),
            ),
        };
        let file = word(self.archive.path());
        Diagnostic::invalid(problem).hint(format!("{there_are}; `camflow inspect {file}` lists them all"))
    }
}

/// What numbers there are: those of numbered layers mostly have no gaps.
fn numbers(aliases: &[&str]) -> String {
    let numbers: Option<Vec<u32>> = aliases.iter().map(|alias| alias.parse().ok()).collect();
    match numbers.as_deref() {
        Some([first, .., last]) if (last - first) as usize + 1 == aliases.len() => {
            format!("layers are numbered {first} to {last}")
        }
        Some([only]) => format!("the only numbered layer is {only}"),
        _ => format!("the numbered layers are {}", backticked(aliases)),
    }
}

/// The names of numbered layers, in the order of their numbers.
fn numbered<'a>(aliases: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut numbered: Vec<&str> = aliases.map(String::as_str).collect();
    numbered.sort_by_key(|alias| (alias.parse::<u32>().unwrap_or(u32::MAX), *alias));
    numbered
}

/// At most three modules whose path, or the end of it that is as deep as the name, is most like the name; of equal ones the outermost
/// first.
fn nearest_modules<'a>(name: &str, paths: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let depth = name.split('.').count();
    let mut paths: Vec<&str> = paths.map(String::as_str).collect();
    paths.sort_by_key(|path| path.matches('.').count());
    let end = |path: &'a str| path.rmatch_indices('.').nth(depth - 1).map_or(path, |(dot, _)| &path[dot + 1..]);
    let near = nearest(name, paths.iter().copied().map(end).collect::<BTreeSet<_>>(), 3);
    let of_end = near.into_iter().flat_map(|near| paths.iter().copied().filter(move |path| end(path) == near));
    of_end.take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::{nearest_modules, numbered, split_layers};

    #[test]
    fn the_nearest_module_may_lie_deep() {
        let paths = ["backbone", "backbone.layer3", "backbone.layer4", "backbone.layer4.0", "classifier.0", "aux.layer4", "head"];
        let paths = paths.map(String::from);
        let near = |name: &str| nearest_modules(name, paths.iter());
        assert_eq!(near("layer4"), ["backbone.layer4", "aux.layer4", "backbone.layer3"]);
        assert_eq!(near("backbone.layer5")[..2], ["backbone.layer3", "backbone.layer4"]);
        assert_eq!(near("layer4.0")[0], "backbone.layer4.0");
        assert_eq!(near("hed")[0], "head");
        assert_eq!(numbered(["10", "2", "1"].map(String::from).iter()), ["1", "2", "10"]);
    }

    #[test]
    fn ranges_lists_and_paths() {
        assert_eq!(split_layers("1-4"), ["1", "2", "3", "4"]);
        assert_eq!(split_layers("4, backbone.layer3,4"), ["4", "backbone.layer3"]);
        assert_eq!(split_layers("up-conv"), ["up-conv"]);
        assert_eq!(split_layers("4-1"), ["4-1"]);
        assert!(split_layers(" , ").is_empty());
    }
}
