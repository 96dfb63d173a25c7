//! Which controller is called, and with which credentials. The command line takes precedence, with the profile that it names; then
//! the environment; then the default profile; then built-in defaults. So nothing in the environment redirects a command whose
//! line names a controller or a profile.
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
    CliError, Global, Said,
    connection::{ClientFiles, Resolved, Token},
    url::base_url,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    env,
    fs::{self, DirBuilder, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

const CONTROLLER: &str = "https://127.0.0.1:7400";
/// The CA on a controller's or an agent's machine.
const CA: &str = "/etc/cps-peering/tls/ca.pem";
/// The operators' token on a controller's machine.
const OPERATOR_TOKEN: &str = "/etc/cps-peering/operator.token";
/// Holds a token, so that it need not be in a file.
const TOKEN_VARIABLE: &str = "CPS_PEERING_TOKEN";
/// The profile that is used if none is named.
const USUAL: &str = "default";

/// The values from one source: the command line, the environment, or a profile.
#[derive(Debug, Clone, Default)]
struct Given {
    controller: Option<String>,
    ca: Option<PathBuf>,
    own: Option<ClientFiles>,
    token_file: Option<PathBuf>,
    token: Option<String>,
    region: Option<String>,
}

/// The values from the command line and the environment.
#[derive(Debug, Clone, Default)]
pub(super) struct Overrides {
    line: Given,
    environment: Given,
    profile: Option<String>,
    /// Whether the profile is named on the command line.
    profile_on_line: bool,
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

/// The content of the file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profiles {
    #[serde(default)]
    profiles: BTreeMap<String, Profile>,
}

/// The file with the profiles.
#[derive(Debug)]
pub(super) struct Config {
    /// The file.
    pub(super) path: PathBuf,
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

impl Overrides {
    /// Empty values count as absent.
    pub(super) fn read(global: Global, said: Said) -> Self {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        let file = |file: Option<PathBuf>| file.filter(|file| !file.as_os_str().is_empty());
        let mut told = Self { profile_on_line: said.profile, profile: some(global.profile), ..Self::default() };
        // Each can come from either source.
        told.place(said.controller).controller = some(global.controller);
        told.place(said.ca).ca = file(global.ca);
        let own = file(global.cert).zip(file(global.key));
        told.place(said.cert).own = own.map(|(cert, key)| ClientFiles { cert, key });
        told.place(said.token_file).token_file = file(global.token_file);
        told.place(said.region).region = some(global.region);
        told.environment.token = some(env::var(TOKEN_VARIABLE).ok());
        told
    }

    fn place(&mut self, on_line: bool) -> &mut Given {
        if on_line { &mut self.line } else { &mut self.environment }
    }

    /// All values that were given, from whichever source, without the profile: to be saved in one.
    fn said(self) -> Given {
        let Self { line, environment, .. } = self;
        Given {
            controller: line.controller.or(environment.controller),
            ca: line.ca.or(environment.ca),
            own: line.own.or(environment.own),
            token_file: line.token_file.or(environment.token_file),
            token: None,
            region: line.region.or(environment.region),
        }
    }

    /// The profile that is named, else the default one.
    pub(super) fn profile_name(&self) -> &str {
        self.profile.as_deref().unwrap_or(USUAL)
    }

    /// The same with a token that was just entered.
    pub(super) fn with_token(mut self, token: &str) -> Self {
        self.line.token = Some(token.to_owned());
        (self.line.token_file, self.line.own) = (None, None);
        self
    }

    /// The same without credentials.
    pub(super) fn without_credentials(mut self) -> Self {
        for given in [&mut self.line, &mut self.environment] {
            (given.token, given.token_file, given.own) = (None, None, None);
        }
        self
    }

    /// The effective settings, where the named profile need not exist yet.
    pub(super) fn resolve_new(mut self) -> Result<Resolved, CliError> {
        let config = Config::find()?;
        if !config.read()?.profiles.contains_key(self.profile_name()) {
            self.profile = None;
            return self.complete(USUAL, Profile::default());
        }
        self.resolve_with(&config)
    }

    /// The effective settings.
    pub(super) fn resolve(self) -> Result<Resolved, CliError> {
        // Without a home directory there are no profiles, which matters only if one is named.
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
        // Paths in the file are relative to its folder.
        let meant = |file: Option<PathBuf>| file.map(|file| config.folder().join(file));
        let (ca, cert, key) = (meant(profile.ca), meant(profile.cert), meant(profile.key));
        self.complete(&name, Profile { ca, cert, key, token_file: meant(profile.token_file), ..profile })
    }

    fn complete(self, name: &str, profile: Profile) -> Result<Resolved, CliError> {
        let of_file = |file: &Path| {
            read_token(file).map(|token| Some(Token { token, source: format!("the file {}", file.display()) }))
        };
        let own = profile.cert.zip(profile.key).map(|(cert, key)| ClientFiles { cert, key });
        let kept = Given {
            controller: profile.controller,
            ca: profile.ca,
            own: own.clone().filter(|_| profile.token.is_none()),
            token_file: profile.token_file,
            token: profile.token,
            region: profile.region,
        };
        // With a token, the certificate is only used for TLS.
        let beside = own;
        let of_profile = format!("profile {name}");
        let (line, variable) = ("the input".to_owned(), format!("the environment variable {TOKEN_VARIABLE}"));
        let (environment, kept) = ((self.environment, variable), (kept, of_profile));
        let later = if self.profile_on_line { [kept, environment] } else { [environment, kept] };
        let [first, second] = later;
        let places = [(self.line, line), first, second];
        // The first source with credentials authenticates the caller.
        let says = places.iter().find(|(it, _)| it.token_file.is_some() || it.own.is_some() || it.token.is_some());
        let token = match says {
            Some((Given { token_file: Some(file), .. }, _)) => of_file(file)?,
            Some((Given { own: Some(_), .. }, _)) => None,
            Some((Given { token: Some(token), .. }, source)) => {
                Some(Token { token: token.trim().to_owned(), source: source.clone() })
            }
            _ => no_token(of_file(Path::new(OPERATOR_TOKEN)))?,
        };
        let [one, two, three] = places.map(|(given, _)| given);
        let controller = one.controller.or(two.controller).or(three.controller);
        Ok(Resolved {
            controller: controller.unwrap_or_else(|| CONTROLLER.to_owned()),
            ca: one.ca.or(two.ca).or(three.ca).or_else(|| Some(PathBuf::from(CA)).filter(|file| file.exists())),
            own: one.own.or(two.own).or(three.own).or(beside),
            token,
            region: one.region.or(two.region).or(three.region),
        })
    }
}

/// A caller without any credentials is told how to get some.
fn no_token(read: Result<Option<Token>, CliError>) -> Result<Option<Token>, CliError> {
    read.map_err(|error| {
        CliError::Refused(format!("no credentials found: `cps-peering login` saves a token in a profile ({error})"))
    })
}

impl Config {
    /// The user's own file. It need not exist.
    pub(super) fn find() -> Result<Self, CliError> {
        let folder = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let Some(base) = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config"))) else {
            return refused("cannot locate the profiles: neither XDG_CONFIG_HOME nor HOME is set to an absolute path");
        };
        Ok(Self { path: base.join("cps-peering/config.toml") })
    }

    /// The settings of each profile, without tokens.
    pub(super) fn describe(&self, used: &str) -> Result<Vec<Value>, CliError> {
        let describe = |(name, profile): (&String, &Profile)| {
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
        Ok(self.read()?.profiles.iter().map(describe).collect())
    }

    /// The names of all profiles.
    pub(super) fn names(&self) -> Result<Vec<String>, CliError> {
        Ok(self.read()?.profiles.into_keys().collect())
    }

    /// Where the file is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    fn unknown(&self, name: &str, profiles: &Profiles) -> String {
        let known: Vec<&str> = profiles.profiles.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        format!("there is no profile {name} in {}; there are: {known}", self.path.display())
    }

    /// Reads the profiles. A missing file holds none.
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
            // Not the line itself, which may contain the token.
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

    /// Writes the profiles, readable by the user only.
    fn write(&self, profiles: &Profiles) -> Result<(), CliError> {
        let text = toml::to_string(profiles).map_err(|error| CliError::Refused(error.to_string()))?;
        // If it is a symbolic link, the file behind it is replaced.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let folder = path.parent().unwrap_or(Path::new("/"));
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            cps_peering_file::replace_shared(&path, 0o600, text.as_bytes())
        };
        write().map_err(|error: io::Error| CliError::Refused(format!("cannot write {}: {error}", path.display())))
    }

    /// Saves what was given in a profile.
    pub(super) fn set(&self, name: &str, told: Overrides, token: Option<String>) -> Result<(), CliError> {
        let told = told.said();
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
            // A token saved before would continue to authenticate the caller.
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

    /// Removes a profile.
    pub(super) fn remove(&self, name: &str) -> Result<(), CliError> {
        let mut profiles = self.read()?;
        if profiles.profiles.remove(name).is_none() {
            return refused(self.unknown(name, &profiles));
        }
        self.write(&profiles)
    }
}

/// Reads a token from standard input.
pub(super) fn token_from_input() -> Result<String, CliError> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| CliError::Refused(format!("cannot read a token: {error}")))?;
    match text.trim() {
        "" => refused("there is no token on standard input"),
        token => Ok(token.to_owned()),
    }
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

    fn named(profile: &str) -> Overrides {
        Overrides { profile: Some(profile.to_owned()), ..Overrides::default() }
    }

    /// Values from the environment.
    fn environment(given: Given) -> Overrides {
        Overrides { environment: given, ..Overrides::default() }
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
        let own = || Given { own: Some(told.clone()), token: Some("t".to_owned()), ..Given::default() };
        let usual = environment(own()).resolve_with(&config).unwrap();
        assert_eq!((said(&usual), usual.own.as_ref()), ("", Some(&told)), "before the variable and the profile");
        fs::write(folder.path().join("token"), "f").unwrap();
        let both = Given { token_file: Some(folder.path().join("token")), ..own() };
        let both = environment(both).resolve_with(&config).unwrap();
        assert_eq!((said(&both), both.own.as_ref()), ("f", Some(&told)), "with a token, that says who one is");
        // What was saved is used next time, and not the previous token.
        config.set("default", environment(own()), None).unwrap();
        let kept = Overrides::default().resolve_with(&config).unwrap();
        assert!(said(&kept).is_empty() && kept.own.unwrap().cert.ends_with("t.pem"));
    }

    #[test]
    fn what_is_said_wins_over_the_profile_and_the_profile_over_what_is_usual() {
        let (_folder, config) = config(TWO, 0o600);
        let usual = Overrides::default().resolve_with(&config).unwrap();
        assert_eq!((usual.controller.as_str(), said(&usual)), (CONTROLLER, "d"));
        assert_eq!(usual.region.as_deref(), Some("north"));
        let work = named("work").resolve_with(&config).unwrap();
        assert_eq!((work.controller.as_str(), said(&work), work.region.clone()), ("http://work:1", "w", None));
        let given = || Given {
            controller: Some("http://told:2".to_owned()),
            token: Some("t".to_owned()),
            region: Some("east".to_owned()),
            ..Given::default()
        };
        let told = Overrides { environment: given(), ..named("work") }.resolve_with(&config).unwrap();
        assert_eq!((told.controller.as_str(), said(&told)), ("http://told:2", "t"));
        assert_eq!(told.region.as_deref(), Some("east"));
        // A profile on the command line wins over the environment; what it does not set comes from there.
        let told = Overrides { environment: given(), profile_on_line: true, ..named("work") };
        let told = told.resolve_with(&config).unwrap();
        assert_eq!((told.controller.as_str(), said(&told)), ("http://work:1", "w"));
        assert_eq!(told.region.as_deref(), Some("east"));
        // Other values on the command line win over both.
        let line = || Given {
            controller: Some("http://line:3".to_owned()),
            region: Some("west".to_owned()),
            ..Given::default()
        };
        let told = Overrides { line: line(), environment: given(), profile_on_line: true, ..named("work") };
        let told = told.resolve_with(&config).unwrap();
        assert_eq!((told.controller.as_str(), said(&told)), ("http://line:3", "w"));
        assert_eq!(told.region.as_deref(), Some("west"));
    }

    #[test]
    fn a_named_file_wins_over_the_variable_and_a_profile_may_name_one_beside_it() {
        let (folder, config) = config("[profiles.default]\ntoken_file = \"mine\"\n", 0o644);
        fs::write(folder.path().join("mine"), "m\n").unwrap();
        assert_eq!(said(&Overrides::default().resolve_with(&config).unwrap()), "m");
        fs::write(folder.path().join("other"), " o \n").unwrap();
        let given =
            Given { token_file: Some(folder.path().join("other")), token: Some("t".to_owned()), ..Given::default() };
        assert_eq!(said(&environment(given).resolve_with(&config).unwrap()), "o");
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
        let told = environment(Given { controller: Some("http://c:1".to_owned()), ..Given::default() });
        config.set("work", told, Some("secret".to_owned())).unwrap();
        config.set("work", environment(Given { region: Some("east".to_owned()), ..Given::default() }), None).unwrap();
        let work = named("work").resolve_with(&config).unwrap();
        assert_eq!((work.controller.as_str(), said(&work)), ("http://c:1", "secret"));
        assert_eq!(work.region.as_deref(), Some("east"));
        assert_eq!(fs::metadata(&config.path).unwrap().mode() & 0o7777, 0o600);
        let wrong = environment(Given { controller: Some("nonsense".to_owned()), ..Given::default() });
        assert!(config.set("work", wrong, None).is_err());
        config.remove("work").unwrap();
        assert!(config.remove("work").is_err());
    }
}
