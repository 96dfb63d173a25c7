//! The format of backups: a manifest, a checksum of everything, and a store.
//!
//! ```text
//! cps-peering-backup
//! {"revision":…}
//! SHA-256 of the line before and of what follows, in hexadecimal
//! the store, as a file of its own would be
//! ```
//!
//! Earlier releases made backups that are nothing but the store. They are read as well; damage in parts without content is not
//! detected.

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
/// Longer than any line before the store, in bytes.
const LONGEST: u64 = 64 * 1024;
/// The beginning of a store file.
const PLAIN: &[u8] = b"redb";

/// The manifest of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The cluster; none for a store without identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterId>,
    /// The last commit.
    pub revision: Revision,
    /// When it was made (RFC 3339).
    pub made: String,
    /// The release that made it.
    pub release: String,
    /// The number of hosts.
    pub hosts: usize,
    /// The number of VPCs.
    pub vpcs: usize,
    /// The number of peerings, ended ones included.
    pub peerings: usize,
    /// The size of the store, in bytes.
    pub bytes: u64,
}

fn damaged(path: &Path, why: impl Into<String>) -> BackupError {
    BackupError::Damaged { path: path.to_owned(), why: why.into() }
}

/// Reads to the end and returns the checksum.
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

/// Makes a backup of an unused store. It is on disk when this returns.
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

/// What precedes the store: the second line, its content, and the checksum.
type Head = (String, Manifest, String);

/// Reads what precedes the store. None if the file is just a store.
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

/// The manifest of a backup, unverified. None if an earlier release made it.
pub(super) fn inspect(path: &Path) -> Result<Option<Manifest>, BackupError> {
    Ok(begin(path)?.1.map(|(_, manifest, _)| manifest))
}

/// Extracts the store of a backup, if all of it is as it was written. Returns its manifest; none if an earlier release made it.
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
