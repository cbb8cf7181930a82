//! Several names: a list, or texts that people typed, with commas between.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use camflow_names::split_list;

/// Names of classes, layers, tags or slices.
///
/// In a list each entry is one name, commas and all. What was typed as one text may hold several with commas between, and only who
/// knows what there is can say whether it is one name that holds commas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameList(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Name(String),
    Text(String),
}

impl Entry {
    fn as_str(&self) -> &str {
        match self {
            Entry::Name(text) | Entry::Text(text) => text,
        }
    }
}

impl NameList {
    /// Texts with one name each or several with commas; `\,` is a comma that separates nothing.
    pub fn from_texts(texts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        NameList(texts.into_iter().map(|text| Entry::Text(text.into())).collect())
    }

    /// Whether nothing was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the entries is this and nothing else.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|entry| entry.as_str() == name)
    }

    /// The names, each once. What is itself a name, as `is_name` says, is taken as it stands, with its commas and the spaces around
    /// it; of the rest texts are split. One without a name is one: nobody means by it what leaving it out means.
    pub fn names(&self, mut is_name: impl FnMut(&str) -> bool) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for entry in &self.0 {
            let found = match entry {
                Entry::Name(name) | Entry::Text(name) if is_name(name) => vec![name.clone()],
                Entry::Name(name) => vec![name.trim().to_owned()],
                Entry::Text(text) => split_list(text),
            };
            for name in if found.is_empty() { vec![String::new()] } else { found } {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// The names for those who do not know what there is: every text is split.
    pub fn listed(&self) -> Vec<String> {
        let of = |entry: &Entry| match entry {
            Entry::Name(name) => vec![name.clone()],
            Entry::Text(text) => split_list(text),
        };
        self.0.iter().flat_map(of).collect()
    }
}

impl<T: Into<String>> FromIterator<T> for NameList {
    fn from_iter<I: IntoIterator<Item = T>>(names: I) -> Self {
        NameList(names.into_iter().map(|name| Entry::Name(name.into())).collect())
    }
}

impl<T: Into<String>, const N: usize> From<[T; N]> for NameList {
    fn from(names: [T; N]) -> Self {
        names.into_iter().collect()
    }
}

/// As it was given, with commas between.
impl fmt::Display for NameList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(Entry::as_str).collect::<Vec<_>>().join(","))
    }
}

/// One text stays a text, everything else is an array of names.
impl Serialize for NameList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [Entry::Text(text)] => serializer.serialize_str(text),
            _ => serializer.collect_seq(self.listed()),
        }
    }
}

impl<'de> Deserialize<'de> for NameList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> de::Visitor<'de> for Names {
            type Value = NameList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or an array of names")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<NameList, E> {
                Ok(NameList::from_texts([text]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut names: A) -> Result<NameList, A::Error> {
                let mut list = Vec::new();
                while let Some(name) = names.next_element::<String>()? {
                    list.push(Entry::Name(name));
                }
                Ok(NameList(list))
            }
        }

        deserializer.deserialize_any(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_stay_lists_and_texts_are_split() {
        let read = |json: &str| serde_json::from_str::<NameList>(json).expect(json);
        let list = read(r#"["tabby, tabby cat", "dog", "dog", "\\,"]"#);
        assert_eq!(list.names(|_| false), ["tabby, tabby cat", "dog", "\\,"]);
        assert_eq!(list, NameList::from(["tabby, tabby cat", "dog", "dog", "\\,"]));
        let text = read(r#""tabby, tabby cat, dog""#);
        assert_eq!(text.names(|_| false), ["tabby", "tabby cat", "dog"]);
        assert_eq!(read(r#""tabby, tabby cat""#).names(|text| text.starts_with("tabby")), ["tabby, tabby cat"]);
        let typed = NameList::from_texts(["tabby, tabby cat", "a,b", r"c\,d"]);
        assert_eq!(typed.names(|text| text.starts_with("tabby")), ["tabby, tabby cat", "a", "b", "c,d"]);
        assert_eq!(NameList::from_texts([" ,"]).names(|_| false), [""]);
        for list in [NameList::from(["a ", " b"]), NameList::from_texts(["a ", " b"])] {
            assert_eq!(list.names(|text| text == "a "), ["a ", "b"]);
        }
        assert!(serde_json::from_str::<NameList>("[1]").is_err());
        for list in [list, text, NameList::default()] {
            assert_eq!(read(&serde_json::to_string(&list).expect("JSON")), list);
        }
    }
}
