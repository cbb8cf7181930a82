//! Arguments for operators: nonsense, but nearly right.

use tch::{Device, Kind, Tensor};

/// SplitMix64.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// Something that can be an argument.
pub(super) enum Made {
    Default,
    None,
    Tensor(Tensor),
    Tensors(Vec<Tensor>),
    Int(i64),
    Float(f64),
    Bool(bool),
    Str(&'static str),
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<u8>),
}

const WILD: [i64; 12] = [0, 1, -1, -2, 7, 1000, -1000, 1 << 31, 1 << 40, 1 << 62, i64::MIN, i64::MAX];
const FLOATS: [f64; 12] = [0.0, 1.0, -1.0, 0.5, 2.0, 1e-300, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-30, 3.7];
const KINDS: [Kind; 10] = [
    Kind::Float,
    Kind::Float,
    Kind::Int64,
    Kind::Double,
    Kind::Half,
    Kind::BFloat16,
    Kind::Int,
    Kind::Bool,
    Kind::Uint8,
    Kind::ComplexFloat,
];
const WORDS: [&str; 26] = [
    "none",
    "tanh",
    "trunc",
    "floor",
    "sum",
    "mean",
    "prod",
    "amax",
    "amin",
    "constant",
    "reflect",
    "replicate",
    "circular",
    "same",
    "valid",
    "ij,jk->ik",
    "...ij->...ji",
    "ijk,ikl->ijl",
    "i->",
    "left",
    "right",
    "linear",
    "nearest",
    "ij",
    "fro",
    "nuc",
];
const SHAPES: [&[i64]; 16] = [
    &[],
    &[0],
    &[1],
    &[4],
    &[2, 3],
    &[4, 4],
    &[3, 4, 5],
    &[1, 4, 6, 6],
    &[1, 3, 0, 4],
    &[1, 2, 3, 4, 4],
    &[300_000],
    &[1, 300_000, 1, 1],
    &[1, 1, 300, 300],
    &[8, 8, 3, 3],
    &[4, 1, 3, 3],
    &[1, 1, 1],
];

/// One call in the making: most are nearly right, as a kernel refuses at once what is not.
pub(super) struct Maker {
    random: Random,
    rank: usize,
    is_sane: bool,
    /// Shape and kind of the tensors so far.
    made: Vec<(Vec<i64>, Kind)>,
}

impl Maker {
    pub(super) fn new(mut random: Random) -> Self {
        let rank = random.of(&[0, 1, 2, 3, 4, 4, 4, 5]);
        let is_sane = !random.one_in(5);
        Maker { random, rank, is_sane, made: Vec::new() }
    }

    fn shape(&mut self) -> Vec<i64> {
        let sides: [&[i64]; 5] = [&[1, 1, 2], &[1, 2, 3, 4], &[4, 5, 6, 8], &[4, 5, 6, 8], &[3, 4]];
        let mut shape: Vec<i64> = sides[..self.rank].iter().map(|sides| self.random.of(sides)).collect();
        if self.rank > 0 && self.random.one_in(8) {
            let at = self.random.below(self.rank);
            shape[at] = self.random.of(&[0, 1, 7, 50_000]);
        }
        shape
    }

    /// A shape that may go with the first tensor.
    fn fitting(&mut self, name: &str) -> Vec<i64> {
        let Some((first, _)) = self.made.first().cloned() else { return self.shape() };
        let last = first.last().copied().unwrap_or(1);
        let channels = first.get(1).copied().unwrap_or(1);
        let wide = self.made.get(1).and_then(|(shape, _)| shape.first().copied()).unwrap_or(channels);
        match name {
            "weight" if first.len() >= 2 => match self.random.below(5) {
                0 | 1 => {
                    let mut shape = vec![self.random.of(&[1, 2, 4]), channels];
                    shape.extend((2..first.len()).map(|_| self.random.of(&[1, 2, 3])));
                    shape
                }
                2 => vec![channels],
                3 => vec![last],
                _ => vec![self.random.of(&[1, 2, 4]), last],
            },
            "bias" => vec![wide],
            "running_mean" | "running_var" => vec![channels],
            "index" | "indices" if self.random.one_in(2) => vec![self.random.of(&[1, 2, 4])],
            "mat2" | "batch2" | "vec" | "vec2" if first.len() >= 2 => {
                let mut shape = first.clone();
                shape.reverse();
                shape
            }
            "grid" if first.len() >= 3 => {
                let mut shape = vec![first[0]];
                shape.extend(vec![3; first.len() - 2]);
                shape.push(first.len() as i64 - 2);
                shape
            }
            _ if self.random.one_in(4) => self.random.of(&SHAPES).to_vec(),
            _ => first,
        }
    }

    fn tensor(&mut self, name: &str) -> Tensor {
        let is_index = matches!(name, "index" | "indices" | "repeats" | "sorter");
        let (shape, mut kind) = if self.is_sane && !self.random.one_in(12) {
            let kind = self.made.first().map(|(_, kind)| *kind).filter(|_| !self.random.one_in(10));
            (self.fitting(name), kind.unwrap_or(if self.random.one_in(3) { self.random.of(&KINDS) } else { Kind::Float }))
        } else {
            (self.random.of(&SHAPES).to_vec(), self.random.of(&KINDS))
        };
        if is_index && !self.random.one_in(10) {
            kind = Kind::Int64;
        }
        let options = (Kind::Double, Device::Cpu);
        let choice = self.random.below(10);
        let tensor = match kind {
            Kind::Int64 | Kind::Int | Kind::Uint8 if choice < 5 => {
                Tensor::f_randint(if is_index { 2 } else { 4 }, &shape[..], (Kind::Int64, Device::Cpu))
            }
            Kind::Int64 | Kind::Int | Kind::Uint8 => {
                let wild = self.random.of(&[100_000_000, -100_000_000, 100_000, i64::MIN, i64::MAX, -1, i64::from(i32::MIN)]);
                Tensor::f_full(&shape[..], wild, (Kind::Int64, Device::Cpu))
            }
            _ if choice == 0 => Tensor::f_full(&shape[..], self.random.of(&FLOATS), options),
            _ => Tensor::f_randn(&shape[..], options),
        };
        let tensor = tensor.and_then(|tensor| tensor.f_to_kind(kind)).expect("a small tensor");
        let tensor = match self.random.below(12) {
            0 if shape.len() >= 2 => tensor.transpose(0, -1),
            1 => tensor.unsqueeze(0).expand([2].iter().chain(&shape).copied().collect::<Vec<_>>(), false),
            _ => tensor,
        };
        self.made.push((tensor.size(), kind));
        let can_learn = matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
        if can_learn && !self.random.one_in(3) { tensor.set_requires_grad(true) } else { tensor }
    }

    fn int(&mut self, name: &str) -> i64 {
        match self.random.below(12) {
            0 => self.random.of(&WILD),
            _ if !self.is_sane && self.random.one_in(2) => self.random.of(&WILD),
            _ if name.contains("dim") || name.contains("axis") => {
                self.random.below(2 * self.rank.max(1)) as i64 - self.rank as i64
            }
            _ => self.random.of(&[0, 1, 1, 2, 2, 3, 4]),
        }
    }

    fn ints(&mut self, name: &str, length: Option<usize>) -> Vec<i64> {
        if !self.is_sane || self.random.one_in(10) {
            let count = self.random.of(&[0, 1, 2, 2, 3, 4, 6]);
            return (0..count).map(|_| self.int(name)).collect();
        }
        let pads = |random: &mut Random, count: usize| (0..count).map(|_| random.of(&[0, 1, 1, 2, -1, -3])).collect();
        match name {
            "dims" => (0..self.rank as i64).rev().collect(),
            "dim" => (0..self.random.below(self.rank + 1) as i64).collect(),
            "pad" => {
                let count = self.random.of(&[2, 4, 6]);
                pads(&mut self.random, count)
            }
            "padding" => pads(&mut self.random, length.unwrap_or(self.rank.max(3) - 2)),
            "size" | "shape" => match self.made.first() {
                Some((shape, _)) => shape.clone(),
                None => self.shape(),
            },
            "normalized_shape" => self.made.first().and_then(|(shape, _)| Some(vec![*shape.last()?])).unwrap_or_default(),
            _ => (0..length.unwrap_or(self.rank.max(3) - 2)).map(|_| self.random.of(&[1, 1, 2, 2, 3, 4])).collect(),
        }
    }

    pub(super) fn argument(&mut self, name: &str, declared: &str, has_default: bool) -> Made {
        let kind = declared.split('(').next().unwrap_or(declared);
        let is_optional = declared.ends_with('?');
        let kind = if is_optional { kind.trim_end_matches('?') } else { kind };
        if matches!(name, "device" | "layout" | "pin_memory" | "generator") || (has_default && self.random.one_in(3)) {
            return if has_default { Made::Default } else { Made::None };
        }
        if is_optional && self.random.one_in(3) {
            return Made::None;
        }
        let length = kind.split_once('[').and_then(|(_, rest)| rest.trim_end_matches(']').parse().ok());
        match kind.split('[').next().unwrap_or(kind) {
            "Tensor" | "Tensor?" if kind.contains('[') => {
                let count = self.random.of(&[0, 1, 2, 2, 3, 4, 8]);
                Made::Tensors((0..count).map(|_| self.tensor(name)).collect())
            }
            "Tensor" => Made::Tensor(self.tensor(name)),
            "int" | "SymInt" if kind.contains('[') => Made::Ints(self.ints(name, length)),
            "int" | "SymInt" => Made::Int(self.int(name)),
            "float" if kind.contains('[') => Made::Floats((0..self.rank.max(3) - 2).map(|_| self.random.of(&FLOATS)).collect()),
            "float" => Made::Float(self.random.of(&FLOATS)),
            "bool" if kind.contains('[') => Made::Bools(vec![1; 3]),
            "bool" => Made::Bool(self.random.one_in(2)),
            "Scalar" if self.random.one_in(2) => Made::Float(self.random.of(&FLOATS)),
            "Scalar" => Made::Int(self.int(name)),
            "str" => Made::Str(self.random.of(&WORDS)),
            // In C++, numbers of a dtype and of a memory format.
            "ScalarType" => Made::Int(self.random.of(&[0, 1, 3, 4, 5, 6, 7, 9, 11, 15])),
            "MemoryFormat" => Made::Int(self.random.of(&[0, 1, 2, 3])),
            _ if has_default => Made::Default,
            _ => Made::None,
        }
    }
}
