//! A minimal Debian as a disk image, made once; the machines of a test use copies of it.

use anyhow::{Context, Result};
use cps_peering_tests::command::run;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Packages to install besides the minimum. Another list makes another folder.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,iputils-ping,kmod,udev,init-system-helpers,\
    etcd-server,etcd-client,curl";
const RELEASE: &str = "bookworm";
/// The disk, and the folder of this machine that a test machine sees.
const FSTAB: &str = "/dev/ubda / ext4 noatime,nobarrier 0 1\nnone /test hostfs defaults 0 0\n";
/// The possible machines, and their underlay addresses.
pub(crate) const HOSTS: [(&str, &str); 2] = [("h1", "192.0.2.1"), ("h2", "192.0.2.2")];
/// What a test machine does not need, and would only take time to copy or to start.
const SUPERFLUOUS: &str = "usr/share/doc usr/share/man usr/share/locale usr/share/info var/lib/apt/lists var/cache/apt";
const MASKED: &str = "getty@tty1.service systemd-logind.service e2scrub_reap.service apt-daily.timer \
    apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-timesyncd.service";

/// The workspace's build folder.
pub(crate) fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target")
}

/// Runs a script in a folder. Its files are readable by everyone, whatever the caller's umask is.
fn shell(folder: &Path, script: &str) -> Result<String> {
    let script = format!("umask 022\n{script}");
    run(Command::new("bash").args(["-euo", "pipefail", "-c", &script]).current_dir(folder))?.ok()
}

/// Adds the program that receives a test machine's commands, see `Machine`.
const SHELL: &str = "stty -F /dev/tty1 raw -echo
echo ready
while read -r number; do
    bash /test/$number.sh >/test/$number.out 2>/test/$number.err </dev/null
    echo \"$number $?\"
done
";
const SHELL_UNIT: &str = "[Unit]
After=multi-user.target
RequiresMountsFor=/test
[Service]
ExecStart=/bin/bash /usr/local/sbin/test-shell
StandardInput=tty-force
StandardOutput=tty
StandardError=journal
TTYPath=/dev/tty1
[Install]
WantedBy=multi-user.target
";

/// The image that machines copy. Built if it is missing, which takes a minute and the network.
pub(crate) fn image() -> Result<PathBuf> {
    let modules = shell(&target(), "CPS_PEERING_KERNEL=system ../tests/uml/start --modules")?;
    let modules = modules.trim();
    let kernel = shell(&target(), &format!("ls '{modules}'"))?;
    let kernel = kernel.trim();
    let folder = target().join("system");
    let (image, recipe) = (folder.join("debian.ext4"), folder.join("recipe"));
    // Its sources: another recipe makes another image.
    let wanted = format!("kernel {kernel}\n{}", include_str!("tree.rs"));
    if image.exists() && fs::read_to_string(&recipe).is_ok_and(|recipe| recipe == wanted) {
        return Ok(image);
    }
    let new = tempfile::Builder::new().prefix("new.").tempdir_in(target())?;
    let tree = new.path().join("tree");
    fs::create_dir_all(&folder)?;
    if recipe.exists() {
        fs::remove_file(&recipe)?;
    }
    // The mirror is the one that this machine uses.
    shell(
        new.path(),
        &format!(
            "mirror=$(apt-get indextargets --format '$(SITE)' 2>/dev/null | grep -m 1 '/debian$' || true)
        debootstrap --variant=minbase --include={PACKAGES} {RELEASE} tree ${{mirror:+\"$mirror\"}} >tree.log 2>&1 ||
            {{ tail -20 tree.log >&2; exit 1; }}
        cd tree
        rm -rf {SUPERFLUOUS}
        mkdir -p lib/modules/{kernel}/kernel/drivers test var/log/journal
        from='{modules}/{kernel}' to=lib/modules/{kernel}
        cp -a \"$from\"/modules.* $to
        cp -a \"$from\"/kernel/{{net,lib,crypto}} $to/kernel
        cp -a \"$from/kernel/drivers/net\" $to/kernel/drivers
        chroot . depmod {kernel}
        echo force-unsafe-io >etc/dpkg/dpkg.cfg.d/test
        # Each machine makes up its own; Ethernet addresses follow from it.
        : >etc/machine-id
        # For one chapter, and not before.
        rm -f etc/systemd/system/*.wants/etcd*.service etc/systemd/system/etcd2.service
        for unit in {MASKED}; do ln -sf /dev/null etc/systemd/system/$unit; done
        mkdir -p etc/systemd/system/multi-user.target.wants
        ln -s /etc/systemd/system/test-shell.service etc/systemd/system/multi-user.target.wants
        ln -s /lib/systemd/system/systemd-networkd.service etc/systemd/system/multi-user.target.wants"
        ),
    )
    .context("the minimal Debian")?;
    fs::write(tree.join("etc/fstab"), FSTAB)?;
    fs::write(tree.join("usr/local/sbin/test-shell"), SHELL)?;
    fs::write(tree.join("etc/systemd/system/test-shell.service"), SHELL_UNIT)?;
    for (host, address) in HOSTS {
        // Without KeepConfiguration the address is removed for a moment whenever networkd is restarted.
        let network = format!(
            "[Match]\nName=vec0\nHost={host}\n[Network]\nAddress={address}/24\n{}\n",
            "LinkLocalAddressing=no\nIPv6AcceptRA=no\nKeepConfiguration=static"
        );
        fs::write(tree.join(format!("etc/systemd/network/50-{host}.network")), network)?;
    }
    shell(new.path(), "mkfs.ext4 -q -F -d tree image 1G")?;
    fs::rename(new.path().join("image"), &image)?;
    fs::write(recipe, wanted)?;
    Ok(image)
}
