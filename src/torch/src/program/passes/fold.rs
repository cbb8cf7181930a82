//! Batch norms that become part of the convolution before them.

use std::collections::{HashMap, HashSet};

use tch::{Kind, Tensor};

use crate::program::graph::{Arg, Binding, Graph, Node, Operation, Output, ValueId};

/// Folds each batch norm in evaluation mode into the convolution before it, where nothing else reads the convolution's output:
/// `W' = W * s` and `b' = (b - mean) * s + beta` with `s = gamma / sqrt(var + eps)`, computed in f64.
///
/// `constant` supplies weights by value. The batch norm's node becomes the identity, so a tap on it still works; a convolution
/// that is tapped itself is left alone. Returns the new constants and the number of folded nodes.
pub(crate) fn fold_batch_norms(
    graph: &mut Graph,
    taps: &[ValueId],
    constant: &dyn Fn(ValueId) -> Option<Tensor>,
) -> Result<(Vec<(ValueId, Tensor)>, usize), tch::TchError> {
    let mut producer: HashMap<ValueId, usize> = HashMap::new();
    let mut num_uses: HashMap<ValueId, usize> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        producer.extend(node.defines().map(|value| (value, index)));
        for value in node.uses() {
            *num_uses.entry(value).or_default() += 1;
        }
    }
    let protected: HashSet<ValueId> = taps.iter().copied().chain(graph.outputs.iter().flatten().copied()).collect();

    let mut constants = Vec::new();
    let mut folded = 0;
    for index in 0..graph.nodes.len() {
        let Some((conv, fold)) = batch_norm_after_conv(graph, index, &producer) else { continue };
        if num_uses.get(&fold.between) != Some(&1) || protected.contains(&fold.between) {
            continue;
        }
        let double = |value: Option<ValueId>| -> Result<Option<Tensor>, tch::TchError> {
            value.and_then(constant).map(|tensor| tensor.f_to_kind(Kind::Double)).transpose()
        };
        let Some(weight) = constant(fold.weight) else { continue };
        let (Some(mean), Some(variance)) = (double(Some(fold.mean))?, double(Some(fold.variance))?) else { continue };
        let mut scale = variance.f_add_scalar(fold.eps)?.f_rsqrt()?;
        if let Some(gamma) = double(fold.gamma)? {
            scale = scale.f_mul(&gamma)?;
        }
        let mut shape = vec![1; weight.dim()];
        shape[0] = -1;
        let new_weight = weight.f_to_kind(Kind::Double)?.f_mul(&scale.f_view(&shape[..])?)?.f_to_kind(weight.kind())?;
        let bias = double(fold.bias)?.map_or_else(|| mean.f_zeros_like(), Ok)?;
        let mut new_bias = bias.f_sub(&mean)?.f_mul(&scale)?;
        if let Some(beta) = double(fold.beta)? {
            new_bias = new_bias.f_add(&beta)?;
        }
        let weight_id = graph.add_value(format!("{}_folded_weight", graph.nodes[conv].name));
        let bias_id = graph.add_value(format!("{}_folded_bias", graph.nodes[conv].name));
        constants.push((weight_id, new_weight.f_contiguous()?));
        constants.push((bias_id, new_bias.f_to_kind(weight.kind())?));
        graph.nodes[conv].set_arg("weight", Arg::Value(weight_id));
        graph.nodes[conv].set_arg("bias", Arg::Value(bias_id));
        let norm = &mut graph.nodes[index];
        norm.operation = Operation::Identity;
        norm.args = vec![("input".into(), Arg::Value(fold.between))];
        norm.outputs.truncate(1);
        folded += 1;
    }
    Ok((constants, folded))
}

struct Fold {
    between: ValueId,
    weight: ValueId,
    bias: Option<ValueId>,
    mean: ValueId,
    variance: ValueId,
    gamma: Option<ValueId>,
    beta: Option<ValueId>,
    eps: f64,
}

fn batch_norm_after_conv(graph: &Graph, index: usize, producer: &HashMap<ValueId, usize>) -> Option<(usize, Fold)> {
    let norm = &graph.nodes[index];
    let value = |node: &Node, name: &str| match node.arg(name) {
        Some(Arg::Value(id)) => Some(*id),
        _ => None,
    };
    if norm.operator() != "batch_norm" || norm.arg("training") != Some(&Arg::Bool(false)) {
        return None;
    }
    let between = value(norm, "input")?;
    let conv = *producer.get(&between)?;
    let node = &graph.nodes[conv];
    if node.operator() != "conv2d" || !matches!(node.outputs[..], [Output::Value(_)]) {
        return None;
    }
    let eps = match norm.arg("eps") {
        Some(Arg::Float(eps)) => *eps,
        _ => return None,
    };
    let weight = value(node, "weight")?;
    // Only a parameter can be replaced; a computed weight (weight standardisation) stays.
    graph.bindings.iter().find(|(id, binding)| *id == weight && matches!(binding, Binding::Weight(_)))?;
    let fold = Fold {
        between,
        weight,
        bias: value(node, "bias"),
        mean: value(norm, "running_mean")?,
        variance: value(norm, "running_var")?,
        gamma: value(norm, "weight"),
        beta: value(norm, "bias"),
        eps,
    };
    Some((conv, fold))
}

#[cfg(test)]
mod tests {
    use super::{super::sketch::Sketch, *};

    fn conv_norm() -> Sketch {
        let mut sketch = Sketch::new("x");
        sketch.node("conv", "conv2d", &[("input", "x"), ("weight", "w")]);
        let norm = [("input", "conv"), ("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "var")];
        sketch.node("norm", "batch_norm", &norm);
        sketch.output("norm");
        sketch
    }

    #[test]
    fn a_folded_convolution_computes_what_both_did() {
        tch::manual_seed(0);
        let options = (Kind::Float, tch::Device::Cpu);
        let x = Tensor::randn([2, 3, 5, 6], options);
        let w = Tensor::randn([4, 3, 3, 3], options);
        let [gamma, beta, mean] = [0; 3].map(|_| Tensor::randn([4], options));
        let var = Tensor::rand([4], options) + 0.1;
        let unfolded = x.conv2d(&w, None::<Tensor>, 1, 0, 1, 1).batch_norm(
            Some(&gamma),
            Some(&beta),
            Some(&mean),
            Some(&var),
            false,
            0.1,
            1e-5,
            false,
        );

        let mut sketch = conv_norm();
        let weights: HashMap<ValueId, &Tensor> = [("w", &w), ("gamma", &gamma), ("beta", &beta), ("mean", &mean), ("var", &var)]
            .map(|(n, t)| (sketch.id(n), t))
            .into();
        let constant = |id: ValueId| weights.get(&id).map(|tensor| tensor.shallow_clone());
        let (constants, num_folded) = fold_batch_norms(&mut sketch.graph, &[], &constant).expect("folded");
        assert_eq!((num_folded, constants.len()), (1, 2));
        assert_eq!(sketch.graph.nodes[1].operation, Operation::Identity);
        let folded = x.conv2d(&constants[0].1, Some(&constants[1].1), 1, 0, 1, 1);
        let difference = (unfolded - folded).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{difference}");
    }

    #[test]
    fn a_tapped_convolution_is_not_folded() {
        let mut sketch = conv_norm();
        let tap = sketch.id("conv");
        let constant = |_: ValueId| Some(Tensor::ones([4], tch::kind::FLOAT_CPU));
        assert_eq!(fold_batch_norms(&mut sketch.graph, &[tap], &constant).expect("nothing folded").1, 0);
    }
}
