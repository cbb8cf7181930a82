//! Graphs for the tests of the passes.

use std::collections::HashMap;

use crate::program::graph::{Arg, Binding, Graph, Node, Operation, Output, ValueId};

/// A graph written as `output = operator(arguments)`; a name that nothing defines is a weight.
pub(super) struct Sketch {
    pub graph: Graph,
    ids: HashMap<String, ValueId>,
}

impl Sketch {
    pub(super) fn new(input: &str) -> Sketch {
        let mut sketch = Sketch { graph: Graph::default(), ids: HashMap::new() };
        let id = sketch.value(input);
        sketch.graph.bindings.clear();
        sketch.graph.inputs.push(id);
        sketch
    }

    fn value(&mut self, name: &str) -> ValueId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.graph.add_value(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        self.graph.bindings.push((id, Binding::Weight(name.to_owned())));
        id
    }

    pub(super) fn node(&mut self, output: &str, operator: &str, args: &[(&str, &str)]) {
        let mut bound: Vec<(String, Arg)> =
            args.iter().map(|(name, value)| ((*name).to_owned(), Arg::Value(self.value(value)))).collect();
        if operator == "batch_norm" {
            bound.push(("training".into(), Arg::Bool(false)));
            bound.push(("eps".into(), Arg::Float(1e-5)));
        }
        let id = self.graph.add_value(output.to_owned());
        self.ids.insert(output.to_owned(), id);
        let operation = Operation::Operator { name: format!("aten::{operator}"), overload: String::new() };
        self.graph.nodes.push(Node::new(output.to_owned(), operation, bound, vec![Output::Value(id)]));
    }

    pub(super) fn id(&self, name: &str) -> ValueId {
        self.ids[name]
    }

    pub(super) fn output(&mut self, name: &str) {
        let id = self.id(name);
        self.graph.outputs.push(Some(id));
    }
}
