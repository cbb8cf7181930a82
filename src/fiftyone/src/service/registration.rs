//! Registering as a client of FiftyOne's service. The service ends with its last registered client; a program that
//! merely holds a connection to mongod is none, and would lose the database when the user closes the last Python.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// The service answers from memory; a longer silence means that it hangs or that something else has its port.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Registered,
    /// A pickled exception: the service is ending, or does not see the process.
    Refused,
}

/// Registers the process at the service that listens on this port. The service watches the process itself, so nothing
/// needs to be said when it leaves.
pub(super) fn register(port: u16, pid: u32) -> io::Result<Reply> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(&message(pid))?;
    let mut reply = Vec::new();
    // The service closes the connection after its one reply; an exception's pickle is a few hundred bytes.
    stream.take(1 << 16).read_to_end(&mut reply)?;
    Ok(classify(&reply))
}

/// Python's `pickle.dumps(("register", pid), protocol=0)`, in its shortest form: mark, unicode string, integer, tuple,
/// stop.
fn message(pid: u32) -> Vec<u8> {
    format!("(Vregister\nI{pid}\nt.").into_bytes()
}

/// `pickle.dumps(True)` is the protocol's header, the opcode of `True`, and stop; only the protocol's number varies
/// with the Python that runs the service.
fn classify(reply: &[u8]) -> Reply {
    match reply {
        [0x80, _protocol, 0x88, b'.'] => Reply::Registered,
        _ => Reply::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_a_pickle() {
        assert_eq!(message(1234), b"(Vregister\nI1234\nt.");
    }

    #[test]
    fn only_true_means_registered() {
        assert_eq!(classify(&[0x80, 0x04, 0x88, 0x2e]), Reply::Registered);
        assert_eq!(classify(&[0x80, 0x05, 0x88, 0x2e]), Reply::Registered);
        // False, nothing, and the start of an exception.
        for reply in [&[0x80, 0x04, 0x89, 0x2e][..], &[], b"\x80\x04\x95)\x00\x00\x00"] {
            assert_eq!(classify(reply), Reply::Refused);
        }
    }

    #[test]
    fn a_service_is_asked_once_and_answers_once() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 17];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(&[0x80, 0x04, 0x88, 0x2e]).unwrap();
            asked
        });
        assert_eq!(register(port, 42).unwrap(), Reply::Registered);
        assert_eq!(&service.join().unwrap(), b"(Vregister\nI42\nt.");
    }
}
