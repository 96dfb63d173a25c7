//! Which controller is asked, and with which token: what is said on the command line and in the environment, then what a
//! profile says, then what is usual.
//!
//! Profiles are in `$XDG_CONFIG_HOME/cps-peering/config.toml`:
//!
//! ```toml
//! [profiles.default]
//! controller = "https://192.0.2.10:7400"
//! ca = "/home/jo/cloud-ca.pem"
//! token = "…" # or: token_file = "/home/jo/peering.token", or cert = "…" and key = "…"
//! region = "cn-north-1"
//! ```

use super::{
    CliError, Global, Output,
    connection::{ClientFiles, Resolved, Token},
    output::{columns, print},
    url::base_url,
};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    env,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

const CONTROLLER: &str = "https://127.0.0.1:7400";
/// Where the CA is beside a controller or an agent.
const CA: &str = "/etc/cps-peering/tls/ca.pem";
/// Where the operators' token is beside a controller.
const OPERATOR_TOKEN: &str = "/etc/cps-peering/operator.token";
/// Holds a token, so that it need not be in a file.
const TOKEN_VARIABLE: &str = "CPS_PEERING_TOKEN";
/// The profile that is used when none is named.
const USUAL: &str = "default";

#[derive(Subcommand)]
pub(super) enum Command {
    /// List the profiles, without tokens.
    List,
    /// Keep --controller, --ca, --region, --token-file, and --cert with --key under a name, as the command line or the environment says them. What is
    /// not said stays as it is. The file is written anew: comments in it are lost.
    Set {
        /// The profile's name; `default` is used when none is named.
        name: String,
        /// Read a token from standard input, and keep it in the profile.
        #[arg(long)]
        token_stdin: bool,
    },
    /// Delete a profile.
    Remove {
        /// The profile's name.
        name: String,
    },
}

/// What the command line and the environment give.
#[derive(Debug, Default)]
pub(super) struct Told {
    controller: Option<String>,
    ca: Option<PathBuf>,
    own: Option<ClientFiles>,
    token_file: Option<PathBuf>,
    token: Option<String>,
    region: Option<String>,
    profile: Option<String>,
}

/// One profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
}

/// What the file holds.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profiles {
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

/// The file with the profiles.
#[derive(Debug)]
pub(super) struct Config {
    path: PathBuf,
}

fn refused<T>(text: impl Into<String>) -> Result<T, CliError> {
    Err(CliError::Refused(text.into()))
}

/// Reads a file that holds a token.
fn read_token(file: &Path) -> Result<String, CliError> {
    let text = fs::read_to_string(file).map_err(|error| {
        let file = file.display();
        CliError::Refused(format!("cannot read the token file {file}: {error}; name another with --token-file"))
    })?;
    Ok(text.trim().to_owned())
}

impl Told {
    /// Empty values count as absent.
    pub(super) fn read(global: Global) -> Self {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let file = |file: Option<PathBuf>| file.filter(|file| !file.as_os_str().is_empty());
        Self {
            controller: some(global.controller),
            ca: file(global.ca),
            own: file(global.cert).zip(file(global.key)).map(|(cert, key)| ClientFiles { cert, key }),
            token_file: file(global.token_file),
            token: some(env::var(TOKEN_VARIABLE).ok()),
            region: some(global.region),
            profile: some(global.profile),
        }
    }

    /// Resolves what is used.
    pub(super) fn resolve(self) -> Result<Resolved, CliError> {
        // Without a home there are no profiles, and that matters only to those who name one.
        match Config::find() {
            Ok(config) => self.resolve_with(&config),
            Err(error) if self.profile.is_some() => Err(error),
            Err(_) => self.complete(USUAL, Profile::default()),
        }
    }

    fn resolve_with(self, config: &Config) -> Result<Resolved, CliError> {
        let mut profiles = config.read()?;
        let name = self.profile.clone().unwrap_or_else(|| USUAL.to_owned());
        let profile = match profiles.profiles.remove(&name) {
            None if self.profile.is_some() => return refused(config.unknown(&name, &profiles)),
            profile => profile.unwrap_or_default(),
        };
        // A path in the file is meant from where the file is.
        let meant = |file: Option<PathBuf>| file.map(|file| config.folder().join(file));
        let (ca, cert, key) = (meant(profile.ca), meant(profile.cert), meant(profile.key));
        self.complete(&name, Profile { ca, cert, key, token_file: meant(profile.token_file), ..profile })
    }

    fn complete(self, name: &str, profile: Profile) -> Result<Resolved, CliError> {
        let of_file = |file: &Path| {
            read_token(file).map(|token| Some(Token { token, source: format!("the file {}", file.display()) }))
        };
        let its_own = profile.cert.zip(profile.key).map(|(cert, key)| ClientFiles { cert, key });
        let token = if let Some(file) = &self.token_file {
            of_file(file)?
        } else if self.own.is_some() {
            None
        } else if let Some(token) = self.token {
            let source = format!("the environment variable {TOKEN_VARIABLE}");
            Some(Token { token: token.trim().to_owned(), source })
        } else if let Some(token) = profile.token {
            Some(Token { token, source: format!("profile {name}") })
        } else if let Some(file) = &profile.token_file {
            of_file(file)?
        } else if its_own.is_some() {
            None
        } else {
            of_file(Path::new(OPERATOR_TOKEN))?
        };
        Ok(Resolved {
            controller: self.controller.or(profile.controller).unwrap_or_else(|| CONTROLLER.to_owned()),
            ca: self.ca.or(profile.ca).or_else(|| Some(PathBuf::from(CA)).filter(|file| file.exists())),
            own: self.own.or(its_own),
            token,
            region: self.region.or(profile.region),
        })
    }
}

impl Config {
    /// The file of who runs this. It need not be there.
    pub(super) fn find() -> Result<Self, CliError> {
        let folder = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let Some(base) = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config"))) else {
            return refused(
                "there is no place for profiles: neither XDG_CONFIG_HOME nor HOME is a folder's whole path",
            );
        };
        Ok(Self { path: base.join("cps-peering/config.toml") })
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    fn unknown(&self, name: &str, profiles: &Profiles) -> String {
        let known: Vec<&str> = profiles.profiles.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!("there is no profile {name} in {}; there are: {known}", self.path.display())
    }

    /// Reads the profiles. One that is not there holds none.
    fn read(&self) -> Result<Profiles, CliError> {
        const OTHERS: u32 = 0o077;
        let shown = self.path.display();
        let cannot = |error: io::Error| CliError::Refused(format!("cannot read {shown}: {error}"));
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Profiles::default()),
            Err(error) => return Err(cannot(error)),
        };
        let mode = file.metadata().map_err(cannot)?.mode();
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(cannot)?;
        let profiles: Profiles = toml::from_str(&text).map_err(|error| {
            // Not the line itself, which may be the one with the token.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            CliError::Refused(format!("{shown}, line {line}: {}", error.message().replace('\n', " ")))
        })?;
        for (name, profile) in &profiles.profiles {
            if profile.token.is_some() && profile.token_file.is_some() {
                return refused(format!("{shown}: profile {name} has both a token and a token_file; leave one"));
            }
            if profile.cert.is_some() != profile.key.is_some() {
                return refused(format!("{shown}: profile {name} has only one of cert and key; say both or none"));
            }
        }
        if mode & OTHERS != 0 && profiles.profiles.values().any(|profile| profile.token.is_some()) {
            return refused(format!(
                "{shown} holds a token and is open to others (mode {:04o}): chmod 600 {shown}",
                mode & 0o7777
            ));
        }
        Ok(profiles)
    }

    /// Writes the profiles, so that there is always a whole file and nobody else reads it.
    fn write(&self, profiles: &Profiles) -> Result<(), CliError> {
        let text = toml::to_string(profiles).map_err(|error| CliError::Refused(error.to_string()))?;
        // Of a link the file behind it is meant.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().unwrap_or(Path::new("/"));
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            // With mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|error: io::Error| CliError::Refused(format!("cannot write {}: {error}", path.display())))
    }

    fn set(&self, name: &str, told: Told, token: Option<String>) -> Result<(), CliError> {
        let mut profiles = self.read()?;
        let profile = profiles.profiles.entry(name.to_owned()).or_default();
        if let Some(controller) = told.controller {
            base_url(&controller)?;
            profile.controller = Some(controller);
        }
        let whole = |what: &str, file: &Path| {
            std::path::absolute(file).map_err(|error| CliError::Refused(format!("{what}'s path: {error}")))
        };
        if let Some(file) = told.ca {
            profile.ca = Some(whole("the CA", &file)?);
        }
        if let Some(ClientFiles { cert, key }) = told.own {
            profile.cert = Some(whole("the certificate", &cert)?);
            profile.key = Some(whole("the key", &key)?);
            // One that was kept before would go on to say who one is.
            (profile.token, profile.token_file) = (None, None);
        }
        profile.region = told.region.or(profile.region.take());
        if let Some(token) = token {
            (profile.token, profile.token_file) = (Some(token), None);
        } else if let Some(file) = told.token_file {
            (profile.token, profile.token_file) = (None, Some(whole("the token file", &file)?));
        }
        self.write(&profiles)
    }

    fn remove(&self, name: &str) -> Result<(), CliError> {
        let mut profiles = self.read()?;
        if profiles.profiles.remove(name).is_none() {
            return refused(self.unknown(name, &profiles));
        }
        self.write(&profiles)
    }
}

/// The token that stands on standard input.
fn token_from_input() -> Result<String, CliError> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| CliError::Refused(format!("cannot read a token: {error}")))?;
    match text.trim() {
        "" => refused("there is no token on standard input"),
        token => Ok(token.to_owned()),
    }
}

pub(super) fn run(config: &Config, command: Command, told: Told, output: Output) -> Result<(), CliError> {
    let done = |name: &str, what: &str| {
        let json = json!({ "profile": name, "file": config.path });
        print(output, &json, || format!("profile {name} is {what} {}", config.path.display()));
    };
    match command {
        Command::List => list(&config.read()?, told.profile.as_deref().unwrap_or(USUAL), output),
        Command::Set { name, token_stdin } => {
            if name.is_empty() {
                return Err(CliError::Usage("a profile's name is not empty".to_owned()));
            }
            let token = token_stdin.then(token_from_input).transpose()?;
            config.set(&name, told, token)?;
            done(&name, "kept in");
        }
        Command::Remove { name } => {
            config.remove(&name)?;
            done(&name, "removed from");
        }
    }
    Ok(())
}

fn list(profiles: &Profiles, used: &str, output: Output) {
    let row = |(name, profile): (&String, &Profile)| {
        json!({
            "profile": name,
            "used": name == used,
            "controller": profile.controller,
            "ca": profile.ca,
            "region": profile.region,
            "tokenFile": profile.token_file,
            "cert": profile.cert,
            "key": profile.key,
            "hasToken": profile.token.is_some(),
        })
    };
    let rows: Vec<Value> = profiles.profiles.iter().map(row).collect();
    let heading = [
        ("PROFILE", "/profile"),
        ("USED", "/used"),
        ("CONTROLLER", "/controller"),
        ("REGION", "/region"),
        ("HAS TOKEN", "/hasToken"),
        ("TOKEN FILE", "/tokenFile"),
        ("CERTIFICATE", "/cert"),
    ];
    print(output, &json!({ "profiles": rows }), || columns(&heading, &rows));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn config(text: &str, mode: u32) -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, Config { path })
    }

    const TWO: &str = "[profiles.default]\ntoken = \"d\"\nregion = \"north\"\n\
                       [profiles.work]\ncontroller = \"http://work:1\"\ntoken = \"w\"\n";

    fn named(profile: &str) -> Told {
        Told { profile: Some(profile.to_owned()), ..Told::default() }
    }

    fn said(resolved: &Resolved) -> &str {
        resolved.token.as_ref().map_or("", |token| &token.token)
    }

    #[test]
    fn a_certificate_is_used_where_no_token_is_named_before_it() {
        let text = "[profiles.default]\ntoken = \"d\"\n[profiles.work]\ncert = \"w.pem\"\nkey = \"w.key\"\n";
        let (folder, config) = config(text, 0o600);
        let of_profile = ClientFiles { cert: folder.path().join("w.pem"), key: folder.path().join("w.key") };
        let work = named("work").resolve_with(&config).unwrap();
        assert_eq!((said(&work), work.own.as_ref()), ("", Some(&of_profile)));
        let told = ClientFiles { cert: "t.pem".into(), key: "t.key".into() };
        let own = || Told { own: Some(told.clone()), token: Some("t".to_owned()), ..Told::default() };
        let usual = own().resolve_with(&config).unwrap();
        assert_eq!((said(&usual), usual.own.as_ref()), ("", Some(&told)), "before the variable and the profile");
        fs::write(folder.path().join("token"), "f").unwrap();
        let both = Told { token_file: Some(folder.path().join("token")), ..own() }.resolve_with(&config).unwrap();
        assert_eq!((said(&both), both.own.as_ref()), ("f", Some(&told)), "with a token, that says who one is");
        // What is kept is used next time, and not the token of before.
        config.set("default", own(), None).unwrap();
        let kept = Told::default().resolve_with(&config).unwrap();
        assert!(said(&kept).is_empty() && kept.own.unwrap().cert.ends_with("t.pem"));
    }

    #[test]
    fn what_is_said_wins_over_the_profile_and_the_profile_over_what_is_usual() {
        let (_folder, config) = config(TWO, 0o600);
        let usual = Told::default().resolve_with(&config).unwrap();
        assert_eq!((usual.controller.as_str(), said(&usual)), (CONTROLLER, "d"));
        assert_eq!(usual.region.as_deref(), Some("north"));
        let work = named("work").resolve_with(&config).unwrap();
        assert_eq!((work.controller.as_str(), said(&work), work.region.clone()), ("http://work:1", "w", None));
        let told = Told {
            controller: Some("http://told:2".to_owned()),
            token: Some("t".to_owned()),
            region: Some("east".to_owned()),
            ..named("work")
        };
        let told = told.resolve_with(&config).unwrap();
        assert_eq!((told.controller.as_str(), said(&told)), ("http://told:2", "t"));
        assert_eq!(told.region.as_deref(), Some("east"));
    }

    #[test]
    fn a_named_file_wins_over_the_variable_and_a_profile_may_name_one_beside_it() {
        let (folder, config) = config("[profiles.default]\ntoken_file = \"mine\"\n", 0o644);
        fs::write(folder.path().join("mine"), "m\n").unwrap();
        assert_eq!(said(&Told::default().resolve_with(&config).unwrap()), "m");
        fs::write(folder.path().join("other"), " o \n").unwrap();
        let told =
            Told { token_file: Some(folder.path().join("other")), token: Some("t".to_owned()), ..Told::default() };
        assert_eq!(said(&told.resolve_with(&config).unwrap()), "o");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_what_is_wrong() {
        let cases = [
            (TWO, 0o640, "chmod 600"),
            ("[profiles.work]\ntoken = \"w\ntoken_file = 1", 0o600, "line 2"),
            ("[profiles.work]\npassword = \"x\"", 0o600, "unknown field `password`"),
            ("[profiles.work]\ntoken = \"w\"\ntoken_file = \"f\"", 0o600, "both a token and a token_file"),
            ("[profiles.work]\ncert = \"f\"", 0o600, "only one of cert and key"),
            ("", 0o600, "there is no profile work"),
        ];
        for (text, mode, expected) in cases {
            let (_folder, config) = config(text, mode);
            let error = named("work").resolve_with(&config).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("config.toml"), "{error}");
            assert!(!error.contains("\"w"), "no token is shown: {error}");
        }
    }

    #[test]
    fn a_profile_keeps_what_is_not_said() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { path: folder.path().join("new/config.toml") };
        let told = Told { controller: Some("http://c:1".to_owned()), ..Told::default() };
        config.set("work", told, Some("secret".to_owned())).unwrap();
        config.set("work", Told { region: Some("east".to_owned()), ..Told::default() }, None).unwrap();
        let work = named("work").resolve_with(&config).unwrap();
        assert_eq!((work.controller.as_str(), said(&work)), ("http://c:1", "secret"));
        assert_eq!(work.region.as_deref(), Some("east"));
        assert_eq!(fs::metadata(&config.path).unwrap().mode() & 0o7777, 0o600);
        let wrong = Told { controller: Some("nonsense".to_owned()), ..Told::default() };
        assert!(config.set("work", wrong, None).is_err());
        config.remove("work").unwrap();
        assert!(config.remove("work").is_err());
    }
}
