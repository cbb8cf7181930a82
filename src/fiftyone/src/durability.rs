//! What the server has to promise before it answers: files are removed on its word, and a server that crashed must not bring the
//! labels back that referred to them.

use bson::{Document, doc};
use mongodb::options::{Acknowledgment, WriteConcern};

/// For an operation of the driver's.
pub(super) fn durable() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build()
}

/// The same for a command.
pub(super) fn durable_concern() -> Document {
    doc! {"w": "majority", "j": true}
}
