//! Weights replaced by random ones, module by module: what the model parameter randomisation test asks for (Adebayo et al., *Sanity
//! Checks for Saliency Maps*, 2018, <https://arxiv.org/abs/1810.03292>).
//!
//! A parameter is replaced by draws from the normal distribution with its own mean and standard deviation, so that the model keeps the
//! scale of its activations and loses what it has learnt. One whose elements are all the same has no deviation, and stays. What was not
//! learnt by gradients stays, too: a batch norm's running mean and variance, and other buffers.
//!
//! Draws follow from a seed and the parameter's name, whatever else is replaced, before or after:
//!
//! ```text
//! key     = mix(seed XOR fnv1a64(name))
//! u(n)    = ((mix(key + (n + 1) * 0x9E3779B97F4A7C15) >> 11) + 0.5) / 2^53
//! draw(n) = mean + deviation * sqrt(-2 ln u(2 n)) * cos(2 pi u(2 n + 1))
//! mix(z)  = z XOR (z >> 31)  of  z = (z XOR (z >> 27)) * 0x94D049BB133111EB  of  z = (z XOR (z >> 30)) * 0xBF58476D1CE4E5B9
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tch::{Kind, TchError, Tensor};

use super::{
    Program, ProgramError,
    archive::StoredTensor,
    graph::{Binding, ValueId},
    passes,
    transfer::to_host,
};

/// A module with parameters of its own that the output is computed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedModule {
    /// Its PyTorch path, that of the parameter without its last name; empty for the model itself.
    pub path: String,
    /// How many numbers its parameters have.
    pub num_weights: usize,
    /// Its parameters, each with those that are tied to it.
    parameters: Vec<Parameter>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parameter {
    /// By the state dict; of tied ones the first name.
    name: String,
    values: Vec<ValueId>,
}

/// What took a weight's place.
#[derive(Clone, Debug)]
pub(super) struct Replaced {
    /// As many as the stored tensor reaches over; tied weights share them.
    elements: Arc<[f32]>,
}

impl Replaced {
    /// As a tensor like the stored one, on the CPU.
    pub(super) fn tensor(&self, stored: &StoredTensor) -> Result<Tensor, TchError> {
        stored.with_elements(&self.elements[..stored.reach()])
    }
}

impl Program {
    /// The modules with parameters, from the one whose parameters are used last, which is nearest to the output, to the one nearest to
    /// the image. Tied parameters are those of the first of their modules in this order. What the output is not computed with is left
    /// out, and so are parameters that are no real numbers.
    pub fn weighted_modules(&self) -> Vec<WeightedModule> {
        let graph = &self.graph;
        let needed = passes::needed(graph, &passes::aliases(graph), &[self.primary_output()]);
        let mut last_use: HashMap<ValueId, usize> = HashMap::new();
        for (index, node) in graph.nodes.iter().enumerate().filter(|(index, _)| needed[*index]) {
            last_use.extend(node.uses().map(|value| (value, index)));
        }
        /// All values at one place, with their names and where they are used last.
        type Tied<'a> = Vec<(&'a str, ValueId, usize)>;
        let mut by_place: BTreeMap<(usize, i64), Tied<'_>> = BTreeMap::new();
        for (id, binding) in &graph.bindings {
            let (Binding::Weight(name), Some(stored), Some(last)) = (binding, self.stored.get(id), last_use.get(id)) else {
                continue;
            };
            if graph.parameters.contains(id) && is_real(stored.kind) && stored.num_elements() > 0 {
                by_place.entry(stored.place()).or_default().push((name, *id, *last));
            }
        }
        let mut modules: HashMap<&str, (usize, WeightedModule)> = HashMap::new();
        for mut tied in by_place.into_values() {
            tied.sort_unstable_by_key(|(name, ..)| *name);
            let Some(&(top, id, last)) = tied.iter().max_by_key(|(_, _, last)| *last) else { continue };
            let path = top.rsplit_once('.').map_or("", |(path, _)| path);
            let (used, module) = modules
                .entry(path)
                .or_insert_with(|| (last, WeightedModule { path: path.to_owned(), num_weights: 0, parameters: Vec::new() }));
            *used = last.max(*used);
            module.num_weights += self.stored[&id].num_elements();
            let values = tied.iter().map(|(_, id, _)| *id).collect();
            module.parameters.push(Parameter { name: tied[0].0.to_owned(), values });
        }
        let mut modules: Vec<(usize, WeightedModule)> = modules.into_values().collect();
        modules.sort_by(|(a, module), (b, other)| b.cmp(a).then_with(|| module.path.cmp(&other.path)));
        modules.into_iter().map(|(_, module)| module).collect()
    }

    /// Replaces the parameters of a module by random ones, the same for the same seed. What is made of the program from then on has them.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub fn randomise(&mut self, module: &WeightedModule, seed: u64) -> Result<(), ProgramError> {
        for Parameter { name, values } in &module.parameters {
            let stored = |id: &ValueId| self.stored.get(id);
            let Some(first) = values.first().and_then(stored) else { continue };
            let elements = self.archive.tensor(first).and_then(|tensor| to_host::<f64>(&tensor.f_to_kind(Kind::Double)?));
            let elements = elements.map_err(|error| self.device_error(tch::Device::Cpu, &error))?;
            let reach = values.iter().filter_map(stored).map(StoredTensor::reach).max().unwrap_or(0);
            let elements: Arc<[f32]> = draws(name, seed, reach, &elements).into();
            for id in values {
                self.replaced.insert(*id, Replaced { elements: elements.clone() });
            }
        }
        Ok(())
    }

    /// Gives all weights back as they are stored.
    pub fn restore_weights(&mut self) {
        self.replaced.clear();
    }
}

fn is_real(kind: Kind) -> bool {
    matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16)
}

/// So many draws in the place of a parameter with these elements.
fn draws(name: &str, seed: u64, count: usize, elements: &[f64]) -> Vec<f32> {
    let mean = elements.iter().sum::<f64>() / elements.len() as f64;
    let variance = elements.iter().map(|element| (element - mean).powi(2)).sum::<f64>() / elements.len() as f64;
    let deviation = variance.sqrt();
    let key = mix(seed ^ fnv1a64(name));
    let uniform = |number: u64| {
        let drawn = mix(key.wrapping_add((number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        ((drawn >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    let normal = |number: u64| {
        let (radius, turn) = ((-2.0 * uniform(2 * number).ln()).sqrt(), std::f64::consts::TAU * uniform(2 * number + 1));
        radius * turn.cos()
    };
    (0..count as u64).map(|number| (mean + deviation * normal(number)) as f32).collect()
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// FNV-1a of 64 bits.
fn fnv1a64(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_parameters_mean_and_deviation_and_follow_from_name_and_seed() {
        let elements: Vec<f64> = (0..1000).map(|n| 3.0 + if n % 2 == 0 { 0.5 } else { -0.5 }).collect();
        let drawn = draws("conv.weight", 0, 20_000, &elements);
        let mean = drawn.iter().copied().map(f64::from).sum::<f64>() / 20_000.0;
        let deviation = (drawn.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / 20_000.0).sqrt();
        assert!((mean - 3.0).abs() < 0.02 && (deviation - 0.5).abs() < 0.02, "{mean} {deviation}");
        assert_eq!(drawn[..100], draws("conv.weight", 0, 100, &elements)[..]);
        assert_ne!(drawn[..100], draws("conv.weight", 1, 100, &elements)[..]);
        assert_ne!(drawn[..100], draws("conv.bias", 0, 100, &elements)[..]);
        // Without deviation there is nothing to draw.
        assert_eq!(draws("norm.weight", 0, 3, &[1.0; 8]), [1.0; 3]);
    }
}
