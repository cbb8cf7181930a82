//! From what a user calls a layer to the graph value where it is captured.

use super::{
    Program, ProgramError,
    graph::ValueId,
    metadata::{Layout, TokenInfo},
};
use crate::names::{backticked, nearest, word};

/// A target layer, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// What field names call it: the number of an alias, else the path.
    pub label: String,
    /// Its PyTorch path.
    pub path: String,
    /// Where it is captured.
    pub tap: ValueId,
    /// How its activation is laid out.
    pub layout: Layout,
    /// How its tokens map to a grid, if it is laid out in tokens and the model says how.
    pub tokens: Option<TokenInfo>,
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

impl Program {
    /// Resolves layers by alias (`4`, also `layer4`) or path (`backbone.layer4`, `backbone.layer4@0` for its first call).
    ///
    /// # Errors
    /// [`ProgramError::Invalid`] with every layer that the model does not have, and the nearest that it has.
    pub fn resolve_layers(&self, specs: &[String]) -> Result<Vec<Layer>, ProgramError> {
        let mut problems = Vec::new();
        let mut layers: Vec<Layer> = Vec::new();
        for spec in specs {
            match self.resolve_layer(spec) {
                Ok(layer) => layers.push(layer),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() { Ok(layers) } else { Err(self.invalid(problems)) }
    }

    /// Where a module's activation is captured, if it can be.
    pub fn tap(&self, path: &str) -> Option<ValueId> {
        self.resolve_layer(path).ok().map(|layer| layer.tap)
    }

    pub(super) fn resolve_layer(&self, spec: &str) -> Result<Layer, String> {
        let (name, call) = match spec.split_once('@') {
            Some((name, call)) => {
                (name, Some(call.parse::<usize>().map_err(|_| format!("`{spec}`: `{call}` is no call number"))?))
            }
            None => (spec, None),
        };
        let aliases = &self.metadata.aliases;
        let path = aliases.get(name).map_or(name, String::as_str);
        let Some(calls) = self.graph.modules.get(path) else {
            let known = self.graph.modules.keys().chain(aliases.keys());
            let near = backticked(nearest(name, known, 3));
            let file = word(self.archive.path());
            return Err(format!(
                "it has no module `{name}` to use as a layer\nhint: the nearest are {near}; `camflow inspect {file}` lists them all"
            ));
        };
        let outputs = match call {
            // A module that is called several times gives its last activation, unless one call is asked for.
            None => calls.last(),
            Some(call) => calls.get(call),
        };
        let outputs =
            outputs.ok_or_else(|| format!("module `{path}` is called {} times; `{spec}` asks for another", calls.len()))?;
        let [tap] = outputs[..] else {
            return Err(format!("module `{path}` returns {} tensors; choose a module that returns one", outputs.len()));
        };
        let known = self.metadata.layers.iter().find(|layer| layer.path == path);
        let layout = known.map(|layer| layer.layout).unwrap_or_default();
        let own = known.and_then(|layer| layer.tokens.as_ref());
        let tokens = own.or(self.metadata.tokens.as_ref()).filter(|_| layout == Layout::Tokens).cloned();
        Ok(Layer { label: spec.to_owned(), path: path.to_owned(), tap, layout, tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::split_layers;

    #[test]
    fn ranges_lists_and_paths() {
        assert_eq!(split_layers("1-4"), ["1", "2", "3", "4"]);
        assert_eq!(split_layers("4, backbone.layer3,4"), ["4", "backbone.layer3"]);
        assert_eq!(split_layers("up-conv"), ["up-conv"]);
        assert_eq!(split_layers("4-1"), ["4-1"]);
        assert!(split_layers(" , ").is_empty());
    }
}
