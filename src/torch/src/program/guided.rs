//! ReLUs that let no negative gradient back (`guided.cpp`), for guided backpropagation.

use std::{collections::BTreeSet, ffi::c_char};

use camflow_media::shown;

use super::{Program, ProgramError, dispatch::OwnOperators, passes};

unsafe extern "C" {
    fn cf_define_guided(error: *mut *mut c_char) -> i32;
}

static OPERATORS: OwnOperators = OwnOperators::new(cf_define_guided);

/// Operators that bend what they are given, as ReLU does, and whose gradient stays as it is.
const OTHERS: &[&str] = &[
    "celu",
    "elu",
    "gelu",
    "glu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "mish",
    "prelu",
    "relu6",
    "rrelu",
    "selu",
    "silu",
    "softplus",
    "threshold",
];

/// The operator that gives what one of libtorch's gives, and hands back positive gradients alone; `None` where there is none. It writes
/// over nothing, so that what is in place has to become functional.
pub(super) fn guided(operator: &str) -> Option<&'static str> {
    if !matches!(operator, "aten::relu" | "aten::relu_") {
        return None;
    }
    OPERATORS.are_defined().then_some("camflow::guided_relu")
}

impl Program {
    /// Makes sure that there is a ReLU on the way to the output, without which guided backpropagation is the plain gradient, and says which
    /// other activations are there, whose gradient stays as it is.
    ///
    /// # Errors
    /// [`ProgramError::Invalid`]: there is none; or one writes over a value that others read.
    pub fn check_guided(&self) -> Result<Option<String>, ProgramError> {
        let aliases = passes::aliases(&self.graph);
        let needed = passes::needed(&self.graph, &aliases, &[self.primary_output()]);
        let (mut num_guided, mut others, mut problems) = (0, BTreeSet::new(), Vec::new());
        for ((node, mode), _) in self.graph.nodes.iter().zip(&aliases.in_place).zip(needed).filter(|(_, needed)| *needed) {
            let name = node.operator().trim_end_matches('_');
            if name == "relu" {
                num_guided += 1;
                if *mode == passes::InPlace::Write {
                    problems.push(format!("node `{}` is a ReLU that writes over a value which others read", node.name));
                }
            } else if OTHERS.contains(&name) {
                others.insert(name);
            }
        }
        let others = || camflow_names::backticked(others.iter());
        if num_guided == 0 {
            let instead = if others().is_empty() { String::new() } else { format!(": its activations are {}", others()) };
            let problem = format!("guided backpropagation changes the gradient of ReLUs, and it has none{instead}");
            return Err(self.invalid(vec![problem], vec!["use `saliency` or `smoothgrad`, which take any network".to_owned()]));
        }
        if !problems.is_empty() {
            return Err(self.invalid(problems, vec!["export the model with `inplace=False` there, or use `saliency`".to_owned()]));
        }
        let path = shown(self.path());
        let notice = || {
            format!(
                "of model `{path}` guided backpropagation changes the gradient of ReLUs alone: that of {} stays as it is",
                others()
            )
        };
        Ok((!others().is_empty()).then(notice))
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;
    use crate::program::{
        dispatch::{Input, Operator, Output},
        gradients,
    };

    #[test]
    fn it_is_relu_and_lets_positive_gradients_back() {
        let operator = Operator::find(guided("aten::relu_").expect("defined"), "").expect("found");
        let input = Tensor::from_slice(&[-1f64, 2.0, 3.0, 0.0, -2.0, 1.0]).set_requires_grad(true);
        let Some(Output::Tensor(output)) = operator.call(&[Input::Tensor(&input)]).expect("called").pop() else {
            panic!("no tensor")
        };
        assert_eq!(output.detach(), input.detach().relu());
        let factors = Tensor::from_slice(&[1f64, 2.0, -3.0, 4.0, -5.0, 0.5]);
        let found = gradients(&(&output * factors).sum(None::<Kind>), &[input], false, false).expect("gradients").remove(0);
        assert_eq!(Vec::<f64>::try_from(found).expect("values"), [0.0, 2.0, 0.0, 0.0, 0.0, 0.5]);
        assert_eq!(guided("aten::gelu"), None);
    }
}
