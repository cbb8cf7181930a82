//! The driver's errors in the user's words: it appends the whole topology to what went wrong, and prints its own types.

use std::{error, fmt, ops::Deref};

use mongodb::error::{Error, ErrorKind, WriteFailure};

/// An error of the driver that says only what went wrong.
#[derive(Debug)]
pub struct DriverError(Error);

impl From<Error> for Box<DriverError> {
    fn from(error: Error) -> Self {
        Box::new(DriverError(error))
    }
}

impl Deref for DriverError {
    type Target = Error;

    fn deref(&self) -> &Error {
        &self.0
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.kind.as_ref() {
            ErrorKind::ServerSelection { message, .. } => match reasons(message).as_slice() {
                [] if message.contains("None of the available servers") => {
                    f.write_str("none of the servers takes writes now: a replica set without a primary?")
                }
                [] => f.write_str("no server answers in time"),
                reasons => f.write_str(&reasons.join("; ")),
            },
            ErrorKind::Command(error) => write!(f, "{} (error {})", error.message, error.code),
            ErrorKind::Write(WriteFailure::WriteError(error)) => write!(f, "{} (error {})", error.message, error.code),
            ErrorKind::Write(WriteFailure::WriteConcernError(error)) => write!(f, "{} (error {})", error.message, error.code),
            ErrorKind::Io(error) => error.fmt(f),
            kind => kind.fmt(f),
        }
    }
}

impl error::Error for DriverError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        None
    }
}

/// What is said of the servers in the topology, each reason once: `{ Address: h:27017, Type: Unknown, Error: Kind: I/O error: refused,
/// labels: {} }`.
fn reasons(topology: &str) -> Vec<&str> {
    let mut reasons = Vec::new();
    for said in topology.split("Error: Kind: ").skip(1) {
        let reason = said.split(", labels: ").next().unwrap_or(said).trim_start_matches("I/O error: ");
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    reasons
}

/// The server's number for what went wrong.
pub(super) fn command_code(error: &Error) -> Option<i32> {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

/// Whether somebody else has made the document meanwhile.
pub(super) fn is_duplicate(error: &Error) -> bool {
    const DUPLICATE_KEY: i32 = 11000;
    match error.kind.as_ref() {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        ErrorKind::Command(error) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topology_is_left_out() {
        let refused = |host: &str| {
            format!(
                "{{ Address: {host}, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: {{}} }}"
            )
        };
        let message = format!(
            "Server selection timeout: No available servers. Topology: {{ Type: Unknown, Servers: [ {}, {} ] }}",
            refused("127.0.0.1:9"),
            refused("127.0.0.1:8")
        );
        assert_eq!(reasons(&message), ["Connection refused (os error 111)"]);
        assert!(reasons("Server selection timeout: No available servers. Topology: { Type: Unknown, Servers: [ ] }").is_empty());
        let lost = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(Box::<DriverError>::from(Error::from(lost)).to_string(), "connection reset");
    }
}
