//! A controller's base URL.

use super::CliError;
use reqwest::Url;

/// Reads a controller's base URL.
pub(super) fn base_url(text: &str) -> Result<Url, CliError> {
    let wrong = |why: &str| CliError::Usage(format!("{text:?} is not the URL of a controller: {why}"));
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err(wrong("expected https://HOST:PORT or http://HOST:PORT"));
    }
    Ok(url)
}
