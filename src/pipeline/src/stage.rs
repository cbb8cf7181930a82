//! The stages of a run, by name.

use std::fmt;

/// The stages, in the order of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Streams samples from the source.
    Read,
    /// Files to pixels, labels to masks.
    Decode,
    /// Groups samples by input shape.
    Batch,
    /// Forward, gradients, maps.
    Device,
    /// Maps to files.
    Encode,
    /// Updates to the database.
    Commit,
}

impl Stage {
    /// In the order of the flow, which is also that of their numbers.
    pub const ALL: [Stage; 6] = [Stage::Read, Stage::Decode, Stage::Batch, Stage::Device, Stage::Encode, Stage::Commit];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Read => "read",
            Stage::Decode => "decode",
            Stage::Batch => "batch",
            Stage::Device => "device",
            Stage::Encode => "encode",
            Stage::Commit => "commit",
        })
    }
}
