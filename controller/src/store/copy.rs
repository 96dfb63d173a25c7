//! The file of a copy: what it is of, a checksum of all of it, and a store.
//!
//! ```text
//! cps-peering-backup
//! {"revision":…}
//! SHA-256 of the line before and of what follows, in hexadecimal
//! the store, as a file of its own would be
//! ```
//!
//! Earlier releases made a copy that is nothing but the store. It is read as well; damage in parts of it that hold nothing is not
//! noticed.

use super::backup_error::{BackupError, failed};
use cps_peering_config::{Revision, cluster::ClusterId, format};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Read, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// The first line.
const MAGIC: &str = "cps-peering-backup";
/// Longer than any line before the store is, in bytes.
const LONGEST: u64 = 64 * 1024;
/// How a store begins that is a file of its own.
const PLAIN: &[u8] = b"redb";

/// What a copy is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The cluster; none of a store that has no identity yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// The last commit.
    pub revision: Revision,
    /// When it was made, as RFC 3339 has it.
    pub made: String,
    /// The release that made it.
    pub release: String,
    /// How many hosts there are in it.
    pub hosts: usize,
    /// How many VPCs.
    pub vpcs: usize,
    /// How many peerings, ended ones included.
    pub peerings: usize,
    /// How long the store in it is, in bytes.
    pub bytes: u64,
}

fn damaged(path: &Path, why: impl Into<String>) -> BackupError {
    BackupError::Damaged { path: path.to_owned(), why: why.into() }
}

/// Reads to the end and tells what the checksum is.
fn checksum(
    first: &str,
    rest: &mut impl Read,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(String, u64)> {
    let mut context = Context::new(&SHA256);
    context.update(first.as_bytes());
    let (mut buffer, mut length) = (vec![0; 1 << 16], 0);
    loop {
        let count = match rest.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        context.update(&buffer[..count]);
        length += count as u64;
        each(&buffer[..count])?;
    }
    Ok((crate::digest::hex(context.finish().as_ref()), length))
}

/// Makes a copy of a store that nobody uses. It is on disk when this returns.
pub(super) fn pack(store: &Path, manifest: &Manifest, to: &Path) -> Result<(), BackupError> {
    let json = serde_json::to_string(manifest).map_err(io::Error::from).map_err(failed("describe", to))?;
    let first = format!("{json}\n");
    let open = || File::open(store).map_err(failed("read", store));
    let (sum, _) = checksum(&first, &mut open()?, |_| Ok(())).map_err(failed("read", store))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed("make", to))?;
    let mut file = BufWriter::new(file);
    let mut write = || {
        write!(file, "{MAGIC}\n{first}{sum}\n")?;
        io::copy(&mut open().map_err(io::Error::other)?, &mut file)?;
        file.flush()?;
        file.get_ref().sync_all()
    };
    write().map_err(failed("write", to))
}

/// What is before the store: the second line, what that says, and the checksum.
type Head = (String, Manifest, String);

/// Reads what is before the store. None where the file is a store and nothing else.
fn begin(path: &Path) -> Result<(BufReader<File>, Option<Head>), BackupError> {
    let file = File::open(path).map_err(failed("read", path))?;
    let mut file = BufReader::new(file);
    if file.fill_buf().map_err(failed("read", path))?.starts_with(PLAIN) {
        return Ok((file, None));
    }
    let mut line = || -> Result<String, BackupError> {
        let mut line = Vec::new();
        (&mut file).take(LONGEST).read_until(b'\n', &mut line).map_err(failed("read", path))?;
        String::from_utf8(line).map_err(|_| damaged(path, "it is not a backup: its header is missing"))
    };
    if line()? != format!("{MAGIC}\n") {
        return Err(damaged(path, "it is not a backup: its header is missing"));
    }
    let (first, sum) = (line()?, line()?);
    let manifest = format::read(first.as_bytes()).map_err(|error| damaged(path, error.to_string()))?;
    Ok((file, Some((first, manifest, sum))))
}

/// What a copy says that it is of, unchecked. None where an earlier release made it.
pub(super) fn inspect(path: &Path) -> Result<Option<Manifest>, BackupError> {
    Ok(begin(path)?.1.map(|(_, manifest, _)| manifest))
}

/// Takes the store out of a copy, if all of it is as it was written. What it is of; none where an earlier release made it.
pub(super) fn unpack(path: &Path, to: &Path) -> Result<Option<Manifest>, BackupError> {
    let (mut file, head) = begin(path)?;
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to);
    let mut out = out.map_err(failed("make", to))?;
    let first = head.as_ref().map_or("", |(first, ..)| first);
    let (found, length) = checksum(first, &mut file, |part| out.write_all(part)).map_err(failed("copy", path))?;
    out.sync_all().map_err(failed("write", to))?;
    let Some((_, manifest, sum)) = head else { return Ok(None) };
    if sum != format!("{found}\n") {
        let cut = if length < manifest.bytes { ", and is cut off" } else { "" };
        return Err(damaged(path, format!("its checksum is another{cut}")));
    }
    Ok(Some(manifest))
}
