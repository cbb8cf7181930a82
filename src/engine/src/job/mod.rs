//! A job as written becomes a checked job: everything that can be wrong is found here, before the first sample, and reported at
//! once. Nothing here runs.

mod class_map;
mod classes;
mod field;
mod file;
mod model;
mod name_list;
mod target;

pub use class_map::ClassMapping;
pub(crate) use classes::WITH_CLASS_NAMES;
pub use classes::{MaskNames, ResolvedClasses, channel_of, known_labels, resolve_classes};
pub use field::{FieldTemplate, distinct_names};
pub use file::{JobFile, JobTable, Mistake, Origin, Setting, Text, Value, check_name, unknown};
pub use model::{DEFAULT_MODEL, ModelRef};
pub use name_list::NameList;
pub use target::{Reference, Similarity, TargetSpec};
