//! The tensors in an archive: found and checked when it is opened, made of its memory when they are needed.

use std::collections::{HashMap, HashSet};

use tch::{Device, Kind, Tensor};

use super::Archive;
use crate::program::schema::{Payload, Size, WeightsConfig};

/// As many axes as libtorch's tensors have at most.
const MAX_AXES: usize = 64;

/// A weight may repeat few bytes many times (a stride of 0), but what it comes to then is limited by this or its own bytes.
const MAX_REPEATED_BYTES: i64 = 64 << 20;

/// A tensor whose bytes lie in the archive's memory.
#[derive(Debug)]
pub(crate) struct StoredTensor {
    /// dtype of the elements.
    pub kind: Kind,
    sizes: Vec<i64>,
    strides: Vec<i64>,
    storage_offset: i64,
    offset: usize,
    length: usize,
}

impl StoredTensor {
    /// Where its elements begin, which is the same of weights that are tied.
    pub(crate) fn place(&self) -> (usize, i64) {
        (self.offset, self.storage_offset)
    }

    /// How many elements there are from its first one to its last one; 0 where it has none.
    pub(crate) fn reach(&self) -> usize {
        if self.sizes.contains(&0) {
            return 0;
        }
        let last: i64 = self.sizes.iter().zip(&self.strides).map(|(size, stride)| (size - 1) * stride).sum();
        last as usize + 1
    }

    /// How many elements it has.
    pub(crate) fn num_elements(&self) -> usize {
        self.sizes.iter().product::<i64>() as usize
    }

    /// The same tensor with other elements, [`StoredTensor::reach`] of them.
    ///
    /// # Errors
    /// libtorch fails, for want of memory say.
    pub(crate) fn with_elements(&self, elements: &[f32]) -> Result<Tensor, tch::TchError> {
        Tensor::f_from_slice(elements)?.f_to_kind(self.kind)?.f_as_strided(&self.sizes, &self.strides, 0)
    }
}

/// The tensors of one folder of an archive.
#[derive(Debug, Default)]
pub(crate) struct StoredTensors {
    /// Those that can be used, by name.
    pub found: HashMap<String, StoredTensor>,
    /// The names of those that cannot.
    pub unusable: HashSet<String>,
    /// Why not, and what else is wrong, one text each.
    pub problems: Vec<String>,
}

impl Archive {
    /// Parameters and persistent buffers by state-dict name.
    pub(crate) fn weights(&self) -> StoredTensors {
        self.stored("weights")
    }

    /// Tensor constants and non-persistent buffers by name.
    pub(crate) fn constants(&self) -> StoredTensors {
        self.stored("constants")
    }

    fn stored(&self, folder: &str) -> StoredTensors {
        let mut stored = StoredTensors::default();
        let config = format!("data/{folder}/{}_{folder}_config.json", self.program);
        let config: WeightsConfig = match self.json(&config) {
            Ok(config) => config,
            Err(_) if !self.entries.contains_key(&config) => {
                let hint = if self.entries.contains_key(&format!("data/{folder}/{}.pt", self.program)) {
                    "; an older torch wrote this file, export it again"
                } else {
                    ""
                };
                stored.problems.push(format!("entry `{config}` is missing{hint}"));
                return stored;
            }
            Err(error) => {
                stored.problems.push(error.to_string());
                return stored;
            }
        };
        for (name, payload) in config.config {
            match self.stored_tensor(folder, &payload) {
                Ok(tensor) => drop(stored.found.insert(name, tensor)),
                Err(problem) => {
                    stored.problems.push(format!("weight `{name}`: {problem}"));
                    stored.unusable.insert(name);
                }
            }
        }
        stored
    }

    fn stored_tensor(&self, folder: &str, payload: &Payload) -> Result<StoredTensor, String> {
        let meta = match &payload.tensor_meta {
            Some(meta) if !payload.use_pickle => meta,
            _ => return Err("it is pickled (a quantised tensor or a script object), which only Python can read".into()),
        };
        let kind = kind_of_code(meta.dtype).ok_or_else(|| format!("dtype code {} is not supported", meta.dtype))?;
        let entry = format!("data/{folder}/{}", payload.path_name);
        let (offset, length) = *self.entries.get(&entry).ok_or_else(|| format!("entry `{entry}` is missing"))?;
        let numbers = |sizes: &[Size]| -> Result<Vec<i64>, String> { sizes.iter().map(constant).collect() };
        let (sizes, strides) = (numbers(&meta.sizes)?, numbers(&meta.strides)?);
        let storage_offset = meta.storage_offset.as_ref().map_or(Ok(0), constant)?;
        if sizes.len() != strides.len()
            || sizes.len() > MAX_AXES
            || sizes.iter().chain(&strides).any(|n| *n < 0)
            || storage_offset < 0
        {
            return Err("its sizes and strides make no sense".into());
        }
        // The last element that the strides reach must lie inside the entry.
        let element = kind.elt_size_in_bytes() as i64;
        let last = sizes.iter().zip(&strides).try_fold(storage_offset, |sum, (size, stride)| {
            (size - 1).max(0).checked_mul(*stride).and_then(|reach| sum.checked_add(reach))
        });
        let empty = sizes.contains(&0);
        let end = last.and_then(|last| (last + i64::from(!empty)).checked_mul(element));
        if !empty && end.is_none_or(|end| end > length as i64) {
            return Err(format!("its {length} bytes are too few for shape {sizes:?} of {kind:?}"));
        }
        let whole = sizes.iter().try_fold(element, |total, size| total.checked_mul(*size));
        if whole.is_none_or(|whole| whole > MAX_REPEATED_BYTES.max(length as i64)) {
            return Err(format!("its shape {sizes:?} of {kind:?} is too large for the {length} bytes it has"));
        }
        if !empty && offset % element as usize != 0 {
            return Err("its bytes are not aligned".into());
        }
        Ok(StoredTensor { kind, sizes, strides, storage_offset, offset, length })
    }

    /// The tensor, without a copy where it has elements. It must not outlive the archive's memory: see [`Archive::content`].
    ///
    /// # Errors
    /// libtorch refuses the shape.
    pub(crate) fn tensor(&self, stored: &StoredTensor) -> Result<Tensor, tch::TchError> {
        if stored.sizes.contains(&0) || stored.length == 0 {
            return Tensor::f_zeros(&stored.sizes, (stored.kind, Device::Cpu));
        }
        let elements = (stored.length / stored.kind.elt_size_in_bytes()) as i64;
        // SAFETY: the span was checked against the memory when the archive was opened, and `content` keeps it alive.
        let storage = unsafe {
            Tensor::f_from_blob(self.content.as_ptr().add(stored.offset), &[elements], &[1], stored.kind, Device::Cpu)?
        };
        storage.f_as_strided(&stored.sizes, &stored.strides, stored.storage_offset)
    }
}

fn constant(size: &Size) -> Result<i64, String> {
    match size {
        Size::AsInt(number) => Ok(*number),
        Size::AsExpr(expression) => Err(format!("its size `{}` is symbolic", expression.expr_str)),
    }
}

/// torch.export's own numbering of dtypes (`torch/_export/serde/schema.py`), which is not C++'s. `None`: not in tch.
pub(super) fn kind_of_code(code: i64) -> Option<Kind> {
    Some(match code {
        1 => Kind::Uint8,
        2 => Kind::Int8,
        3 => Kind::Int16,
        4 => Kind::Int,
        5 => Kind::Int64,
        6 => Kind::Half,
        7 => Kind::Float,
        8 => Kind::Double,
        10 => Kind::ComplexFloat,
        11 => Kind::ComplexDouble,
        12 => Kind::Bool,
        13 => Kind::BFloat16,
        _ => return None,
    })
}
