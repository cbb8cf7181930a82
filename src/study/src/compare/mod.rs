//! Two models, nights or methods on the same samples: what `camflow compare` says.
//!
//! [`pairs`] says which heatmaps belong together, [`MapPair`] reads their files, [`Comparison`] takes pair by pair in memory that does
//! not grow with their number, [`said`] draws conclusions, [`Gate`] judges, [`comparison_page`] is the HTML page.

mod aligned;
mod comparison;
mod gate;
mod maps;
mod page;
mod pairing;
mod quantity;
mod said;
mod statistics;
mod tables;

pub use aligned::{Crops, SIDE};
pub use comparison::{Agreements, Changed, Comparison, HeatmapPair, IMPROBABLE, PairedSeries, Row, SMALL};
pub use gate::{Gate, Judged, Verdict, Worse};
pub use maps::{Agreement, MapPair};
pub use page::comparison_page;
pub use pairing::{Unpaired, pairs};
pub use quantity::{Better, Quantity};
pub use said::said;
pub use statistics::{Difference, Paired, Test, holm};
pub use tables::{Subject, comparison_json, pair_header, pair_rows};
