//! How values of a [`JobSpec`](super::JobSpec) are written: by their names and as their texts, as on the command line.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Deserializer, de};

/// A text or a number, read as a text.
struct Text<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a number")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        // `1.0` stays `1.0`.
        self.visit_str(&format!("{number:?}"))
    }
}

/// What is read from a text and written as one.
pub(crate) mod text {
    use serde::Serializer;

    use super::*;

    pub(crate) fn serialize<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_any(Text(PhantomData))
    }
}

/// The same, or nothing.
pub(crate) mod text_or_none {
    use serde::{Serialize, Serializer};

    use super::*;

    pub(crate) fn serialize<T: fmt::Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        struct Given<T>(T);

        impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Given<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text::deserialize(deserializer).map(Given)
            }
        }

        Ok(Option::<Given<T>>::deserialize(deserializer)?.map(|Given(value)| value))
    }
}

/// One of a few values, by its name.
pub(crate) mod choice {
    use schemars::{Schema, SchemaGenerator, json_schema};
    use serde::Serializer;

    use super::*;
    use camflow_names::{Choice, backticked};

    /// The value of that name.
    pub(crate) fn find<T: Choice, E: de::Error>(name: &str) -> Result<T, E> {
        let found = T::ALL.iter().copied().find(|value| value.name() == name);
        found.ok_or_else(|| E::custom(format!("it is one of {}", backticked(T::ALL.iter().map(|value| value.name())))))
    }

    pub(crate) fn serialize<T: Choice, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.name())
    }

    pub(crate) fn deserialize<'de, T: Choice, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        find(&String::deserialize(deserializer)?)
    }

    pub(crate) fn schema<T: Choice>(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": T::ALL.iter().map(|value| value.name()).collect::<Vec<_>>() })
    }
}

/// Several of them: an array, or a text with commas.
pub(crate) mod choices {
    use schemars::{Schema, SchemaGenerator, json_schema};
    use serde::Serializer;

    use super::*;
    use camflow_names::Choice;

    pub(crate) fn serialize<T: Choice, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(|value| value.name()))
    }

    pub(crate) fn deserialize<'de, T: Choice, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
        device_names(deserializer)?.iter().map(|name| choice::find(name)).collect()
    }

    pub(crate) fn schema<T: Choice>(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["array", "string"], "items": choice::schema::<T>(generator) })
    }
}

/// One text, or an array of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

/// Names that hold no commas: an array of them, or a text with commas.
pub(crate) fn device_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Texts::deserialize(deserializer)? {
        Texts::One(text) => text.split(',').map(ToOwned::to_owned).collect(),
        Texts::Several(texts) => texts,
    })
}

/// Texts that may hold commas: an array of them, or one.
pub(crate) fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Texts::deserialize(deserializer)? {
        Texts::One(text) => vec![text],
        Texts::Several(texts) => texts,
    })
}

/// A table of labels with their classes.
pub(crate) mod mappings {
    use serde::Serializer;

    use super::*;
    use crate::job::ClassMapping;

    pub(crate) fn serialize<S: Serializer>(mappings: &[ClassMapping], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(mappings.iter().map(|mapping| (&mapping.label, &mapping.class)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ClassMapping>, D::Error> {
        struct Table;

        impl<'de> de::Visitor<'de> for Table {
            type Value = Vec<ClassMapping>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of labels and classes")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut table: A) -> Result<Vec<ClassMapping>, A::Error> {
                let mut mappings = Vec::new();
                while let Some((label, class)) = table.next_entry::<String, String>()? {
                    mappings.push(ClassMapping::new(label, class).map_err(de::Error::custom)?);
                }
                Ok(mappings)
            }
        }

        deserializer.deserialize_map(Table)
    }
}
