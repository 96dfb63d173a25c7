//! Programs of another release than this workspace's.

use super::Daemon;
use anyhow::{Context, Result, ensure};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The programs of a release, with the settings that it was shipped with.
#[derive(Debug)]
pub struct Release {
    folder: PathBuf,
}

impl Release {
    /// The previous release. `tests/previous` builds it; the variable `CPS_PEERING_PREVIOUS` holds its folder.
    pub fn previous() -> Result<Release> {
        let built =
            "CPS_PEERING_PREVIOUS is not set: CPS_PEERING_PREVIOUS=$(tests/previous) runs this with the release before";
        let folder = PathBuf::from(env::var_os("CPS_PEERING_PREVIOUS").context(built)?);
        ensure!(folder.join("cps-peering-agent").is_file(), "{} holds no programs", folder.display());
        Ok(Release { folder })
    }

    /// Makes a daemon one of this release, or of this workspace. Its settings are as after a downgrade: without those
    /// that the release does not know.
    pub(super) fn use_for(release: Option<&Release>, daemon: &mut Daemon, settings: &Path) -> Result<()> {
        daemon.use_programs_of(release.map(|release| &*release.folder))?;
        // As they were written first.
        let whole = settings.with_extension("whole");
        if !whole.exists() {
            fs::copy(settings, &whole)?;
        }
        let text = fs::read_to_string(&whole)?;
        let text = match release {
            None => text,
            Some(release) => {
                let shipped = fs::read_to_string(release.folder.join(format!("{}.toml", daemon.kind())))?;
                known(&text, &shipped)?
            }
        };
        Ok(fs::write(settings, text)?)
    }
}

/// Settings without those that are missing in the shipped file, which contains each, if only in a comment.
fn known(settings: &str, shipped: &str) -> Result<String> {
    let mut table: toml::Table = toml::from_str(settings)?;
    let names = |line: &str, key: &str| {
        let line = line.trim_start_matches(['#', ' ', '[']);
        line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', '=', ']', '.']))
    };
    table.retain(|key, _| shipped.lines().any(|line| names(line, key)));
    Ok(toml::to_string(&table)?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn settings_that_a_release_does_not_know_are_left_out() {
        let shipped = "listen = \"a\"\n# resync_s = 60\n# [connections]\n# total = 1\n";
        let settings = "listen = 'b'\nresync_s = 5\nresync = 7\nnews = 1\n[connections]\ntotal = 3\n[more]\nx = 1\n";
        let kept: toml::Table = toml::from_str(&super::known(settings, shipped).unwrap()).unwrap();
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["connections", "listen", "resync_s"]);
    }
}
