//! How user-mode Linux is started: on processors that have more registers than it knows, and when it dies early. On this
//! machine as it is; the statements about processors hold on any.

// There is no user-mode Linux elsewhere.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test ends there")]

use cps_peering_tests::command::run;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compiles a file of `tests/uml` as the scripts do, into a folder.
fn compiled(folder: &Path, source: &str, library: bool) -> PathBuf {
    let source = here("uml").join(source);
    let program = folder.join(source.file_stem().unwrap());
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program).arg(source);
    if library {
        cc.args(["-shared", "-fPIC"]);
    }
    run(&mut cc).unwrap().ok().unwrap();
    program
}

/// The output of `traced` for each attempt.
fn registers_with(traced: &Path, preloaded: &[&Path]) -> BTreeMap<String, (usize, String)> {
    let preloaded: Vec<&str> = preloaded.iter().map(|it| it.to_str().unwrap()).collect();
    let told = run(Command::new(traced).env("LD_PRELOAD", preloaded.join(":"))).unwrap().ok().unwrap();
    let line = |line: &str| {
        let (what, state) = line.split_once(": ").unwrap();
        let (name, size) = what.split_once(' ').unwrap();
        (name.to_owned(), (size.parse().unwrap(), state.to_owned()))
    };
    told.lines().map(line).collect()
}

#[test]
fn registers_can_be_set_from_fewer_bytes_than_the_processor_has() {
    let folder = tempfile::tempdir().unwrap();
    let traced = compiled(folder.path(), "test/traced.c", false);
    let library = compiled(folder.path(), "xstate.c", true);
    let amx = compiled(folder.path(), "test/amx.c", true);
    let avx = std::arch::is_x86_feature_detected!("avx");
    let of_short = if avx { "xmm0=set ymm0=initial" } else { "xmm0=set ymm0=none" };

    // This machine's processor, and one with AMX.
    for kernel in [&[][..], &[&*amx]] {
        let bare = registers_with(&traced, kernel);
        let mended = registers_with(&traced, &[&[&*library], kernel].concat());
        for name in ["short", "half", "most"] {
            assert_eq!(bare[name].1, "EFAULT", "the kernel takes {name} by itself");
        }
        assert!(mended["whole"].1.starts_with("xmm0=set") && mended["whole"] == bare["whole"], "{mended:?} {bare:?}");
        assert_eq!(mended["short"], (576, of_short.to_owned()));
        // A component of which only a part was given gets its initial state.
        assert_eq!(mended["half"], (704, of_short.to_owned()));
        let whole = avx && mended["most"].0 >= 832;
        assert_eq!(mended["most"].1, if whole { "xmm0=set ymm0=set" } else { of_short }, "{mended:?}");
        // The content of such bytes is unknown.
        assert_eq!(mended["tiny"].1, "EFAULT");
    }
}

/// `tests/kernel COMMAND` on user-mode Linux.
fn user_mode(command: &[&str], variables: &[(&str, &OsStr)]) -> cps_peering_tests::command::Ended {
    let mut kernel = Command::new(here("kernel"));
    kernel.args(command).env("KERNEL_KIND", "user-mode").env("KERNEL_TIMEOUT", "60").env("KERNEL_MEMORY", "128M");
    run(kernel.envs(variables.iter().copied())).unwrap()
}

#[test]
fn user_mode_linux_runs_on_a_processor_with_amx() {
    let folder = tempfile::tempdir().unwrap();
    let amx = compiled(folder.path(), "test/amx.c", true);
    // Words with spaces, both outputs and the exit status come through, as on any.
    let script = "echo \"$0 on $(uname -m)\"; echo no >&2; exit 3";
    // The newer kernel where it was fetched, and this machine's own.
    for kernel in ["", "system"] {
        let variables = [("LD_PRELOAD", amx.as_os_str()), ("CPS_PEERING_KERNEL", OsStr::new(kernel))];
        let ended = user_mode(&["bash", "-c", script, "two  words"], &variables);
        let told = (ended.status.code(), ended.stdout.as_str(), ended.stderr.as_str());
        assert_eq!(told, (Some(3), "two  words on x86_64\n", "no\n"), "{kernel}");
    }
}

#[test]
fn a_kernel_that_dies_before_the_command_is_explained_before_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let stub = folder.path().join("linux.uml");
    fs::write(&stub, "#!/bin/sh\necho 'Kernel panic - not syncing'\nkill -ABRT $$\n").unwrap();
    fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let variables = [("PATH", OsStr::new(&path)), ("CPS_PEERING_KERNEL", OsStr::new("system"))];
    let ended = user_mode(&["true"], &variables);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(70), ""));
    let (first, last) = ended.stderr.split_once('\n').unwrap();
    for told in ["tests/kernel: user-mode Linux (", "before the command began", "`modprobe vrf`", "/proc/cpuinfo"] {
        assert!(first.contains(told), "{told:?} is not in {first:?}");
    }
    assert_eq!(last, "Kernel panic - not syncing\n");
}
