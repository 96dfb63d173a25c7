//! The lab's certificates, made by the CLI as an operator would.

use super::daemon::binary;
use crate::command;
use anyhow::Result;
use cps_peering_config::{
    id::HostId,
    tls::{self as names, Tls, TlsFiles},
};
use cps_peering_http::tls::{self, Identity};
use rustls::ClientConfig;
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// A CA, and what it has signed.
#[derive(Debug, Clone)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Certificates for these hosts and for a controller at this address.
    pub fn create(dir: &Path, hosts: &[&HostId], controller: IpAddr) -> Result<Pki> {
        let pki = Pki { dir: dir.join("pki") };
        pki.run(&["init"])?;
        pki.run(&["issue", "controller", "--address", &controller.to_string()])?;
        if !hosts.is_empty() {
            let mut arguments = vec!["issue", "host"];
            arguments.extend(hosts.iter().map(|host| host.as_str()));
            pki.run(&arguments)?;
        }
        Ok(pki)
    }

    /// Runs `cps-peering pki` with the lab's folder.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(binary("cps-peering")?);
        command::run(command.args(["pki", "--dir"]).arg(&self.dir).args(arguments))?.ok()
    }

    /// The CA certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A certificate and its key, by the name of the files.
    pub fn files(&self, name: &str) -> TlsFiles {
        TlsFiles {
            ca: self.ca(),
            cert: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
            crl: None,
        }
    }

    /// The setting of a host's agent.
    pub fn of_host(&self, host: &HostId) -> Tls {
        Tls::On(self.files(&format!("host-{host}")))
    }

    /// For calling a host's agent as the controller does.
    pub fn as_controller(&self, host: &HostId) -> Result<Arc<ClientConfig>> {
        Ok(Arc::new(Identity::open(&self.files("controller"))?.client_of(&names::host(host))))
    }

    /// For calling the controller as clients without a certificate do.
    pub fn as_client(&self) -> Result<Arc<ClientConfig>> {
        Ok(Arc::new(tls::client(&self.ca(), None)?))
    }
}
