//! What a heatmap was made from: how a run finds out what is new or changed, and can say why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{BuildHasher, RandomState},
    path::Path,
    time::SystemTime,
};

use crate::grid::ClassIndex;
use camflow_media::Stamp;

/// What a heatmap is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ingredient {
    /// The model file.
    Model,
    /// What was asked for: method, layer, class, target, sizes, precision.
    Settings,
    /// The image file.
    Image,
    /// The sample's label, as far as the heatmap depends on it.
    Label,
}

impl Ingredient {
    /// In the order in which a fingerprint has them, which is also that of their numbers.
    const ALL: [Ingredient; 4] = [Ingredient::Model, Ingredient::Settings, Ingredient::Image, Ingredient::Label];
}

impl fmt::Display for Ingredient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ingredient::Model => "model",
            Ingredient::Settings => "settings",
            Ingredient::Image => "image",
            Ingredient::Label => "label",
        })
    }
}

/// Why a heatmap is to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// There is none yet.
    New,
    /// It was made from another one of these.
    Changed(Ingredient),
    /// The field holds one that was made by other means, or by an earlier camflow with other fingerprints.
    Foreign,
    /// Its file is not there any more.
    FileMissing,
    /// Its file is not the one that was written.
    FileDamaged,
    /// The user asked for all (`--overwrite`).
    Asked,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::New => f.write_str("new"),
            Change::Changed(ingredient) => write!(f, "{ingredient} changed"),
            Change::Foreign => f.write_str("made by other means"),
            Change::FileMissing => f.write_str("file missing"),
            Change::FileDamaged => f.write_str("file damaged"),
            Change::Asked => f.write_str("asked for"),
        }
    }
}

/// Digests (BLAKE3) of everything a heatmap depends on, one for each [`Ingredient`]. Equal fingerprints mean that there is
/// nothing to do; where they differ is why there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([[u8; 32]; Ingredient::ALL.len()]);

/// Digits of each ingredient in the text: 64 bits.
const DIGITS: usize = 16;

impl Fingerprint {
    /// Of what all samples of a job share.
    pub fn of_job(model: &str, settings: &str) -> Self {
        let begin = |text: &str| blake3::derive_key("camflow 2026-11 job", text.as_bytes());
        Fingerprint([begin(model), begin(settings), begin(""), begin("")])
    }

    /// Adds one thing that the heatmap depends on.
    #[must_use]
    pub fn and(mut self, ingredient: Ingredient, what: &str, content: &[u8]) -> Self {
        let digest = &mut self.0[ingredient as usize];
        let mut hasher = blake3::Hasher::new_keyed(digest);
        // The length keeps `("ab", "c")` apart from `("a", "bc")`.
        hasher.update(&(what.len() as u64).to_le_bytes()).update(what.as_bytes()).update(content);
        *digest = *hasher.finalize().as_bytes();
        self
    }

    /// Adds a file by path, size and modification time: reading a million images to find nothing changed would take as
    /// long as half the job.
    #[must_use]
    pub fn and_file(self, ingredient: Ingredient, what: &str, path: &Path, stamp: &Stamp) -> Self {
        let modified = stamp.modified().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut content = path.as_os_str().as_encoded_bytes().to_vec();
        content.extend(format!("\0{}\0{}", stamp.size(), modified.as_nanos()).into_bytes());
        self.and(ingredient, what, &content)
    }

    /// Adds what no other fingerprint has: what was read is not what the rest stands for, so that the next run has to look again.
    #[must_use]
    pub fn unsettled(self, ingredient: Ingredient) -> Self {
        let nonce = [RandomState::new(), RandomState::new()].map(|state| state.hash_one(SystemTime::now()).to_le_bytes());
        self.and(ingredient, "changed while it was read", &nonce.concat())
    }

    /// The parts for model and settings of a fingerprint in text form, which all samples share; `None` where an earlier camflow, or
    /// nobody, wrote it.
    pub fn job_parts(stored: &str) -> Option<(&str, &str)> {
        let mut parts = stored.split('-');
        let (model, settings) = (parts.next()?, parts.next()?);
        [model, settings].iter().all(|part| part.len() == DIGITS).then_some((model, settings))
    }

    /// Why a heatmap with the fingerprint `stored` (a text) is not what this one stands for; empty if it is.
    pub fn changes_since(&self, stored: &str) -> BTreeSet<Change> {
        let wanted = self.to_string();
        if wanted == stored {
            return BTreeSet::new();
        }
        let parts: Vec<&str> = stored.split('-').collect();
        if parts.len() != Ingredient::ALL.len() || parts.iter().any(|part| part.len() != DIGITS) {
            return BTreeSet::from([Change::Foreign]);
        }
        let differing =
            Ingredient::ALL.into_iter().zip(wanted.split('-')).zip(parts).filter(|((_, wanted), part)| wanted != part);
        differing.map(|((ingredient, _), _)| Change::Changed(ingredient)).collect()
    }
}

/// As stored on the label: 16 hexadecimal digits for each of model, settings, image and label, with hyphens between.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, digest) in self.0.iter().enumerate() {
            let hex = blake3::Hash::from(*digest).to_hex();
            write!(f, "{}{}", if index == 0 { "" } else { "-" }, &hex[..DIGITS])?;
        }
        Ok(())
    }
}

/// What the heatmaps of a sample were made from, without class and layer. Nearly always that is the same for all classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleFingerprint {
    shared: Fingerprint,
    /// Of classes that take more from the label than all labels.
    of_classes: BTreeMap<ClassIndex, Fingerprint>,
}

impl From<Fingerprint> for SampleFingerprint {
    fn from(shared: Fingerprint) -> Self {
        SampleFingerprint { shared, of_classes: BTreeMap::new() }
    }
}

impl SampleFingerprint {
    /// Of the heatmaps of one class.
    pub fn of(&self, class: ClassIndex) -> Fingerprint {
        self.of_classes.get(&class).copied().unwrap_or(self.shared)
    }

    /// Adds one thing that the heatmaps of one class depend on.
    pub fn add(&mut self, class: ClassIndex, ingredient: Ingredient, what: &str, content: &[u8]) {
        self.of_classes.insert(class, self.of(class).and(ingredient, what, content));
    }

    /// Of all that the heatmaps of any class depend on.
    pub fn whole(&self) -> Fingerprint {
        self.of_classes.iter().fold(self.shared, |whole, (class, of_class)| {
            whole.and(Ingredient::Label, &class.0.to_string(), of_class.to_string().as_bytes())
        })
    }

    /// See [`Fingerprint::unsettled`].
    #[must_use]
    pub fn unsettled(self, ingredient: Ingredient) -> Self {
        let of_classes = self.of_classes.into_iter().map(|(class, of_class)| (class, of_class.unsettled(ingredient))).collect();
        SampleFingerprint { shared: self.shared.unsettled(ingredient), of_classes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_known_by_what_changed() {
        let base = Fingerprint::of_job("m", "s");
        let with_image = |name: &str| base.and(Ingredient::Image, "image", name.as_bytes());
        let stored = with_image("a").to_string();
        assert!(with_image("a").changes_since(&stored).is_empty());
        assert_eq!(with_image("b").changes_since(&stored), BTreeSet::from([Change::Changed(Ingredient::Image)]));
        let other = Fingerprint::of_job("n", "s").and(Ingredient::Image, "image", b"a").and(Ingredient::Label, "mask", b"1");
        let changed = [Change::Changed(Ingredient::Model), Change::Changed(Ingredient::Label)];
        assert_eq!(other.changes_since(&stored), BTreeSet::from(changed));
        assert_eq!(base.changes_since("0123456789abcdef0123456789abcdef"), BTreeSet::from([Change::Foreign]));
        assert_eq!(stored.len(), 4 * DIGITS + 3);
    }

    #[test]
    fn names_and_contents_do_not_run_together() {
        let base = Fingerprint::of_job("m", "s");
        let and = |what: &str, content: &str| base.and(Ingredient::Label, what, content.as_bytes());
        assert_ne!(and("ab", "c"), and("a", "bc"));
    }

    /// The labels of every dataset hold such texts: other digests of the same things would have all heatmaps made again.
    #[test]
    fn fingerprints_stay_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, [7; 1234]).unwrap();
        let modified = SystemTime::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 123_456_789);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        let base = Fingerprint::of_job("0123456789abcdef0123456789abcdef", "size=image\0npy=f32").and(
            Ingredient::Label,
            "mask",
            &[1, 2],
        );
        let stamp = Stamp::of(&path).unwrap();
        let fingerprint = base.and_file(Ingredient::Image, "image", Path::new("/data/a.png"), &stamp);
        assert_eq!(fingerprint, base.and(Ingredient::Image, "image", b"/data/a.png\x001234\x001700000000123456789"));
        assert_eq!(fingerprint.to_string(), "ee1d17da426d29f0-d23d3cceff46cad5-dd006b0da726fb02-0159baf8f9a1950a");
    }

    #[test]
    fn what_moved_is_never_up_to_date() {
        let base = Fingerprint::of_job("m", "s");
        let stored = base.unsettled(Ingredient::Image);
        assert_eq!(base.changes_since(&stored.to_string()), BTreeSet::from([Change::Changed(Ingredient::Image)]));
        assert_ne!(base.unsettled(Ingredient::Image), stored);
    }
}
