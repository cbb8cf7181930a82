//! Encode: heatmaps to files. A file gets its name when it is complete, and its name holds the fingerprint: what the database
//! refers to never changes under it, and a picture that changed has another address, so that no browser shows a stale one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    media::{Durability, MediaError, deflate_f32, encode_gray, with_suffix, write_atomically, write_f16, write_f32},
    names::Choice,
    pipeline::{
        ExplainedSample, Heatmap, HeatmapFields, RunError, Skip, SkipReason, StoredHeatmap, StoredMap, WrittenHeatmap,
        WrittenHeatmaps, output::stem,
    },
};

/// Where the picture of a heatmap is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// An 8-bit PNG on disk.
    #[default]
    Path,
    /// The array in the document: travels with every page of the App's grid.
    Inline,
}

impl Choice for Store {
    const ALL: &'static [Self] = &[Store::Path, Store::Inline];

    fn name(self) -> &'static str {
        match self {
            Store::Path => "path",
            Store::Inline => "inline",
        }
    }
}

/// How the exact floats are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NpyFormat {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats: half the space, values off by at most 2.5e-4.
    F16,
    /// Not at all.
    None,
}

impl Choice for NpyFormat {
    const ALL: &'static [Self] = &[NpyFormat::F32, NpyFormat::F16, NpyFormat::None];

    fn name(self) -> &'static str {
        match self {
            NpyFormat::F32 => "f32",
            NpyFormat::F16 => "f16",
            NpyFormat::None => "none",
        }
    }
}

/// How encoding a sample ended.
#[derive(Debug)]
pub enum Encoded {
    /// Its files are complete.
    Written(WrittenHeatmaps),
    /// It has no heatmaps, and had none before.
    Skipped(Skip),
}

/// Writes heatmaps.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Folder for this dataset's heatmaps, absolute.
    pub folder: PathBuf,
    /// The fields that the job writes.
    pub fields: HeatmapFields,
    /// Where pictures go.
    pub store: Store,
    /// Where exact floats go.
    pub npy: NpyFormat,
    /// Channel of the model's output -> class name.
    pub class_names: BTreeMap<i64, String>,
}

impl Encoder {
    /// Writes all heatmaps of a sample; when this returns they are complete on disk.
    ///
    /// # Errors
    /// The disk is full or the folder cannot be written to, which ends the run.
    pub fn encode(&self, explained: ExplainedSample) -> Result<Encoded, RunError> {
        let ExplainedSample { sample, fingerprint, wanted, existing, classes } = explained;
        let mut heatmaps = Vec::new();
        for class in &classes {
            let name = self.class_names.get(&class.channel).cloned().unwrap_or_else(|| class.channel.to_string());
            for (column, heatmap) in class.heatmaps.iter().enumerate() {
                let field = self.fields.name(class.class, column);
                let fingerprint = self.fields.fingerprint(fingerprint, class.class, column).to_string();
                let stem = stem(&self.folder, field, &sample.id, &fingerprint);
                let npy_path = self.write_npy(&stem, heatmap)?;
                let map = self.write_map(&stem, heatmap)?;
                let (field, class_name) = (field.to_owned(), name.clone());
                heatmaps.push(WrittenHeatmap { field, class: class_name, map, npy_path, score: class.score, fingerprint });
            }
        }
        let is_absent = |class: usize| wanted.contains(&class) && classes.iter().all(|present| present.class != class);
        let withdrawn: Vec<String> = self.fields.withdrawn(&existing, is_absent).map(|old| old.field.clone()).collect();
        if heatmaps.is_empty() && withdrawn.is_empty() {
            return Ok(Encoded::Skipped(Skip { sample, reason: SkipReason::ClassAbsent }));
        }
        let is_kept = |path: &PathBuf| {
            heatmaps
                .iter()
                .any(|new| new.npy_path.as_ref() == Some(path) || matches!(&new.map, StoredMap::File(map) if map == path))
        };
        let superseded = existing
            .into_iter()
            .filter(|old| withdrawn.contains(&old.field) || heatmaps.iter().any(|new| new.field == old.field))
            .flat_map(StoredHeatmap::into_files)
            .filter(|path| !is_kept(path))
            .collect();
        Ok(Encoded::Written(WrittenHeatmaps { sample, heatmaps, withdrawn, superseded }))
    }

    fn write_npy(&self, stem: &Path, heatmap: &Heatmap) -> Result<Option<PathBuf>, RunError> {
        let shape = [heatmap.height, heatmap.width];
        let path = with_suffix(stem, ".npy");
        match self.npy {
            NpyFormat::None => return Ok(None),
            NpyFormat::F32 => write_atomically(&path, Durability::Machine, |writer| write_f32(writer, &shape, &heatmap.values)),
            NpyFormat::F16 => write_atomically(&path, Durability::Machine, |writer| write_f16(writer, &shape, &heatmap.values)),
        }
        .map_err(|error| unwritable(&path, error))?;
        Ok(Some(path))
    }

    fn write_map(&self, stem: &Path, heatmap: &Heatmap) -> Result<StoredMap, RunError> {
        let Heatmap { height, width, values, levels } = heatmap;
        if self.store == Store::Inline {
            return Ok(StoredMap::Inline(deflate_f32(&[*height, *width], values)));
        }
        let path = with_suffix(stem, ".png");
        let png = encode_gray(*height, *width, levels).map_err(|error| unwritable(&path, error))?;
        write_atomically(&path, Durability::Machine, |writer| std::io::Write::write_all(writer, &png))
            .map_err(|error| unwritable(&path, error))?;
        Ok(StoredMap::File(path))
    }
}

fn unwritable(path: &Path, error: MediaError) -> RunError {
    let source = match error {
        MediaError::Unwritable { cause, .. } => cause,
        other => std::io::Error::other(other.to_string()),
    };
    RunError::Output { path: path.to_owned(), source }
}
