//! Whether two names of classes mean the same: as they are written, but for case, spaces, hyphens and underscores, by the words of
//! COCO and VOC, by one of the synonyms of an ImageNet name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use unicode_normalization::UnicodeNormalization;

/// One thing that datasets call by two words, folded: COCO's comes first.
const SAME: [(&str, &str); 4] = [("motorcycle", "motorbike"), ("airplane", "aeroplane"), ("couch", "sofa"), ("tv", "tvmonitor")];

/// The classes of a model by number, and what else they are called.
#[derive(Clone, Debug, Default)]
pub struct ClassNames {
    classes: BTreeMap<i64, String>,
    /// What the user says of names.
    mapped: BTreeMap<String, i64>,
    /// A name as it is written, to the numbers of the classes that have it.
    exact: HashMap<String, Vec<i64>>,
    /// The same for names that are alike, each level for those that the one before it does not find: folded, by the words of COCO and
    /// VOC, by single synonyms.
    alike: [HashMap<String, BTreeSet<i64>>; 3],
}

/// The classes that a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// It is the name of these; of several only where a model gives several the same.
    Exact(&'a [i64]),
    /// The user says so.
    Mapped(i64),
    /// It is spelt otherwise. All have one name.
    Alike(Vec<i64>),
    /// It may be any of these, of different names.
    Ambiguous(Vec<i64>),
    /// None.
    Unknown,
}

impl ClassNames {
    /// Of these classes.
    pub fn new(classes: BTreeMap<i64, String>) -> Self {
        let mut names = ClassNames { classes, ..Self::default() };
        for (&number, name) in &names.classes {
            names.exact.entry(name.clone()).or_default().push(number);
            let synonyms = synonyms(name).map(common).collect();
            for (level, keys) in [vec![folded(name)], vec![common(name)], synonyms].into_iter().enumerate() {
                for key in keys.into_iter().filter(|key| !key.is_empty()) {
                    names.alike[level].entry(key).or_default().insert(number);
                }
            }
        }
        names
    }

    /// Lets a name mean a class, whatever it is like.
    pub fn map(&mut self, name: String, class: i64) {
        self.mapped.insert(name, class);
    }

    /// The classes by number.
    pub fn classes(&self) -> &BTreeMap<i64, String> {
        &self.classes
    }

    /// The name of a class, else its number.
    pub fn name(&self, class: i64) -> String {
        self.classes.get(&class).cloned().unwrap_or_else(|| class.to_string())
    }

    /// The labels that the user says the class of.
    pub fn mapped(&self) -> impl Iterator<Item = &str> {
        self.mapped.keys().map(String::as_str)
    }

    /// The names that the user says mean a class.
    pub fn mapped_to(&self, class: i64) -> impl Iterator<Item = &str> {
        self.mapped.iter().filter(move |(_, mapped)| **mapped == class).map(|(name, _)| name.as_str())
    }

    /// Which classes a name means. What the user says comes first, then what is written the same.
    pub fn meaning(&self, name: &str) -> Meaning<'_> {
        if let Some(class) = self.mapped.get(name) {
            return Meaning::Mapped(*class);
        }
        if let Some(classes) = self.exact.get(name) {
            return Meaning::Exact(classes);
        }
        let synonyms = || synonyms(name).map(common).collect::<Vec<_>>();
        let levels = [vec![folded(name)], vec![common(name)], synonyms()];
        let found = self
            .alike
            .iter()
            .zip(levels)
            .map(|(level, keys)| keys.iter().filter_map(|key| level.get(key)).flatten().copied().collect::<BTreeSet<i64>>());
        let Some(found) = found.into_iter().find(|found| !found.is_empty()) else { return Meaning::Unknown };
        let found: Vec<i64> = found.into_iter().collect();
        let same = found.iter().all(|class| self.classes[class] == self.classes[&found[0]]);
        if same { Meaning::Alike(found) } else { Meaning::Ambiguous(found) }
    }

    /// Whether a class is written the same but for case, spaces, hyphens and underscores.
    pub fn is_folded(&self, name: &str) -> bool {
        self.alike[0].contains_key(&folded(name))
    }

    /// Whether a label of this name is of a class, which has this name and number. A model that names nothing has the numbers.
    pub fn means(&self, label: &str, class: (&str, i64)) -> bool {
        self.meaning(label).is(label, class)
    }

    /// Which of several classes a label may be, in words, if the class is one of them.
    pub fn doubt(&self, label: &str, meaning: &Meaning<'_>, class: i64) -> Option<String> {
        let Meaning::Ambiguous(classes) = meaning else { return None };
        classes.contains(&class).then(|| {
            let names: BTreeSet<String> = classes.iter().map(|class| self.name(*class)).collect();
            format!("label `{label}` may be any of the classes {}; `--map` says which it is", super::backticked(names))
        })
    }
}

impl Meaning<'_> {
    /// Whether a label that means this is of the class, as in [`ClassNames::means`].
    pub fn is(&self, label: &str, class: (&str, i64)) -> bool {
        match self {
            Meaning::Exact(classes) => classes.contains(&class.1),
            Meaning::Mapped(mapped) => *mapped == class.1,
            Meaning::Alike(classes) => classes.contains(&class.1),
            Meaning::Ambiguous(_) | Meaning::Unknown => label == class.0,
        }
    }
}

/// Without case, spaces, hyphens and underscores, and in one of the forms that Unicode has for the same letters: names of folders
/// come from macOS with their accents apart.
fn folded(name: &str) -> String {
    // Those of no width come along when names are copied from web pages and tables.
    const OF_NO_WIDTH: &str = "\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{ad}";
    let counts = |c: &char| !c.is_whitespace() && !"_-".contains(*c) && !OF_NO_WIDTH.contains(*c);
    name.nfkc().filter(counts).flat_map(char::to_lowercase).collect()
}

/// Folded, with one word for what COCO and VOC call differently.
fn common(name: impl AsRef<str>) -> String {
    let folded = folded(name.as_ref());
    SAME.iter().find(|(_, other)| *other == folded).map_or(folded, |(word, _)| (*word).to_owned())
}

/// The name itself, and of `tabby, tabby cat` each part.
fn synonyms(name: &str) -> impl Iterator<Item = &str> {
    std::iter::once(name).chain(name.split(',').filter(|_| name.contains(',')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(classes: &[&str]) -> ClassNames {
        ClassNames::new((0..).zip(classes.iter().map(|name| (*name).to_owned())).collect())
    }

    #[test]
    fn spellings_are_bridged_and_what_is_written_the_same_wins() {
        let voc = names(&["background", "motorbike", "pottedplant", "Person", "sofa", "aeroplane", "tvmonitor", "dining_table"]);
        for (label, class) in [
            ("motorcycle", 1),
            ("potted plant", 2),
            ("person", 3),
            ("couch", 4),
            ("airplane", 5),
            ("TV", 6),
            ("tv-monitor", 6),
            ("Dining Table", 7),
        ] {
            assert_eq!(voc.meaning(label), Meaning::Alike(vec![class]), "{label}");
            assert!(voc.means(label, (&voc.name(class), class)));
        }
        assert_eq!(voc.meaning("Person"), Meaning::Exact(&[3]));
        assert_eq!(voc.meaning("people"), Meaning::Unknown);
        for nothing in ["", " ", "-", ","] {
            assert_eq!(voc.meaning(nothing), Meaning::Unknown, "{nothing}");
        }
        assert_eq!(names(&["couch", "sofa"]).meaning("sofa"), Meaning::Exact(&[1]));
        assert_eq!(names(&["Größe"]).meaning("GRÖSSE"), Meaning::Unknown, "that is another spelling, not another case");
        assert_eq!(names(&["Собака"]).meaning("собака"), Meaning::Alike(vec![0]));
        let forms = names(&["caf\u{e9}", "cafe"]);
        assert_eq!(forms.meaning("cafe\u{301}"), Meaning::Alike(vec![0]), "the same letters, an accent apart");
        assert_eq!(names(&["\u{ff23}at"]).meaning("cat"), Meaning::Alike(vec![0]), "of full width");
    }

    #[test]
    fn one_of_the_synonyms_is_enough() {
        let timm = names(&["tabby, tabby cat", "skunk, polecat, wood pussy", "polecat, fitch", "crane", "crane"]);
        assert_eq!(timm.meaning("tabby"), Meaning::Alike(vec![0]));
        assert_eq!(timm.meaning("Tabby cat"), Meaning::Alike(vec![0]));
        assert_eq!(timm.meaning("crane"), Meaning::Exact(&[3, 4]));
        assert_eq!(timm.meaning("polecat"), Meaning::Ambiguous(vec![1, 2]));
        let doubt = |class| timm.doubt("polecat", &timm.meaning("polecat"), class);
        assert!(doubt(2).is_some_and(|text| text.contains("`polecat, fitch`, `skunk, polecat, wood pussy`")));
        assert_eq!(doubt(0), None);
        // The short names of torchvision against the long ones.
        assert_eq!(names(&["tabby", "tiger cat"]).meaning("tabby, tabby cat"), Meaning::Alike(vec![0]));
    }

    #[test]
    fn what_the_user_says_comes_first() {
        let mut coco = names(&["car", "truck"]);
        coco.map("car".into(), 1);
        coco.map("lorry".into(), 1);
        assert!(!coco.means("car", ("car", 0)) && coco.means("car", ("truck", 1)) && coco.means("lorry", ("truck", 1)));
        assert_eq!(coco.mapped_to(1).collect::<Vec<_>>(), ["car", "lorry"]);
        assert!(ClassNames::default().means("15", ("15", 15)), "a model that names nothing");
    }
}
