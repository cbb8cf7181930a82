//! What a node is called with and what it gives.

use super::{Builder, Scope};
use crate::program::{
    graph::{Arg, IntArg, Output},
    schema::{self, Argument, OptionalTensor, Symbolic},
};

impl Builder {
    pub(super) fn outputs(&mut self, outputs: &[Argument], node: &str, scope: &mut Scope) -> Vec<Output> {
        outputs
            .iter()
            .map(|output| match output {
                Argument::AsTensors(list) => Output::Values(list.iter().map(|named| self.define(&named.name, scope)).collect()),
                Argument::AsNone(_) => Output::None,
                other => match value_name(other) {
                    Some(name) => Output::Value(self.define(name, scope)),
                    None => {
                        self.problem(format!("node `{node}`: a result of kind {} is not supported", kind_of(other)));
                        Output::None
                    }
                },
            })
            .collect()
    }

    pub(super) fn arg(&mut self, argument: &Argument, node: &str, scope: &Scope) -> Option<Arg> {
        let user = format!("node `{node}`");
        let unsupported = |builder: &mut Self, what: String| {
            builder.problem(format!("{user}: {what} is not supported"));
            None
        };
        Some(match argument {
            Argument::AsTensor(named) => Arg::Value(self.lookup(&named.name, scope, &user)?),
            Argument::AsTensors(list) => {
                Arg::Values(list.iter().map(|named| self.lookup(&named.name, scope, &user).map(Some)).collect::<Option<_>>()?)
            }
            Argument::AsOptionalTensor(OptionalTensor::AsTensor(named)) => Arg::Value(self.lookup(&named.name, scope, &user)?),
            Argument::AsOptionalTensor(OptionalTensor::AsNone(_)) | Argument::AsNone(_) => Arg::None,
            Argument::AsOptionalTensors(list) => {
                let mut ids = Vec::with_capacity(list.len());
                for member in list {
                    ids.push(match member {
                        OptionalTensor::AsTensor(named) => Some(self.lookup(&named.name, scope, &user)?),
                        OptionalTensor::AsNone(_) => None,
                    });
                }
                Arg::Values(ids)
            }
            Argument::AsInt(number) => Arg::Int(*number),
            Argument::AsInts(list) => Arg::Ints(list.clone()),
            Argument::AsFloat(number) => match number.value() {
                Some(number) => Arg::Float(number),
                None => return unsupported(self, format!("the number {number:?}")),
            },
            Argument::AsFloats(list) => match list.iter().map(schema::Float::value).collect() {
                Some(list) => Arg::Floats(list),
                None => return unsupported(self, "a list of numbers with words in it".into()),
            },
            Argument::AsBool(truth) => Arg::Bool(*truth),
            Argument::AsBools(list) => Arg::Bools(list.clone()),
            Argument::AsString(text) => Arg::Str(text.clone()),
            Argument::AsSymInt(symbolic) | Argument::AsSymBool(symbolic) | Argument::AsSymFloat(symbolic) => match symbolic {
                Symbolic::AsName(name) => Arg::Value(self.lookup(name, scope, &user)?),
                Symbolic::AsInt(number) => Arg::Int(*number),
                Symbolic::AsBool(truth) => Arg::Bool(*truth),
                Symbolic::AsFloat(number) => Arg::Float(number.value().unwrap_or(f64::NAN)),
            },
            Argument::AsSymInts(list) => {
                let mut ints = Vec::with_capacity(list.len());
                for member in list {
                    ints.push(match member {
                        Symbolic::AsInt(number) => IntArg::Constant(*number),
                        Symbolic::AsName(name) => IntArg::Value(self.lookup(name, scope, &user)?),
                        other => return unsupported(self, format!("{other:?} in a list of integers")),
                    });
                }
                Arg::SymInts(ints)
            }
            Argument::AsScalarType(code) => match scalar_type_of_code(*code) {
                Some(number) => Arg::Int(number),
                None => return unsupported(self, format!("dtype code {code}")),
            },
            // contiguous, channels_last, channels_last_3d, preserve are 0, 2, 3, 1 in C++ (`c10/core/MemoryFormat.h`).
            Argument::AsMemoryFormat(code) => match code {
                1 => Arg::Int(0),
                2 => Arg::Int(2),
                3 => Arg::Int(3),
                _ => Arg::Int(1),
            },
            // Only strided tensors occur; leaving the layout to its default says so.
            Argument::AsLayout(7) => Arg::None,
            Argument::AsLayout(code) => return unsupported(self, format!("layout code {code}")),
            Argument::AsDevice(_) => Arg::Device,
            Argument::AsGraph(_) => return unsupported(self, "a subgraph as argument".into()),
            Argument::Unknown(value) => return unsupported(self, format!("an argument of kind {}", first_key(value))),
        })
    }
}

/// torch.export's dtype code -> C++ `ScalarType` (`c10/core/ScalarType.h`).
fn scalar_type_of_code(code: i64) -> Option<i64> {
    Some(match code {
        1..=5 => code - 1,
        6..=12 => code - 1,
        13 => 15,
        _ => return None,
    })
}

pub(super) fn value_name(argument: &Argument) -> Option<&str> {
    match argument {
        Argument::AsTensor(named) => Some(&named.name),
        Argument::AsSymInt(Symbolic::AsName(name))
        | Argument::AsSymBool(Symbolic::AsName(name))
        | Argument::AsSymFloat(Symbolic::AsName(name)) => Some(name),
        _ => None,
    }
}

pub(super) fn first_key(value: &serde_json::Value) -> String {
    value.as_object().and_then(|object| object.keys().next()).map_or_else(|| "unknown".into(), |key| format!("`{key}`"))
}

pub(super) fn kind_of(argument: &Argument) -> String {
    let text = format!("{argument:?}");
    format!("`{}`", text.split(['(', ' ']).next().unwrap_or("unknown"))
}
