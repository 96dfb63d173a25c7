//! What stands behind the `?`: pages, filters and tags in JD Cloud's form (`filters.1.name=…&filters.1.values.1=…`).

use super::response::Failure;
use std::collections::BTreeMap;

/// Which page of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// From 1.
    pub(super) number: usize,
    /// Entries per page.
    pub(super) size: usize,
}

impl Page {
    /// The entries on this page. Behind the last page the last one is shown, as JD Cloud does.
    pub(super) fn of<T>(self, mut entries: Vec<T>) -> Vec<T> {
        let last = entries.len().div_ceil(self.size).max(1);
        let first = (self.number.min(last) - 1) * self.size;
        entries.drain(..first);
        entries.truncate(self.size);
        entries
    }
}

/// The parameters of a request, by name.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    plain: BTreeMap<String, String>,
    /// `filters` and `tags`: number, then the key or name, then the values.
    filters: BTreeMap<String, Vec<String>>,
    tags: BTreeMap<String, Vec<String>>,
}

/// One numbered entry while it is put together.
#[derive(Default)]
struct Numbered {
    name: Option<String>,
    values: BTreeMap<u32, String>,
}

impl Parameters {
    /// Reads a query. Only what is in `known` may stand there, beside `filters` with names of `filters`, and `tags`.
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
                        let rule = "expected filters.N.name, filters.N.values.M, tags.N.key or tags.N.values.M";
                        Failure::field(name.as_str(), rule)
                    })?;
                }
                _ if known.contains(&name.as_str()) => {
                    if parameters.plain.insert(name.clone(), value).is_some() {
                        return Err(Failure::field(name, "it is there twice"));
                    }
                }
                _ => {
                    let rule = format!("there is no such parameter here; there are {}", known.join(", "));
                    return Err(Failure::field(name, rule));
                }
            }
        }
        for ((is_tag, number), entry) in numbered {
            let place = format!("{}.{number}", if is_tag { "tags" } else { "filters" });
            let name = entry.name.ok_or_else(|| Failure::field(&place, "there are values but no name"))?;
            if !is_tag && !filters.contains(&name.as_str()) {
                let rule = format!("{name:?} is no filter; there are {}", filters.join(", "));
                return Err(Failure::field(format!("{place}.name"), rule));
            }
            let values = entry.values.into_values();
            let kept = if is_tag { &mut parameters.tags } else { &mut parameters.filters };
            kept.entry(name).or_default().extend(values);
        }
        Ok(parameters)
    }

    /// A parameter's value; an empty one is as good as none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.plain.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A parameter that is `true` or `false`.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Failure::field(name, format!("{other:?} is neither true nor false"))),
        }
    }

    /// A parameter that is a whole number between bounds.
    pub(super) fn number(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        let rule = || format!("{text:?} is not a whole number between {least} and {most}");
        number.map(Some).ok_or_else(|| Failure::field(name, rule()))
    }

    /// `pageNumber` and `pageSize`.
    pub(super) fn page(&self, smallest: u64) -> Result<Page, Failure> {
        const LARGEST: u64 = 100;
        const USUAL: u64 = 20;
        let number = self.number("pageNumber", 1, u64::from(i32::MAX.unsigned_abs()))?.unwrap_or(1);
        let size = self.number("pageSize", smallest, LARGEST)?.unwrap_or(USUAL);
        let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Ok(Page { number: whole(number), size: whole(size) })
    }

    /// Whether a filter lets something through that has one of these values. There may be no such filter.
    pub(super) fn lets_through(&self, filter: &str, values: &[&str]) -> bool {
        let wanted = self.filters.get(filter);
        wanted.is_none_or(|wanted| wanted.iter().any(|wanted| values.contains(&wanted.as_str())))
    }

    /// Whether all tags that are asked for are there, with one of the values asked for, if any are.
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
        None if what == (if is_tag { "key" } else { "name" }) => entry.name = Some(value.to_owned()),
        // Equality is the only operator that JD Cloud's clients send here.
        None if what == "operator" && value == "eq" && !is_tag => {}
        Some(("values", place)) => {
            entry.values.insert(place.parse().ok()?, value.to_owned());
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
        assert_eq!(parameters.page(10).unwrap(), Page { number: 1, size: 10 });
    }

    #[test]
    fn what_is_wrong_is_named() {
        for query in [
            "pagesize=10",
            "filters.1.name=nonsense",
            "filters.x.name=vpcId",
            "filters.1.values.1=a",
            "pageNumber=1&pageNumber=2",
        ] {
            assert!(read(query).is_err(), "{query}");
        }
        for (query, legal) in
            [("pageSize=9", false), ("pageSize=101", false), ("pageNumber=0", false), ("pageSize=100", true)]
        {
            assert_eq!(read(query).unwrap().page(10).is_ok(), legal, "{query}");
        }
    }

    #[test]
    fn behind_the_last_page_is_the_last_page() {
        let page = |number| Page { number, size: 10 }.of((0..25).collect());
        assert_eq!(page(1), (0..10).collect::<Vec<_>>());
        assert_eq!(page(3), (20..25).collect::<Vec<_>>());
        assert_eq!(page(9), (20..25).collect::<Vec<_>>());
        assert!(Page { number: 1, size: 10 }.of(Vec::<u8>::new()).is_empty());
    }
}

#[cfg(test)]
mod fuzzed {
    use super::*;
    use crate::fuzz::fuzz;

    #[test]
    fn query() {
        fuzz("query", |input| {
            let text = String::from_utf8_lossy(input);
            let read = Parameters::read(Some(&text), &["pageNumber", "pageSize", "vpcId", "name"], &["vpcId"]);
            if let Ok(parameters) = read {
                let _ = parameters.page(10);
                let _ = parameters.number("pageNumber", 1, 100);
                parameters.lets_through("vpcId", &["vpc-a"]);
                parameters.tagged(|_| Some("b"));
            }
        });
    }
}
