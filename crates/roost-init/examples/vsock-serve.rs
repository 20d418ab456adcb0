//! `vsock-serve PORT PROGRAM [ARGUMENT]...`: runs the program for each
//! connection to the port, one after the other, with the connection as its
//! standard input and output.
//!
//! It gives the guest of the hypervisors' contract, a shell script, a stream where
//! the hypervisor has a vsock and no serial port.

use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;

fn main() -> io::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let port = args.next().and_then(|port| port.to_str()?.parse().ok());
    let (Some(port), Some(program)) = (port, args.next()) else {
        return Err(io::Error::other("usage: vsock-serve PORT PROGRAM ..."));
    };
    let args: Vec<_> = args.collect();
    let listener = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    listener.bind(&SockAddr::vsock(libc::VMADDR_CID_ANY, port))?;
    listener.listen(1)?;
    loop {
        let (connection, _) = listener.accept()?;
        let input = OwnedFd::from(connection.try_clone()?);
        Command::new(&program)
            .args(&args)
            .stdin(input)
            .stdout(OwnedFd::from(connection))
            .status()?;
    }
}
