//! The JSON of a `torch.export` archive, as serde sees it (schema version 8, torch 2.11).
//!
//! A union is an object with exactly one key, which is serde's external tagging. Unknown keys are ignored: that is how
//! torch's own reader stays forward compatible. Unknown members of a union are kept as `Unknown` and refused by name later.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// `models/<name>.json`, the part that must be understood before the rest is.
#[derive(Debug, Deserialize)]
pub(super) struct VersionHeader {
    pub schema_version: SchemaVersion,
    #[serde(default)]
    pub torch_version: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct SchemaVersion {
    pub major: i64,
    pub minor: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct ExportedProgram {
    pub graph_module: GraphModule,
}

#[derive(Debug, Deserialize)]
pub(super) struct GraphModule {
    pub graph: Graph,
    pub signature: Signature,
    #[serde(default)]
    pub module_call_graph: Vec<ModuleCall>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Graph {
    pub inputs: Vec<Argument>,
    pub outputs: Vec<Argument>,
    pub nodes: Vec<Node>,
    #[serde(default)]
    pub tensor_values: BTreeMap<String, TensorMeta>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Node {
    pub target: String,
    pub inputs: Vec<NamedArgument>,
    pub outputs: Vec<Argument>,
    #[serde(default)]
    pub metadata: BTreeMap<String, Value>,
    pub name: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct NamedArgument {
    pub name: String,
    pub arg: Argument,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Named {
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Argument {
    AsTensor(Named),
    AsTensors(Vec<Named>),
    AsOptionalTensor(OptionalTensor),
    AsOptionalTensors(Vec<OptionalTensor>),
    AsNone(#[allow(dead_code)] Value),
    AsInt(i64),
    AsInts(Vec<i64>),
    AsFloat(Float),
    AsFloats(Vec<Float>),
    AsBool(bool),
    AsBools(Vec<bool>),
    AsString(String),
    AsSymInt(Symbolic),
    AsSymInts(Vec<Symbolic>),
    AsSymBool(Symbolic),
    AsSymFloat(Symbolic),
    AsScalarType(i64),
    AsMemoryFormat(i64),
    AsLayout(i64),
    AsDevice(#[allow(dead_code)] Value),
    AsGraph(Subgraph),
    #[serde(untagged)]
    Unknown(Value),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OptionalTensor {
    AsTensor(Named),
    AsNone(#[allow(dead_code)] Value),
}

/// JSON has no infinity and no NaN: torch writes them as strings.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Float {
    Number(f64),
    Text(String),
}

impl Float {
    /// `None` for a string that names no float.
    pub(super) fn value(&self) -> Option<f64> {
        match self {
            // The reader may be off in the last bit, and no f32 is beyond the largest, which masks of attention hold.
            Float::Number(number) if number.abs() > f64::from(f32::MAX) && (*number as f32).is_finite() => {
                Some(f64::from(*number as f32))
            }
            Float::Number(number) => Some(*number),
            Float::Text(text) => match text.as_str() {
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                "NaN" => Some(f64::NAN),
                _ => None,
            },
        }
    }
}

/// A scalar that is either written out or the value of a name.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "the names are those of the format")]
pub(super) enum Symbolic {
    AsName(String),
    AsInt(i64),
    AsBool(bool),
    AsFloat(Float),
}

#[derive(Debug, Deserialize)]
pub(super) struct Subgraph {
    pub graph: Box<Graph>,
}

#[derive(Debug, Deserialize)]
pub(super) struct TensorMeta {
    pub dtype: i64,
    pub sizes: Vec<Size>,
    #[serde(default)]
    pub strides: Vec<Size>,
    pub storage_offset: Option<Size>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Size {
    AsInt(i64),
    AsExpr(SizeExpression),
}

#[derive(Debug, Deserialize)]
pub(super) struct SizeExpression {
    pub expr_str: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Signature {
    pub input_specs: Vec<InputSpec>,
    pub output_specs: Vec<OutputSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InputSpec {
    Parameter {
        arg: Named,
        parameter_name: String,
    },
    Buffer {
        arg: Named,
        buffer_name: String,
        persistent: bool,
    },
    TensorConstant {
        arg: Named,
        tensor_constant_name: String,
    },
    UserInput {
        arg: Argument,
    },
    ConstantInput(#[allow(dead_code)] Value),
    #[serde(untagged)]
    Unknown(Value),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OutputSpec {
    UserOutput {
        arg: Argument,
    },
    #[serde(untagged)]
    Other(#[allow(dead_code)] Value),
}

#[derive(Debug, Deserialize)]
pub(super) struct ModuleCall {
    pub fqn: String,
    pub signature: Option<ModuleSignature>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ModuleSignature {
    pub outputs: Vec<Argument>,
}

/// `data/weights/<name>_weights_config.json` and its twin for constants.
#[derive(Debug, Deserialize)]
pub(super) struct WeightsConfig {
    pub config: BTreeMap<String, Payload>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Payload {
    pub path_name: String,
    #[serde(default)]
    pub use_pickle: bool,
    pub tensor_meta: Option<TensorMeta>,
}
