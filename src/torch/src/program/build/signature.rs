//! What goes into the graph and comes out of it, and what the exporter saw of its tensors.

use super::{
    Builder, Scope,
    arguments::{first_key, kind_of},
};
use crate::program::{
    graph::{BatchDim, Binding},
    schema::{self, Argument, InputSpec, OutputSpec},
};

impl Builder {
    pub(super) fn signature_inputs(&mut self, module: &schema::GraphModule, scope: &mut Scope) {
        for spec in &module.signature.input_specs {
            match spec {
                InputSpec::Parameter { arg, parameter_name } => {
                    let id = self.define(&arg.name, scope);
                    self.graph.bindings.push((id, Binding::Weight(parameter_name.clone())));
                    self.graph.parameters.insert(id);
                }
                InputSpec::Buffer { arg, buffer_name, persistent } => {
                    let id = self.define(&arg.name, scope);
                    let binding = if *persistent { Binding::Weight } else { Binding::Constant };
                    self.graph.bindings.push((id, binding(buffer_name.clone())));
                }
                InputSpec::TensorConstant { arg, tensor_constant_name } => {
                    let id = self.define(&arg.name, scope);
                    self.graph.bindings.push((id, Binding::Constant(tensor_constant_name.clone())));
                }
                InputSpec::UserInput { arg: Argument::AsTensor(named) } => {
                    let id = self.define(&named.name, scope);
                    self.graph.inputs.push(id);
                }
                InputSpec::UserInput { arg } => {
                    self.problem(format!("an input of the model is not a tensor but {}; wrap the model at export", kind_of(arg)));
                }
                InputSpec::ConstantInput(_) => {}
                InputSpec::Unknown(value) => {
                    self.problem(format!("an input of kind {} is not supported", first_key(value)));
                }
            }
        }
    }

    pub(super) fn signature_outputs(&mut self, module: &schema::GraphModule, scope: &Scope) {
        for spec in &module.signature.output_specs {
            let OutputSpec::UserOutput { arg } = spec else { continue };
            let id = match arg {
                Argument::AsTensor(named) => self.lookup(&named.name, scope, "the model's output"),
                _ => None,
            };
            self.graph.outputs.push(id);
            let seen = match arg {
                Argument::AsTensor(named) => module.graph.tensor_values.get(&named.name),
                _ => None,
            };
            let size = |size: &schema::Size| match size {
                schema::Size::AsInt(size) => Some(*size),
                _ => None,
            };
            self.graph.output_sizes.push(seen.map(|meta| meta.sizes.iter().map(size).collect()));
        }
        if self.graph.outputs.iter().all(Option::is_none) {
            self.problem("the model returns no tensor".into());
        }
    }

    pub(super) fn module_signatures(&mut self, calls: &[schema::ModuleCall], scope: &Scope) {
        for call in calls {
            let Some(signature) = call.signature.as_ref().filter(|_| !call.fqn.is_empty()) else { continue };
            let path = call.fqn.split('@').next().unwrap_or(&call.fqn);
            let outputs = signature
                .outputs
                .iter()
                .filter_map(|argument| match argument {
                    // A module inside a subgraph names values of that subgraph; they are found through the stacks instead.
                    Argument::AsTensor(named) => scope.get(&named.name).copied(),
                    _ => None,
                })
                .collect::<Vec<_>>();
            self.graph.modules.entry(path.to_owned()).or_default().push(outputs);
        }
        self.graph.modules.retain(|_, calls| calls.iter().any(|outputs| !outputs.is_empty()));
    }

    /// What the exporter saw of the tensors themselves.
    pub(super) fn tensors(&mut self, graph: &schema::Graph, scope: &Scope) {
        let whole = graph.tensor_values.iter().filter(|(_, meta)| is_whole(meta.dtype));
        self.graph.whole_numbers.extend(whole.filter_map(|(name, _)| scope.get(name)));
        self.batch_dims(graph, scope);
    }

    fn batch_dims(&mut self, graph: &schema::Graph, scope: &Scope) {
        let Some(symbol) = &self.batch_symbol else { return };
        for (name, meta) in &graph.tensor_values {
            let Some(id) = scope.get(name) else { continue };
            let grows =
                |size: &schema::Size| matches!(size, schema::Size::AsExpr(size) if size.expr_str.contains(symbol.as_str()));
            let mut dims = (0..meta.sizes.len()).filter(|dim| grows(&meta.sizes[*dim]));
            let dim = match (dims.next(), dims.next()) {
                (None, _) => continue,
                (Some(dim), None) => BatchDim::At(dim),
                (Some(_), Some(_)) => BatchDim::Unclear,
            };
            self.graph.batch_dims.insert(*id, dim);
        }
    }
}

/// The symbol of the input's first size in its quotes: sizes are SymPy's `srepr`, `Mul(Integer(64), Symbol('s77', ...))`.
pub(super) fn batch_symbol(module: &schema::GraphModule) -> Option<String> {
    let input = module.signature.input_specs.iter().find_map(|spec| match spec {
        InputSpec::UserInput { arg: Argument::AsTensor(named) } => Some(&named.name),
        _ => None,
    })?;
    match module.graph.tensor_values.get(input)?.sizes.first()? {
        schema::Size::AsExpr(size) => size.expr_str.split('\'').nth(1).map(|symbol| format!("'{symbol}'")),
        schema::Size::AsInt(_) => None,
    }
}

/// Whether the dtype of torch.export's code is one of whole numbers or truth values.
fn is_whole(code: i64) -> bool {
    const UINT16: i64 = 28;
    matches!(code, 1..=5 | 12 | UINT16)
}
