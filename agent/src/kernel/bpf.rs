//! The `bpf` system call, as far as the underlay filter needs it (`linux/bpf.h`): a hash map, and a program that looks
//! up keys in it. The only unsafe code of the agent, besides `sockopt`.
#![expect(
    unsafe_code,
    reason = "no safe interface to bpf(2) is small enough; every pointer is to a buffer that outlives the call"
)]

use nix::libc;
use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const MAP_CREATE: i32 = 0;
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const PROG_LOAD: i32 = 5;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const MAP_LOOKUP_BATCH: i32 = 24;

const MAP_TYPE_HASH: u32 = 1;
/// Memory is allocated as entries are added.
const NO_PREALLOC: u32 = 1;
const PROG_TYPE_SCHED_CLS: u32 = 3;
/// How long the kernel may take to have memory for another entry.
const REFILL: Duration = Duration::from_millis(500);
/// How often that is retried.
const REFILL_STEP: Duration = Duration::from_millis(1);

/// The arguments of a call: `union bpf_attr`, of which no more than this is used.
#[repr(C, align(8))]
struct Attributes([u8; 128]);

impl Attributes {
    fn new() -> Self {
        Self([0; 128])
    }

    fn u32(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn fd(self, at: usize, fd: &impl AsRawFd) -> Self {
        self.u32(at, fd.as_raw_fd().cast_unsigned())
    }

    fn pointer<T>(mut self, at: usize, to: *const T) -> Self {
        self.0[at..at + 8].copy_from_slice(&(to as u64).to_ne_bytes());
        self
    }

    fn call(&mut self, command: i32) -> io::Result<RawFd> {
        // SAFETY: the kernel reads and writes at most this many bytes of the arguments. The callers below put only pointers
        // into them whose buffers are as long as the kernel takes them to be and live until the call returns.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result.try_into().unwrap_or(RawFd::MAX)) }
    }

    fn open(&mut self, command: i32) -> io::Result<OwnedFd> {
        let fd = self.call(command)?;
        // SAFETY: the kernel just made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// A set of keys of `N` bytes: a hash map whose values are ignored.
#[derive(Debug)]
pub(super) struct Set<const N: usize> {
    map: OwnedFd,
    /// Whether waiting for memory was in vain: there is no further wait until an insertion has succeeded.
    no_memory: AtomicBool,
}

impl<const N: usize> Set<N> {
    pub(super) fn create(max_entries: u32) -> io::Result<Self> {
        let mut attributes = Attributes::new()
            .u32(0, MAP_TYPE_HASH)
            .u32(4, key_len::<N>())
            .u32(8, 1)
            .u32(12, max_entries)
            .u32(16, NO_PREALLOC);
        Ok(Self { map: attributes.open(MAP_CREATE)?, no_memory: AtomicBool::new(false) })
    }

    /// Without preallocation the kernel takes entries from a per-CPU cache: 4 in a new map, and then as many as an
    /// interrupt refills when it runs low (`kernel/bpf/memalloc.c`). On CPUs that cannot interrupt themselves that is
    /// the next tick, and insertions before it fail for lack of memory although there is enough.
    pub(super) fn insert(&self, key: &[u8; N]) -> io::Result<()> {
        let began = Instant::now();
        loop {
            match self.try_insert(key) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                    if self.no_memory.load(Ordering::Relaxed) || began.elapsed() >= REFILL {
                        self.no_memory.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                    thread::sleep(REFILL_STEP);
                }
                result => {
                    self.no_memory.store(false, Ordering::Relaxed);
                    return result;
                }
            }
        }
    }

    fn try_insert(&self, key: &[u8; N]) -> io::Result<()> {
        let value = [1u8];
        let mut attributes = Attributes::new().fd(0, &self.map).pointer(8, key.as_ptr()).pointer(16, value.as_ptr());
        attributes.call(MAP_UPDATE_ELEM).map(drop)
    }

    /// Removing a missing key is not an error.
    pub(super) fn remove(&self, key: &[u8; N]) -> io::Result<()> {
        match Attributes::new().fd(0, &self.map).pointer(8, key.as_ptr()).call(MAP_DELETE_ELEM) {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) fn contains(&self, key: &[u8; N]) -> io::Result<bool> {
        let mut value = [0u8];
        let mut attributes =
            Attributes::new().fd(0, &self.map).pointer(8, key.as_ptr()).pointer(16, value.as_mut_ptr());
        match attributes.call(MAP_LOOKUP_ELEM) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Calls a function with every key.
    pub(super) fn each(&self, mut tell: impl FnMut(&[u8; N])) -> io::Result<()> {
        const COUNT: usize = 8192;
        let (mut keys, mut values) = (vec![[0u8; N]; COUNT], vec![0u8; COUNT]);
        // The kernel's cursor; none at first.
        let (mut from, mut to) = (0u32, 0u32);
        let mut first = true;
        loop {
            let begin = if first { std::ptr::null() } else { &raw const from };
            let mut attributes = Attributes::new()
                .pointer(0, begin)
                .pointer(8, &raw mut to)
                .pointer(16, keys.as_mut_ptr())
                .pointer(24, values.as_mut_ptr())
                .u32(32, u32::try_from(COUNT).expect("it is small"))
                .fd(36, &self.map);
            let result = attributes.call(MAP_LOOKUP_BATCH);
            let last = match result {
                Ok(_) => false,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
                Err(error) => return Err(error),
            };
            let count = u32::from_ne_bytes(attributes.0[32..36].try_into().expect("four bytes"));
            keys.iter().take(count as usize).for_each(&mut tell);
            if last {
                return Ok(());
            }
            (from, first) = (to, false);
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.map.as_raw_fd()
    }
}

fn key_len<const N: usize>() -> u32 {
    u32::try_from(N).expect("keys are short")
}

/// Loads a program for `cls_bpf`. Its id and name identify it on a device.
pub(super) fn load(instructions: &[u64], name: &str) -> io::Result<(OwnedFd, u32)> {
    let license = c"Apache-2.0";
    let count = u32::try_from(instructions.len()).expect("programs are short");
    let mut attributes = Attributes::new()
        .u32(0, PROG_TYPE_SCHED_CLS)
        .u32(4, count)
        .pointer(8, instructions.as_ptr())
        .pointer(16, license.as_ptr());
    let name = &name.as_bytes()[..name.len().min(15)];
    attributes.0[48..48 + name.len()].copy_from_slice(name);
    let program = attributes.open(PROG_LOAD)?;
    let mut info = [0u8; 256];
    let mut attributes = Attributes::new().fd(0, &program).u32(4, 256).pointer(8, info.as_mut_ptr());
    attributes.call(OBJ_GET_INFO_BY_FD)?;
    Ok((program, u32::from_ne_bytes(info[4..8].try_into().expect("four bytes"))))
}

/// What a program returns for a frame.
#[cfg(test)]
pub(super) fn test_run(program: RawFd, frame: &[u8]) -> io::Result<i32> {
    const PROG_TEST_RUN: i32 = 10;
    let length = u32::try_from(frame.len()).expect("frames are short");
    let mut attributes =
        Attributes::new().u32(0, program.cast_unsigned()).u32(8, length).pointer(16, frame.as_ptr()).u32(32, 1);
    attributes.call(PROG_TEST_RUN)?;
    Ok(i32::from_ne_bytes(attributes.0[4..8].try_into().expect("four bytes")))
}
