//! Trying again after a lost connection. Everything that camflow asks of the database may be asked twice.

use std::{thread::sleep, time::Duration};

use super::error::Error;

/// Waits between the attempts. With the ten seconds that the driver looks for a server each time, a server may be away
/// for more than a minute, as it is while it restarts or a replica set elects another primary.
const WAITS: [Duration; 5] =
    [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];

pub(super) fn with_retries<T>(attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    retry(&WAITS, attempt)
}

fn retry<T>(waits: &[Duration], mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for wait in waits {
        match attempt() {
            Err(error) if error.is_transient() => sleep(*wait),
            done => return done,
        }
    }
    attempt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Error {
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        Error::driver("testing", mongodb::error::Error::from(io))
    }

    fn attempts(mut results: Vec<Result<u8, Error>>) -> (Result<u8, Error>, usize) {
        let all = results.len();
        let result = retry(&[Duration::ZERO; 2], || results.remove(0));
        (result, all - results.len())
    }

    #[test]
    fn a_lost_connection_is_tried_again() {
        let (result, used) = attempts(vec![Err(lost()), Err(lost()), Ok(1)]);
        assert_eq!((result.unwrap(), used), (1, 3));
        let (result, used) = attempts(vec![Err(lost()), Err(lost()), Err(lost()), Ok(1)]);
        assert!(result.is_err());
        assert_eq!(used, 3);
    }

    #[test]
    fn other_errors_are_final() {
        let (result, used) = attempts(vec![Err(Error::DatasetGone { name: "d".into() }), Ok(1)]);
        assert!(result.is_err());
        assert_eq!(used, 1);
    }
}
