//! Error numbers of preview 1.

use rustix::io::Errno as System;

/// As the guest gets it.
pub(super) type Errno = u16;

pub(super) const SUCCESS: i32 = 0;
pub(super) const ACCES: Errno = 2;
pub(super) const AFNOSUPPORT: Errno = 5;
pub(super) const AGAIN: Errno = 6;
pub(super) const BADF: Errno = 8;
pub(super) const FAULT: Errno = 21;
pub(super) const INPROGRESS: Errno = 26;
pub(super) const INVAL: Errno = 28;
pub(super) const IO: Errno = 29;
pub(super) const MFILE: Errno = 33;
pub(super) const NFILE: Errno = 41;
pub(super) const NOBUFS: Errno = 42;
pub(super) const NOENT: Errno = 44;
pub(super) const NOPROTOOPT: Errno = 50;
pub(super) const NOSYS: Errno = 52;
pub(super) const NOTCONN: Errno = 53;
pub(super) const NOTSOCK: Errno = 57;
pub(super) const NOTSUP: Errno = 58;
pub(super) const TIMEDOUT: Errno = 73;
pub(super) const NOTCAPABLE: Errno = 76;

/// Of a connection that has not come about, for the log.
pub(super) fn reason(errno: Errno) -> String {
    match errno {
        14 => "connection refused".to_owned(),
        15 => "connection reset".to_owned(),
        23 => "no route to host".to_owned(),
        40 => "network unreachable".to_owned(),
        NOENT => "no such file".to_owned(),
        TIMEDOUT => "timed out".to_owned(),
        other => format!("error number {other}"),
    }
}

/// What the system says of a socket, in the guest's numbers.
pub(super) fn of(error: System) -> Errno {
    match error {
        System::ACCESS => ACCES,
        System::ADDRINUSE => 3,
        System::ADDRNOTAVAIL => 4,
        System::AFNOSUPPORT => AFNOSUPPORT,
        // The same as "would block".
        System::AGAIN => AGAIN,
        System::ALREADY => 7,
        System::BADF => BADF,
        System::CONNABORTED => 13,
        System::CONNREFUSED => 14,
        System::CONNRESET => 15,
        System::DESTADDRREQ => 17,
        System::HOSTDOWN | System::HOSTUNREACH => 23,
        System::INPROGRESS => INPROGRESS,
        System::INTR => 27,
        System::INVAL => INVAL,
        System::ISCONN => 30,
        System::LOOP => 32,
        System::MFILE => MFILE,
        System::MSGSIZE => 35,
        System::NAMETOOLONG => 37,
        System::NETDOWN => 38,
        System::NETRESET => 39,
        System::NETUNREACH => 40,
        System::NFILE => NFILE,
        System::NOBUFS => NOBUFS,
        System::NOENT => NOENT,
        System::NOMEM => 48,
        System::NOPROTOOPT => NOPROTOOPT,
        System::NOTCONN => NOTCONN,
        System::NOTDIR => 54,
        System::NOTSOCK => NOTSOCK,
        System::OPNOTSUPP => NOTSUP,
        System::PERM => 63,
        System::PIPE => 64,
        System::PROTO => 65,
        System::PROTONOSUPPORT => 66,
        System::PROTOTYPE => 67,
        System::TIMEDOUT => TIMEDOUT,
        _ => IO,
    }
}
