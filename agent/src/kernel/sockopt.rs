//! Socket options without a safe wrapper.

use nix::libc;
use std::{io, os::fd::RawFd};

/// Fills `value`, which also holds the request. An answer of another length is an error.
#[expect(unsafe_code, reason = "no safe wrapper exists for options of variable length")]
pub(super) fn get(socket: RawFd, level: libc::c_int, option: libc::c_int, value: &mut [u8]) -> io::Result<()> {
    let expected = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    let mut length = expected;
    // SAFETY: the pointer and the length are those of one exclusive slice; the kernel writes no more than `length` bytes.
    let result = unsafe { libc::getsockopt(socket, level, option, value.as_mut_ptr().cast(), &raw mut length) };
    match result {
        0 if length == expected => Ok(()),
        0 => Err(io::Error::other(format!("{length} bytes instead of {expected}"))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets a numeric option that has no safe wrapper.
#[expect(unsafe_code, reason = "no safe wrapper exists for this option")]
pub(super) fn set(socket: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length are those of one number, which the kernel only reads.
    let result = unsafe { libc::setsockopt(socket, level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
