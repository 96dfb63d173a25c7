//! Query strings: filters and tags in JD Cloud's form (`filters.1.name=…&filters.1.values.1=…`). Pages are in
//! [`page`](super::page).

use super::response::Failure;
use cps_peering_config::{SeenRevision, text::quote};
use std::collections::BTreeMap;

/// The parameters of a request, by name.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    plain: BTreeMap<String, String>,
    /// `filters` and `tags`: number, then the key or name, then the values.
    filters: BTreeMap<String, Vec<String>>,
    tags: BTreeMap<String, Vec<String>>,
}

/// One numbered entry while it is assembled.
#[derive(Default)]
struct Numbered {
    name: Option<String>,
    values: BTreeMap<u32, String>,
}

impl Parameters {
    /// Reads a query. Only the parameters in `known` are allowed, and `filters` with names in `filters`, and `tags`.
    pub(super) fn read(query: Option<&str>, known: &[&str], filters: &[&str]) -> Result<Self, Failure> {
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(query.unwrap_or_default())
            .map_err(|error| Failure::invalid(format!("the query cannot be read: {error}")))?;
        let mut parameters = Self::default();
        let mut numbered: BTreeMap<(bool, u32), Numbered> = BTreeMap::new();
        for (name, value) in pairs {
            let list = [("filters.", false), ("tags.", true)];
            let entry = list.iter().find_map(|(prefix, is_tag)| Some((*is_tag, name.strip_prefix(prefix)?)));
            match entry {
                Some((is_tag, rest)) if !filters.is_empty() => {
                    let legal = take_numbered(&mut numbered, is_tag, rest, &value);
                    legal.ok_or_else(|| {
                        let rule =
                            "expected filters.N.name, filters.N.values.M, tags.N.key or tags.N.values.M, each once";
                        Failure::field(name.as_str(), rule)
                    })?;
                }
                _ if known.contains(&name.as_str()) => {
                    if parameters.plain.insert(name.clone(), value).is_some() {
                        return Err(Failure::field(name, "it is there twice"));
                    }
                }
                _ => {
                    let rule = format!("unknown parameter; these are known: {}", known.join(", "));
                    return Err(Failure::field(name, rule));
                }
            }
        }
        for ((is_tag, number), entry) in numbered {
            let place = format!("{}.{number}", if is_tag { "tags" } else { "filters" });
            let name = entry.name.ok_or_else(|| Failure::field(&place, "there are values but no name"))?;
            if !is_tag && !filters.contains(&name.as_str()) {
                let rule = format!("{name:?} is not a filter; these are: {}", filters.join(", "));
                return Err(Failure::field(format!("{place}.name"), rule));
            }
            let values = entry.values.into_values();
            let kept = if is_tag { &mut parameters.tags } else { &mut parameters.filters };
            kept.entry(name).or_default().extend(values);
        }
        Ok(parameters)
    }

    /// A parameter's value; an empty one counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.plain.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A parameter that is one of some words, so that an empty one is invalid.
    pub(super) fn word(&self, name: &str) -> Option<&str> {
        self.plain.get(name).map(String::as_str)
    }

    /// A parameter that is `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Failure::field(name, format!("{} is neither true nor false", quote(other)))),
        }
    }

    /// A parameter that is a whole number between bounds.
    pub(super) fn number(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        let rule = || format!("{} is not a whole number between {least} and {most}", quote(text));
        number.map(Some).ok_or_else(|| Failure::field(name, rule()))
    }

    /// A parameter that is a revision, with its epoch or without. An empty one is refused: it was meant to be one.
    pub(super) fn revision(&self, name: &str) -> Result<Option<SeenRevision>, Failure> {
        self.word(name).map(|text| text.parse().map_err(|rule: String| Failure::field(name, rule))).transpose()
    }

    /// Refuses values of a filter that no entry can have.
    pub(super) fn only(&self, filter: &str, words: &[&str]) -> Result<(), Failure> {
        let wanted = self.filters.get(filter).into_iter().flatten();
        let unknown = wanted.into_iter().find(|value| !words.contains(&value.as_str()));
        let rule = |value: &str| format!("{} is not a {filter}; these are: {}", quote(value), words.join(", "));
        unknown.map_or(Ok(()), |value| Err(Failure::field(filter, rule(value))))
    }

    /// Whether an entry with one of these values passes a filter, or there is no such filter.
    pub(super) fn lets_through(&self, filter: &str, values: &[&str]) -> bool {
        let wanted = self.filters.get(filter);
        wanted.is_none_or(|wanted| wanted.iter().any(|wanted| values.contains(&wanted.as_str())))
    }

    /// Whether all requested tags exist, with one of the requested values, if any.
    pub(super) fn tagged<'a>(&self, tags: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.tags.iter().all(|(key, values)| {
            tags(key).is_some_and(|value| values.is_empty() || values.iter().any(|wanted| wanted == value))
        })
    }
}

fn take_numbered(numbered: &mut BTreeMap<(bool, u32), Numbered>, is_tag: bool, rest: &str, value: &str) -> Option<()> {
    let (number, what) = rest.split_once('.')?;
    let entry = numbered.entry((is_tag, number.parse().ok()?)).or_default();
    match what.split_once('.') {
        None if what == (if is_tag { "key" } else { "name" }) && entry.name.is_none() => {
            entry.name = Some(value.to_owned());
        }
        // Equality is the only operator that JD Cloud's clients send here.
        None if what == "operator" && value == "eq" && !is_tag => {}
        Some(("values", place)) => {
            if entry.values.insert(place.parse().ok()?, value.to_owned()).is_some() {
                return None;
            }
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Parameters, Failure> {
        Parameters::read(Some(query), &["pageNumber", "pageSize"], &["vpcId", "state"])
    }

    #[test]
    fn filters_and_tags_are_put_together() {
        let parameters = read(
            "pageSize=10&filters.2.name=state&filters.2.values.1=active&filters.2.values.2=pending&tags.1.key=k&tags.1.values.1=v",
        )
        .unwrap();
        assert!(parameters.lets_through("state", &["pending"]) && !parameters.lets_through("state", &["expired"]));
        assert!(parameters.lets_through("vpcId", &["whatever"]));
        assert!(parameters.tagged(|key| (key == "k").then_some("v")) && !parameters.tagged(|_| Some("w")));
        assert!(parameters.only("state", &["active", "pending"]).is_ok() && parameters.only("vpcId", &[]).is_ok());
        let refused = format!("{:?}", parameters.only("state", &["active"]).unwrap_err());
        assert!(refused.contains("pending") && refused.contains("\"state\""), "{refused}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for query in [
            "pagesize=10",
            "filters.1.name=nonsense",
            "filters.x.name=vpcId",
            "filters.1.values.1=a",
            "pageNumber=1&pageNumber=2",
            "filters.1.name=vpcId&filters.1.name=state",
            "filters.1.name=vpcId&filters.1.values.1=a&filters.1.values.1=b",
            "tags.1.key=a&tags.1.key=b",
        ] {
            assert!(read(query).is_err(), "{query}");
        }
    }
}

#[cfg(test)]
mod fuzzed {
    use super::*;
    use crate::{
        api::page::{Page, Sort},
        fuzz::fuzz,
    };

    #[test]
    fn query() {
        fuzz("query", |input| {
            let text = String::from_utf8_lossy(input);
            let known = ["pageNumber", "pageSize", "marker", "sort", "vpcId", "name"];
            if let Ok(parameters) = Parameters::read(Some(&text), &known, &["vpcId"]) {
                let _ = Page::read(&parameters, Sort::Id);
                let _ = parameters.number("pageNumber", 1, 100);
                parameters.lets_through("vpcId", &["vpc-a"]);
                parameters.tagged(|_| Some("b"));
            }
        });
    }
}
