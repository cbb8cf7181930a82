//! The biases of a network's convolutions and batch norms, for FullGrad.

use tch::{Kind, Tensor};

use super::{
    PlanOptions, Program, ProgramError,
    graph::{Arg, Node, Output, ValueId},
};

/// An operator with a bias per channel.
#[derive(Debug)]
pub struct Bias {
    /// Where its output `[N, C, H, W]` is captured.
    pub tap: ValueId,
    /// What it adds to each channel, `[C]`.
    pub values: Tensor,
}

impl Program {
    /// Every convolution with a bias and every batch norm of the way to the output, in order. A batch norm's bias is what it
    /// adds to an input of zero: `beta - mean * gamma / sqrt(var + eps)`. The values are on the device of the options, in f32.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub fn biases(&self, options: PlanOptions) -> Result<Vec<Bias>, ProgramError> {
        let on_the_way = super::passes::needed(&self.graph, &super::passes::aliases(&self.graph), &[self.primary_output()]);
        let nodes = self.graph.nodes.iter().zip(on_the_way).filter(|(_, needed)| *needed);
        let mut biases = Vec::new();
        for (node, _) in nodes {
            let [Output::Value(tap), ..] = node.outputs[..] else { continue };
            #[expect(clippy::disallowed_methods, reason = "once, before anything runs")]
            let place = |values: Tensor| values.f_to_device(options.device)?.f_to_kind(Kind::Float);
            let values = self.bias_of(node).and_then(|values| values.map(place).transpose());
            let values = values.map_err(|error| self.device_error(options.device, &error))?;
            biases.extend(values.map(|values| Bias { tap, values }));
        }
        Ok(biases)
    }

    fn bias_of(&self, node: &Node) -> Result<Option<Tensor>, tch::TchError> {
        let weight = |name: &str| match node.arg(name) {
            Some(Arg::Value(id)) => self.constant(*id).map(|tensor| tensor.f_to_kind(Kind::Float)).transpose(),
            _ => Ok(None),
        };
        match node.operator() {
            "conv2d" => weight("bias"),
            "batch_norm" => {
                let (Some(mean), Some(variance)) = (weight("running_mean")?, weight("running_var")?) else { return Ok(None) };
                let Some(Arg::Float(eps)) = node.arg("eps") else { return Ok(None) };
                let mut scaled = mean.f_div(&variance.f_add_scalar(*eps)?.f_sqrt()?)?;
                if let Some(gamma) = weight("weight")? {
                    scaled = scaled.f_mul(&gamma)?;
                }
                let bias = scaled.f_neg()?;
                Ok(Some(match weight("bias")? {
                    Some(beta) => bias.f_add(&beta)?,
                    None => bias,
                }))
            }
            _ => Ok(None),
        }
    }
}
