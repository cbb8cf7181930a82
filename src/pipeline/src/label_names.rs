//! Which labels of the dataset are of which class of the model.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::message::TargetClass;
use camflow_names::{ClassNames, Meaning};

/// The classes of the model, by all that labels may call them. It remembers which labels were taken for a class that is written
/// otherwise.
#[derive(Clone, Debug, Default)]
pub struct LabelNames {
    names: ClassNames,
    taken: Arc<Mutex<BTreeMap<String, String>>>,
}

impl LabelNames {
    /// Of these classes.
    pub fn new(names: ClassNames) -> Self {
        LabelNames { names, taken: Arc::default() }
    }

    /// What a label means: looked up once, where it is compared with many classes.
    pub fn meaning(&self, label: &str) -> Meaning<'_> {
        self.names.meaning(label)
    }

    /// Whether a label with this meaning is of the class.
    pub fn is_of(&self, label: &str, meaning: &Meaning<'_>, class: &TargetClass) -> bool {
        let is_of = meaning.is(label, (&class.name, class.index));
        if is_of && matches!(meaning, Meaning::Alike(_)) {
            self.remember(label, || format!("label `{label}` is taken as the model's class `{}`", class.name));
        }
        is_of
    }

    /// Whether one of a sample's labels is of the class.
    pub fn have(&self, labels: &[String], class: &TargetClass) -> bool {
        labels.iter().any(|label| self.is_of(label, &self.meaning(label), class))
    }

    /// The first of a sample's labels that is of a class, and the channel of that.
    ///
    /// # Errors
    /// It may be of several classes.
    pub fn own<'a>(&self, labels: &'a [String]) -> Result<Option<(&'a String, i64)>, String> {
        for label in labels {
            match self.names.meaning(label) {
                Meaning::Mapped(channel) | Meaning::Exact(&[channel]) => return Ok(Some((label, channel))),
                Meaning::Exact(channels) => {
                    self.remember(label, || self.first_of(label, channels));
                    return Ok(Some((label, channels[0])));
                }
                Meaning::Alike(channels) => {
                    let class = self.names.name(channels[0]);
                    self.remember(label, || match channels.len() {
                        1 => format!("label `{label}` is taken as the model's class `{class}`"),
                        _ => self.first_of(label, &channels),
                    });
                    return Ok(Some((label, channels[0])));
                }
                Meaning::Ambiguous(channels) => {
                    let first = channels[0];
                    return Err(self.names.doubt(label, &Meaning::Ambiguous(channels), first).unwrap_or_default());
                }
                Meaning::Unknown => {}
            }
        }
        Ok(None)
    }

    /// All channels that have the name of the first of a sample's labels that is of a class, that of [`LabelNames::own`] first.
    ///
    /// # Errors
    /// It may be of several classes.
    pub fn own_channels(&self, labels: &[String]) -> Result<Option<Vec<i64>>, String> {
        let Some((label, own)) = self.own(labels)? else { return Ok(None) };
        let alike = match self.names.meaning(label) {
            Meaning::Exact(channels) => channels.to_vec(),
            Meaning::Alike(channels) => channels,
            Meaning::Mapped(_) | Meaning::Ambiguous(_) | Meaning::Unknown => Vec::new(),
        };
        Ok(Some(std::iter::once(own).chain(alike.into_iter().filter(|channel| *channel != own)).collect()))
    }

    /// The model's name for a class, else the channel's number.
    pub fn name(&self, channel: i64) -> String {
        self.names.name(channel)
    }

    /// Whether a label is written exactly as its class is.
    pub fn is_exact(&self, label: &str) -> bool {
        matches!(self.names.meaning(label), Meaning::Exact(_))
    }

    /// Why it cannot be said whether a label is of the class.
    pub fn doubt(&self, label: &str, meaning: &Meaning<'_>, class: &TargetClass) -> Option<String> {
        self.names.doubt(label, meaning, class.index)
    }

    /// What was taken for what, in words; nothing twice.
    pub fn take_notices(&self) -> Vec<String> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        // Kept, so that it is not said again.
        taken.values_mut().map(std::mem::take).filter(|notice| !notice.is_empty()).collect()
    }

    fn first_of(&self, label: &str, channels: &[i64]) -> String {
        let listed: Vec<String> = channels.iter().map(ToString::to_string).collect();
        format!(
            "label `{label}` is the name of {} classes of the model, channels {}; the first is taken; `--map {label}=CHANNEL` says which",
            listed.len(),
            listed.join(", ")
        )
    }

    fn remember(&self, label: &str, notice: impl FnOnce() -> String) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if !taken.contains_key(label) {
            taken.insert(label.to_owned(), notice());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_for_a_class_is_told_once() {
        let classes = [(1, "motorbike"), (134, "crane"), (517, "crane"), (2, "car")].map(|(n, name)| (n, name.to_owned())).into();
        let labels = LabelNames::new(ClassNames::new(classes));
        let motorbike = TargetClass { name: "motorbike".into(), index: 1, mask_value: None, reference: None };
        let is_motorbike = |label: &str| labels.have(&[label.to_owned()], &motorbike);
        assert!(is_motorbike("motorcycle") && is_motorbike("motorbike") && is_motorbike("motorcycle") && !is_motorbike("car"));
        assert_eq!(labels.take_notices(), ["label `motorcycle` is taken as the model's class `motorbike`"]);
        let own = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            labels.own(&names).map(|found| found.map(|(label, channel)| (label.clone(), channel)))
        };
        assert_eq!(own(&["truck", "Car"]), Ok(Some(("Car".into(), 2))));
        assert_eq!(own(&["crane"]), Ok(Some(("crane".into(), 134))));
        assert_eq!(own(&["truck"]), Ok(None));
        let notices = labels.take_notices();
        assert!(notices.len() == 2 && notices[1].contains("channels 134, 517; the first"), "{notices:?}");
        assert!(labels.take_notices().is_empty());
    }
}
