//! How a vision transformer attends: which of its blocks compute attention among the tokens of an image, and what its output reads of
//! their tokens. What the graph does not say, a trial run on noise does.

use std::collections::{HashMap, HashSet};

use tch::{Device, Kind, TchError, Tensor};

use super::{
    Demand, Layer, Plan, PlanOptions, Precision, Program, ProgramError, ValueId, gradients,
    graph::{Node, Operation},
    passes::{self, AttentionSite, Queries},
};

/// How the blocks of a transformer attend, and what comes of their tokens.
#[derive(Clone, Debug)]
pub struct Attending {
    /// Blocks of self-attention, in their order; each attends among what the one before it gave.
    pub blocks: Vec<AttentionBlock>,
    /// What the output reads of the last one's tokens.
    pub readout: Readout,
    /// How many of the blocks each of the layers stands for: all up to it.
    pub counts: Vec<usize>,
}

/// What the output reads of the last block's tokens.
#[derive(Clone, Debug)]
pub enum Readout {
    /// These of the tokens before the patches: a class token, say.
    Leading(Vec<i64>),
    /// All patches, of which it takes the mean, say.
    Patches,
    /// What one query gathers by attention.
    Pooled(Box<AttentionBlock>),
}

/// An attention.
#[derive(Clone, Debug)]
pub struct AttentionBlock {
    /// `[N, heads, L, S]` or `[N * heads, L, S]`
    pub probabilities: ValueId,
    /// Queries `[..., L, E]` and keys, where they are known.
    pub queries: Option<(ValueId, ValueId)>,
    /// Whether keys are `[..., E, S]`; otherwise they are `[..., S, E]`.
    pub keys_are_transposed: bool,
    /// `[..., S, E]`
    pub value: ValueId,
    /// `[..., L, E]`
    pub output: ValueId,
    /// The tokens that the block hands on, through which alone anything comes to the output; `None` where there are no such.
    pub tokens: Option<ValueId>,
}

/// What a run on noise, of one image, gave.
#[derive(Debug)]
pub(super) struct Trial {
    /// Rows and columns of the image.
    input: [i64; 2],
    /// The size of each site's probabilities; whether their rows are such.
    sizes: Vec<(Vec<i64>, bool)>,
    /// Of the last self-attention, which of its tokens the output has a gradient for.
    read: Vec<bool>,
    /// The size of each value that is handed on.
    handed_on: HashMap<ValueId, Vec<i64>>,
}

const HINT: &str = "use a method of activations and gradients, such as gradcam or layercam; those of attention are for transformers \
                    whose blocks let all tokens of an image attend to each other (ViT, DeiT, DINOv2, BEiT, CLIP and SigLIP towers)";

const OTHER_LAYER: &str = "name a block of the transformer with `--layers`, or its first norm: methods of attention go through all blocks up \
                           to it; `camflow inspect` lists layers";

/// Why there is no [`Attending`], and what to do.
struct Refused {
    problem: String,
    hint: &'static str,
}

impl From<String> for Refused {
    fn from(problem: String) -> Self {
        Refused { problem, hint: HINT }
    }
}

impl Attending {
    /// The attention by which that many of the blocks are read: that of a query which gathers them, or of the last one itself.
    pub fn gathering(&self, count: usize) -> &AttentionBlock {
        match &self.readout {
            Readout::Pooled(block) => block,
            Readout::Leading(_) | Readout::Patches => &self.blocks[count - 1],
        }
    }
}

impl Program {
    /// An error that says what of the model's attention does not fit a method, with what to do.
    pub(crate) fn unfit(&self, problem: &str, hint: &str) -> ProgramError {
        self.invalid(vec![problem.to_owned()], vec![hint.to_owned()])
    }

    /// How the model attends, for these layers.
    ///
    /// # Errors
    /// [`ProgramError::Invalid`]: it does not in a way that methods of attention could follow, or not before one of the layers.
    pub fn attending(&self, layers: &[Layer]) -> Result<Attending, ProgramError> {
        let found = self.find_attending(layers);
        found.map_err(|Refused { problem, hint }| self.invalid(vec![problem], vec![hint.to_owned()]))
    }

    fn find_attending(&self, layers: &[Layer]) -> Result<Attending, Refused> {
        let aliases = passes::aliases(&self.graph);
        let needed = passes::needed(&self.graph, &aliases, &[self.primary_output()]);
        let places = Places::of(&self.graph.nodes);
        let is_needed = |value: ValueId| places.producer.get(&value).is_some_and(|index| needed[*index]);
        let sites: Vec<&AttentionSite> = self.attentions.sites.iter().filter(|site| is_needed(site.output)).collect();
        let mut others = self.attentions.others.iter().filter(|(_, result, _)| is_needed(*result));
        if sites.is_empty() {
            let nothing = "it computes no attention: there is no softmax between two products of matrices, and no fused operator";
            return Err(others.next().map_or_else(|| nothing.to_owned(), unknown).into());
        }
        let trial = self.attention_trial.get_or_init(|| self.try_attention(&sites)).as_ref().map_err(Clone::clone)?;
        let Some(last) = last_self(&trial.sizes) else {
            let none = || misfit(sites[0], &trial.sizes[0].0, "which is none among tokens");
            return Err(others.next().map_or_else(none, unknown).into());
        };
        let tokens = trial.read.len() as i64;
        for (at, (site, (size, is_softmax))) in sites.iter().zip(&trial.sizes).enumerate() {
            let [images, queries, keys] = dimensions(size);
            let why = match () {
                () if !is_softmax => "which is no softmax over the last dimension",
                () if images != 1 => {
                    "as it attends within parts of the image, of which these methods cannot tell what reaches the others"
                }
                () if at <= last && queries != keys => "where queries and keys are not the same tokens",
                () if at <= last && queries != tokens => "where a later one has other tokens",
                () if at > last && (queries, keys) != (1, tokens) => {
                    "which neither is among all tokens nor gathers them by one query"
                }
                () if at > last + 1 => "and another one gathers the tokens before it",
                () => continue,
            };
            return Err(misfit(site, size, why).into());
        }
        let end = places.producer[&sites[last].output];
        if let Some(other) = others.find(|(_, result, _)| places.producer[result] < end) {
            return Err(unknown(other).into());
        }
        for pair in sites[..=last].windows(2) {
            if !passes::dependents(&self.graph, &aliases, &[pair[0].output]).contains(&pair[1].output) {
                let nodes = (&pair[0].node, &pair[1].node);
                return Err(format!("nodes `{}` and `{}` attend side by side, not one after the other", nodes.0, nodes.1).into());
            }
        }
        let handed_on = self.handed_on(&sites[..=last]);
        let handed_on: Vec<Option<ValueId>> =
            handed_on.into_iter().map(|value| value.filter(|value| is_tokens(trial.handed_on.get(value), tokens))).collect();
        let mut blocks = sites.iter().map(|site| block(site)).collect::<Vec<_>>();
        let pooled = blocks.drain(last + 1..).next();
        for (block, tokens) in blocks.iter_mut().zip(&handed_on) {
            block.tokens = *tokens;
        }
        let mut counts = Vec::new();
        for layer in layers {
            let place = layer.tokens.as_ref().filter(|_| layer.layout.has_tokens() && layer.windows.is_none());
            let of_layer = |problem: String| Refused { problem, hint: OTHER_LAYER };
            let place = place.ok_or_else(|| of_layer(format!("layer `{}` (`{}`) gives no tokens", layer.label, layer.path)))?;
            let [rows, columns] = place.grid_of(trial.input);
            if place.prefix + rows * columns != tokens {
                return Err(of_layer(format!(
                    "its blocks attend among {tokens} tokens, and layer `{}` (`{}`) has {} + {rows} x {columns}",
                    layer.label, layer.path, place.prefix
                )));
            }
            let count = self.blocks_up_to(layer, &sites[..=last], &aliases, &places);
            if count == 0 {
                return Err(of_layer(format!("no attention comes before layer `{}` (`{}`)", layer.label, layer.path)));
            }
            counts.push(count);
        }
        let prefix = layers.first().and_then(|layer| layer.tokens.as_ref()).map_or(0, |place| place.prefix);
        let leading: Vec<i64> = (0..prefix).filter(|token| trial.read.get(*token as usize) == Some(&true)).collect();
        let readout = match pooled {
            Some(pooled) => Readout::Pooled(Box::new(pooled)),
            None if leading.is_empty() => Readout::Patches,
            None => Readout::Leading(leading),
        };
        Ok(Attending { blocks, readout, counts })
    }

    /// How many of the sites belong to what comes up to a layer: those before it, and the one of its own block, whose norm it may be.
    fn blocks_up_to(&self, layer: &Layer, sites: &[&AttentionSite], aliases: &passes::Aliases, places: &Places) -> usize {
        let before = passes::needed(&self.graph, aliases, &[layer.tap]);
        let path = layer.path.split('@').next().unwrap_or_default();
        let block = path.rsplit_once('.').map(|(block, _)| block);
        let is_inside = |site: &AttentionSite| block.is_some_and(|block| site.modules.iter().any(|(path, _)| path == block));
        let is_own = sites.iter().filter(|site| is_inside(site)).count() == 1;
        let belongs = |site: &AttentionSite| before[places.producer[&site.output]] || is_own && is_inside(site);
        sites.iter().rposition(|site| belongs(site)).map_or(0, |last| last + 1)
    }

    /// What each of the blocks hands on: the last value before the next one through which all goes that the output depends on. Behind
    /// the last block, what is computed in the same way.
    fn handed_on(&self, sites: &[&AttentionSite]) -> Vec<Option<ValueId>> {
        let graph = &self.graph;
        let aliases = passes::aliases(graph);
        let needed = passes::needed(graph, &aliases, &[self.primary_output()]);
        let dependent = passes::dependents(graph, &aliases, &[self.input()]);
        let is_data = |node: &Node| {
            !matches!(node.operation, Operation::Symbolic(_))
                && passes::carries_data(node)
                && !node.operator().starts_with("sym_")
        };
        let nodes = || graph.nodes.iter().enumerate().filter(|(index, node)| needed[*index] && is_data(node));
        let mut last_use: HashMap<ValueId, usize> = HashMap::from([(self.primary_output(), graph.nodes.len())]);
        for (index, node) in nodes() {
            for value in node.uses().filter(|value| *value != self.primary_output()) {
                last_use.insert(value, index);
            }
        }
        let mut live: HashSet<ValueId> = HashSet::from([self.input()]);
        let mut cuts: Vec<(usize, ValueId)> = Vec::new();
        for (index, node) in nodes() {
            live.extend(node.defines().filter(|value| dependent.contains(value)));
            live.retain(|value| last_use.get(value).is_some_and(|last| *last > index));
            if let (1, Some(only)) = (live.len(), live.iter().next())
                && node.defines().any(|value| value == *only)
            {
                cuts.push((index, *only));
            }
        }
        let place = |site: &AttentionSite| graph.nodes.iter().position(|node| node.defines().any(|value| value == site.output));
        let places: Vec<usize> = sites.iter().filter_map(|site| place(site)).collect();
        let mut found: Vec<Option<(usize, ValueId)>> = Vec::new();
        for pair in places.windows(2) {
            found.push(cuts.iter().rev().find(|(index, _)| pair[0] < *index && *index < pair[1]).copied());
        }
        let way = |index: usize| {
            let node = &graph.nodes[index];
            (node.operator().trim_end_matches('_'), node.modules.len())
        };
        let before = found.last().copied().flatten().map(|(index, _)| way(index));
        let is_alike = |index: usize| match before {
            Some(before) => way(index) == before,
            None => way(index).0 == "add" && way(index).1 > 0,
        };
        let end = places.last().copied().unwrap_or_default();
        found.push(cuts.iter().rev().find(|(index, _)| end < *index && is_alike(*index)).copied());
        found.into_iter().map(|found| found.map(|(_, value)| value)).collect()
    }

    /// Runs the model on an image of noise.
    fn try_attention(&self, sites: &[&AttentionSite]) -> Result<Trial, String> {
        let [_, channels, height, width] = self.metadata.input.example[..] else {
            return Err(format!("it takes {:?}, not images [N, C, H, W]", self.metadata.input.example));
        };
        let torch = |error: TchError| format!("it cannot be run: {error}");
        let count = channels * height * width;
        let noise = Tensor::f_arange(count, (Kind::Float, Device::Cpu)).and_then(|places| places.f_mul_scalar(0.7)?.f_sin());
        let noise = noise.and_then(|noise| noise.f_view([1, channels, height, width])).map_err(torch)?;
        let options = PlanOptions { device: Device::Cpu, exact: true, precision: Precision::Fp32 };
        let run = |demand: &Demand| {
            let plan = Plan::new(self, demand, options).map_err(|error| error.to_string())?;
            plan.run(&noise).map_err(|error| error.to_string())
        };
        let handed_on = |sites: &[&AttentionSite]| self.handed_on(sites).into_iter().flatten().collect::<Vec<_>>();
        let candidates: HashSet<ValueId> = (1..=sites.len()).flat_map(|count| handed_on(&sites[..count])).collect();
        let candidates: Vec<ValueId> = candidates.into_iter().collect();
        let (mut sizes, mut handed_on) = (Vec::new(), HashMap::new());
        {
            let _no_grad = tch::no_grad_guard();
            let mut demand = Demand::of(self.primary_output());
            demand.taps = sites.iter().map(|site| site.probabilities).chain(candidates.iter().copied()).collect();
            let execution = run(&demand)?;
            for probabilities in &execution.taps[..sites.len()] {
                let sums = probabilities.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
                let apart = sums.and_then(|sums| sums.f_sub_scalar(1.0)?.f_abs()?.f_max()?.f_double_value(&[])).map_err(torch)?;
                sizes.push((probabilities.size(), apart < 1e-3));
            }
            for (value, tokens) in candidates.iter().zip(&execution.taps[sites.len()..]) {
                handed_on.insert(*value, tokens.size());
            }
        }
        let mut read = Vec::new();
        if let Some(last) = last_self(&sizes) {
            let mut demand = Demand::of(self.primary_output());
            let output = demand.tap(sites[last].output);
            let execution = run(&demand)?;
            let output_size = execution.output.size();
            // Every number counts, and no two neighbours the same: the sum of a softmax has no gradient.
            let weights = Tensor::f_arange(execution.output.numel() as i64, (Kind::Float, Device::Cpu))
                .and_then(|places| places.f_mul_scalar(0.1)?.f_cos()?.f_view(&output_size[..]));
            let every = weights.and_then(|weights| execution.output.f_mul(&weights)?.f_sum(None::<Kind>));
            let found = every.and_then(|root| gradients(&root, &execution.taps, false, false)).map_err(torch)?;
            let gradient = output.of(&found);
            if !gradient.defined() {
                return Err("no gradient comes back to its attention from its output".into());
            }
            let dims: Vec<i64> = (0..gradient.dim() as i64).filter(|dim| *dim != gradient.dim() as i64 - 2).collect();
            let of_tokens =
                gradient.f_abs().and_then(|gradient| gradient.f_sum_dim_intlist(dims.as_slice(), false, Kind::Double));
            read = of_tokens.and_then(|of_tokens| super::to_host::<f64>(&of_tokens)).map_err(torch)?;
        }
        let read = read.into_iter().map(|size| size > 0.0).collect();
        Ok(Trial { input: [height, width], sizes, read, handed_on })
    }
}

/// Which node computes each value.
struct Places {
    producer: HashMap<ValueId, usize>,
}

impl Places {
    fn of(nodes: &[Node]) -> Places {
        let producer = nodes.iter().enumerate().flat_map(|(index, node)| node.defines().map(move |value| (value, index)));
        Places { producer: producer.collect() }
    }
}

fn block(site: &AttentionSite) -> AttentionBlock {
    let AttentionSite { probabilities, queries, value, output, .. } = *site;
    AttentionBlock {
        probabilities,
        queries: queries.map(|Queries { query, key, .. }| (query, key)),
        keys_are_transposed: queries.is_some_and(|queries| queries.is_transposed),
        value,
        output,
        tokens: None,
    }
}

/// Images, of one, that probabilities are of, and of each the numbers of queries and keys.
fn dimensions(size: &[i64]) -> [i64; 3] {
    match *size {
        [images, _, queries, keys] => [images, queries, keys],
        [_, queries, keys] => [1, queries, keys],
        _ => [0, 0, 0],
    }
}

/// The last of the sites whose queries and keys are as many.
fn last_self(sizes: &[(Vec<i64>, bool)]) -> Option<usize> {
    sizes.iter().rposition(|(size, _)| {
        let [_, queries, keys] = dimensions(size);
        queries == keys && queries > 1
    })
}

/// Whether these are sizes of that many tokens of one image.
fn is_tokens(size: Option<&Vec<i64>>, tokens: i64) -> bool {
    size.is_some_and(|size| matches!(**size, [1, count, _] | [count, 1, _] if count == tokens))
}

fn misfit(site: &AttentionSite, size: &[i64], why: &str) -> String {
    format!("node `{}` gives attention of the shape {size:?} for one image, {why}", site.node)
}

fn unknown((node, _, why): &(String, ValueId, &'static str)) -> String {
    format!("node `{node}` may be attention, but not in a form that is known: {why}")
}
