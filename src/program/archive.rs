//! First phase: the `.pt2` file as a map from entry name to bytes, and the tensors in it.
//!
//! The file is mapped into memory copy-on-write, so weights need no copy and a stray in-place write cannot reach the disk.
//! Source of the layout: `torch/export/pt2_archive` of torch 2.11.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Cursor,
    path::{Path, PathBuf},
    sync::Arc,
};

use memmap2::{MmapMut, MmapOptions};
use tch::{Device, Kind, Tensor};

use super::{
    ProgramError,
    schema::{Payload, Size, VersionHeader, WeightsConfig},
};
use crate::media::{open_regular, shown};

/// The schema major version that this reader knows.
pub const SCHEMA_MAJOR: i64 = 8;

/// The largest JSON that is parsed: the graph of a large network has some megabytes, and each may take ten in memory.
const MAX_JSON_BYTES: usize = 128 << 20;

/// As many axes as libtorch's tensors have at most.
const MAX_AXES: usize = 64;

/// A weight may repeat few bytes many times (a stride of 0), but what it comes to then is limited by this or its own bytes.
const MAX_REPEATED_BYTES: i64 = 64 << 20;

/// An opened `.pt2` file.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    map: Arc<MmapMut>,
    /// Entry name below the root folder -> (offset, length) in the file.
    entries: BTreeMap<String, (usize, usize)>,
    /// The program's name, usually `model`.
    program: String,
    /// Version of torch that wrote it.
    pub torch_version: String,
}

/// A tensor whose bytes lie in the mapped file.
#[derive(Debug)]
pub struct StoredTensor {
    /// dtype of the elements.
    pub kind: Kind,
    sizes: Vec<i64>,
    strides: Vec<i64>,
    storage_offset: i64,
    offset: usize,
    length: usize,
}

/// The tensors of one folder of an archive.
#[derive(Debug, Default)]
pub struct StoredTensors {
    /// Those that can be used, by name.
    pub found: HashMap<String, StoredTensor>,
    /// The names of those that cannot.
    pub unusable: HashSet<String>,
    /// Why not, and what else is wrong, one text each.
    pub problems: Vec<String>,
}

impl Archive {
    /// Opens a file, finds its entries and checks versions; reads no weights.
    ///
    /// # Errors
    /// The file cannot be read, is no zip archive, is truncated, has entries that are compressed, lie over each other or are named
    /// to be unpacked elsewhere, or was written by another version of the format.
    pub fn open(path: &Path) -> Result<Archive, ProgramError> {
        let unreadable = |source| ProgramError::Unreadable { path: path.to_owned(), source };
        let malformed = |what: String| ProgramError::Malformed { path: path.to_owned(), what };
        let opened = open_regular(path).map_err(unreadable)?;
        let (file, length) = opened.map_err(|what| malformed(format!("it is {what}, not a file")))?;
        if length == 0 {
            return Err(malformed("it is empty".into()));
        }
        // SAFETY: the mapping is private (copy-on-write). A file that another process truncates while we run would fault, as
        // with every mapped file; the exporter never writes in place, it renames a complete file.
        let map = unsafe { MmapOptions::new().map_copy(&file) }.map_err(unreadable)?;
        Self::from_map(path, map)
    }

    /// An archive whose bytes are in memory; the path is for errors.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn from_map(path: &Path, map: MmapMut) -> Result<Archive, ProgramError> {
        let malformed = |what: String| ProgramError::Malformed { path: path.to_owned(), what };
        // Nothing comes before the archive. Asked to find out, the zip crate may take the directory of the archive that torch keeps
        // inside for the example inputs, and call the file damaged.
        let config = zip::read::Config { archive_offset: zip::read::ArchiveOffset::Known(0) };
        let mut zip = zip::ZipArchive::with_config(config, Cursor::new(&map[..])).map_err(|source| {
            malformed(if map.starts_with(b"PK\x03\x04") {
                format!(
                    "it starts like a zip archive but has no readable directory at its end ({source}), so it was probably cut off"
                )
            } else {
                format!("it is not a zip archive ({source})")
            })
        })?;
        let mut entries = BTreeMap::new();
        let mut spans = Vec::new();
        for index in 0..zip.len() {
            let entry = zip.by_index_raw(index).map_err(|source| malformed(format!("entry {index} is damaged: {source}")))?;
            let name =
                entry.name().map_err(|source| malformed(format!("the name of entry {index} is damaged: {source}")))?.into_owned();
            let size = usize::try_from(entry.size()).ok();
            let start = entry.data_start().and_then(|start| usize::try_from(start).ok());
            let span = start.zip(size).filter(|(start, size)| start.checked_add(*size).is_some_and(|end| end <= map.len()));
            let Some((start, size)) = span else {
                return Err(malformed(format!("entry `{}` reaches beyond the end of the file", shown(Path::new(&name)))));
            };
            // Nothing is ever unpacked, so such a name can do no harm here; whoever wrote it meant some.
            if name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..") {
                return Err(malformed(format!("the name of entry `{}` leads out of the archive", shown(Path::new(&name)))));
            }
            if entry.compression() != zip::CompressionMethod::Stored {
                let name = shown(Path::new(&name)).to_string();
                return Err(malformed(format!("entry `{name}` is compressed; torch.export never does that")));
            }
            // The first component is the file's stem at the time it was saved.
            if let Some((_, below)) = name.split_once('/')
                && entries.insert(below.to_owned(), (start, size)).is_some()
            {
                return Err(malformed(format!("entry `{}` is there twice", shown(Path::new(below)))));
            }
            spans.push((start, start + size, name));
        }
        drop(zip);
        spans.sort_unstable();
        for pair in spans.windows(2) {
            if let [(_, end, first), (start, _, second)] = pair
                && start < end
            {
                let [first, second] = [first, second].map(|name| shown(Path::new(name)).to_string());
                return Err(malformed(format!("entries `{first}` and `{second}` lie over each other")));
            }
        }

        let mut archive =
            Archive { path: path.to_owned(), map: Arc::new(map), entries, program: String::new(), torch_version: String::new() };
        archive.check_format()?;
        Ok(archive)
    }

    fn check_format(&mut self) -> Result<(), ProgramError> {
        for (entry, wanted) in [("archive_format", "pt2"), ("archive_version", "0"), ("byteorder", "little")] {
            let found = self.text(entry)?.trim().to_owned();
            if found != wanted {
                return Err(self.foreign(format!("`{entry}` is `{found}`, this reader knows `{wanted}`")));
            }
        }
        let programs: Vec<String> = self
            .entries
            .keys()
            .filter_map(|name| Some(name.strip_prefix("models/")?.strip_suffix(".json")?.to_owned()))
            .collect();
        self.program = match &programs[..] {
            [] => return Err(self.malformed("it holds no program (`models/*.json`)")),
            [only] => only.clone(),
            many if many.iter().any(|name| name == "model") => "model".into(),
            many => many[0].clone(),
        };
        let header: VersionHeader = self.json(&format!("models/{}.json", self.program))?;
        if header.schema_version.major != SCHEMA_MAJOR {
            return Err(self.foreign(format!(
                "its schema version is {}.{}, this reader knows {SCHEMA_MAJOR}.x; it was written by torch {}",
                header.schema_version.major, header.schema_version.minor, header.torch_version
            )));
        }
        self.torch_version = header.torch_version;
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The exported program.
    ///
    /// # Errors
    /// The JSON does not have the expected form.
    pub fn program(&self) -> Result<super::schema::ExportedProgram, ProgramError> {
        self.json(&format!("models/{}.json", self.program))
    }

    /// A text that the exporter added, such as `camflow.json`.
    ///
    /// # Errors
    /// The entry is not UTF-8.
    pub fn extra(&self, name: &str) -> Result<Option<&str>, ProgramError> {
        let entry = format!("extra/{name}");
        if self.entries.contains_key(&entry) { self.text(&entry).map(Some) } else { Ok(None) }
    }

    /// Digest of everything in the file.
    pub fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.map);
        hasher.finalize()
    }

    fn bytes(&self, entry: &str) -> Result<&[u8], ProgramError> {
        let (start, size) = self.entries.get(entry).ok_or_else(|| self.malformed(&format!("entry `{entry}` is missing")))?;
        Ok(&self.map[*start..start + size])
    }

    fn text(&self, entry: &str) -> Result<&str, ProgramError> {
        std::str::from_utf8(self.bytes(entry)?).map_err(|_| self.malformed(&format!("entry `{entry}` is not UTF-8")))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, entry: &str) -> Result<T, ProgramError> {
        let bytes = self.bytes(entry)?;
        if bytes.len() > MAX_JSON_BYTES {
            let size = bytes.len();
            return Err(self.malformed(&format!("entry `{entry}` has {size} bytes; at most {MAX_JSON_BYTES} are read")));
        }
        serde_json::from_slice(bytes).map_err(|error| self.malformed(&format!("entry `{entry}`: {error}")))
    }

    fn malformed(&self, what: &str) -> ProgramError {
        ProgramError::Malformed { path: self.path.clone(), what: what.to_owned() }
    }

    fn foreign(&self, what: String) -> ProgramError {
        ProgramError::Foreign { path: self.path.clone(), what }
    }

    /// Parameters and persistent buffers by state-dict name.
    pub fn weights(&self) -> StoredTensors {
        self.stored("weights")
    }

    /// Tensor constants and non-persistent buffers by name.
    pub fn constants(&self) -> StoredTensors {
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

    /// The tensor, without a copy where it has elements. It must not outlive the archive's mapping: see [`Archive::mapping`].
    ///
    /// # Errors
    /// libtorch refuses the shape.
    pub fn tensor(&self, stored: &StoredTensor) -> Result<Tensor, tch::TchError> {
        if stored.sizes.contains(&0) || stored.length == 0 {
            return Tensor::f_zeros(&stored.sizes, (stored.kind, Device::Cpu));
        }
        let elements = (stored.length / stored.kind.elt_size_in_bytes()) as i64;
        // SAFETY: the span was checked against the mapping when the archive was opened, and `mapping` keeps it alive.
        let storage =
            unsafe { Tensor::f_from_blob(self.map.as_ptr().add(stored.offset), &[elements], &[1], stored.kind, Device::Cpu)? };
        storage.f_as_strided(&stored.sizes, &stored.strides, stored.storage_offset)
    }

    /// Keeps the memory of tensors made by [`Archive::tensor`] alive.
    pub fn mapping(&self) -> Arc<MmapMut> {
        self.map.clone()
    }
}

fn constant(size: &Size) -> Result<i64, String> {
    match size {
        Size::AsInt(number) => Ok(*number),
        Size::AsExpr(expression) => Err(format!("its size `{}` is symbolic", expression.expr_str)),
    }
}

/// torch.export's own numbering of dtypes (`torch/_export/serde/schema.py`), which is not C++'s. `None`: not in tch.
pub fn kind_of_code(code: i64) -> Option<Kind> {
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
