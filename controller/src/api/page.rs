//! Pages of lists: by number, as JD Cloud's clients request them, or by a marker, the entry after which a page begins. Pages
//! by marker neither repeat nor skip entries that exist throughout while others come and go.

use super::{query::Parameters, response::Failure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cps_peering_config::text::quote;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// The parameters of each list.
pub(super) const PARAMETERS: [&str; 4] = ["pageNumber", "pageSize", "marker", "sort"];

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Sort {
    /// By id.
    Id,
    /// The oldest first.
    Oldest,
    /// The newest first.
    Newest,
    /// By name.
    Name,
    /// By name, backwards.
    NameBackwards,
}

impl Sort {
    const WORDS: [(&'static str, Sort); 4] = [
        ("createdTime", Sort::Oldest),
        ("-createdTime", Sort::Newest),
        ("name", Sort::Name),
        ("-name", Sort::NameBackwards),
    ];

    /// Ties are broken by id, so that an order never changes by itself.
    fn compare(self, one: &Place, other: &Place) -> Ordering {
        let order = match self {
            Sort::Id => Ordering::Equal,
            Sort::Oldest => one.created_ms.cmp(&other.created_ms),
            Sort::Newest => other.created_ms.cmp(&one.created_ms),
            Sort::Name => one.name.cmp(&other.name),
            Sort::NameBackwards => other.name.cmp(&one.name),
        };
        order.then_with(|| one.id.cmp(&other.id))
    }
}

/// The sort keys of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    #[serde(rename = "t")]
    pub(super) created_ms: u64,
    #[serde(rename = "n")]
    pub(super) name: String,
    #[serde(rename = "i")]
    pub(super) id: String,
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Begin {
    /// At the page with this number, from 1.
    Number(usize),
    /// After an entry, which may have been deleted meanwhile.
    Behind(Place),
}

/// The part of a list that is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    begin: Begin,
    /// Entries per page.
    pub(super) size: usize,
    sort: Sort,
}

/// A page, and the size of the list.
pub(super) struct Listed<T> {
    pub(super) entries: Vec<T>,
    /// Number of entries on all pages.
    pub(super) total: usize,
    /// The marker of the next page; none on the last one.
    pub(super) next: Option<String>,
}

fn to_marker(sort: Sort, place: &Place) -> Option<String> {
    Some(URL_SAFE_NO_PAD.encode(serde_json::to_vec(&(sort, place)).ok()?))
}

fn of_marker(text: &str) -> Option<(Sort, Place)> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

impl Page {
    /// Reads `pageNumber`, `pageSize`, `marker` and `sort`.
    pub(super) fn read(parameters: &Parameters, usual: Sort) -> Result<Self, Failure> {
        const LARGEST: u64 = 100;
        const USUAL: usize = 20;
        let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let number = parameters.number("pageNumber", 1, u64::from(i32::MAX.unsigned_abs()))?.map_or(1, whole);
        let size = parameters.number("pageSize", 1, LARGEST)?.map_or(USUAL, whole);
        let word = parameters.get("sort");
        let sort = word.map(|word| {
            let known = Sort::WORDS.into_iter().find(|(it, _)| *it == word).map(|(_, sort)| sort);
            let words = Sort::WORDS.map(|(word, _)| word).join(", ");
            known.ok_or_else(|| {
                Failure::field("sort", format!("{} is not a sort order; these are: {words}", quote(word)))
            })
        });
        let sort = sort.transpose()?;
        let Some(marker) = parameters.get("marker") else {
            return Ok(Self { begin: Begin::Number(number), size, sort: sort.unwrap_or(usual) });
        };
        let Some((order, place)) = of_marker(marker) else {
            return Err(Failure::field("marker", "it is not a `nextMarker` of this list"));
        };
        if number != 1 {
            return Err(Failure::field("marker", "cannot be combined with `pageNumber`"));
        }
        if sort.unwrap_or(usual) != order {
            return Err(Failure::field("marker", "it belongs to a list in another order: use the same `sort`"));
        }
        Ok(Self { begin: Begin::Behind(place), size, sort: order })
    }

    /// The number of the page, if it was requested by number.
    pub(super) fn number(&self) -> usize {
        match self.begin {
            Begin::Number(number) => number,
            Begin::Behind(_) => 1,
        }
    }

    /// The entries on this page. Beyond the last page by number the last one is shown, as JD Cloud does.
    pub(super) fn of<T>(&self, mut entries: Vec<(Place, T)>) -> Listed<T> {
        entries.sort_by(|(one, _), (other, _)| self.sort.compare(one, other));
        let total = entries.len();
        let first = match &self.begin {
            Begin::Number(number) => (*number.min(&total.div_ceil(self.size).max(1)) - 1) * self.size,
            Begin::Behind(place) => {
                entries.partition_point(|(it, _)| self.sort.compare(it, place) != Ordering::Greater)
            }
        };
        let end = first.saturating_add(self.size).min(total);
        let next = (first < end && end < total).then(|| to_marker(self.sort, &entries[end - 1].0)).flatten();
        entries.truncate(end);
        Listed { entries: entries.drain(first..).map(|(_, entry)| entry).collect(), total, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(query: &str) -> Result<Page, Failure> {
        Page::read(&Parameters::read(Some(query), &PARAMETERS, &[]).unwrap(), Sort::Newest)
    }

    fn entry(number: u64) -> (Place, u64) {
        // Some have the same age, and some the same name.
        let (created_ms, name) = (number / 3, format!("n{}", number % 4));
        (Place { created_ms, name, id: format!("id-{number:03}") }, number)
    }

    #[test]
    fn behind_the_last_page_is_the_last_page() {
        let of = |number: u32| {
            let page = page(&format!("pageNumber={number}&pageSize=10&sort=createdTime")).unwrap();
            page.of((0..25).map(entry).collect()).entries
        };
        assert_eq!(of(1), (0..10).collect::<Vec<_>>());
        assert_eq!(of(3), (20..25).collect::<Vec<_>>());
        assert_eq!(of(9), (20..25).collect::<Vec<_>>());
        let none = page("").unwrap().of(Vec::<(Place, u8)>::new());
        assert!(none.entries.is_empty() && none.total == 0 && none.next.is_none());
    }

    #[test]
    fn pages_by_marker_neither_repeat_nor_skip_what_stays_while_entries_come_and_go() {
        for sort in ["createdTime", "-createdTime", "name", "-name"] {
            for size in [1, 2, 7, 24] {
                let (mut list, mut seen): (Vec<u64>, Vec<u64>) = ((100..125).collect(), Vec::new());
                let mut marker = String::new();
                let mut rounds = 0;
                loop {
                    let page = page(&format!("pageSize={size}&sort={sort}&marker={marker}")).unwrap();
                    let listed = page.of(list.iter().copied().map(entry).collect());
                    assert_eq!(listed.total, list.len());
                    seen.extend(listed.entries.iter());
                    // The last entry shown, which the marker names, is deleted, and others are added at both ends.
                    list.retain(|number| Some(number) != listed.entries.last());
                    // (For some time: with one entry per page it would never end.)
                    if rounds < 9 {
                        list.extend([99 - rounds, 126 + rounds]);
                    }
                    rounds += 1;
                    let Some(next) = listed.next else { break };
                    marker = next;
                    assert!(rounds < 200, "it ends");
                }
                let stayed: Vec<u64> = seen.iter().copied().filter(|number| (101..125).contains(number)).collect();
                assert_eq!(stayed.len(), 24, "{sort}, {size}: {seen:?}");
                let mut each = seen.clone();
                each.sort_unstable();
                each.dedup();
                assert_eq!(each.len(), seen.len(), "{sort}, {size}: none is there twice");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let marker = page("pageSize=1").unwrap().of((0..3).map(entry).collect()).next.unwrap();
        assert!(page(&format!("marker={marker}&pageNumber=1")).is_ok(), "clients say the first page by themselves");
        for (query, entry) in [
            ("pageSize=0".to_owned(), "pageSize"),
            ("pageSize=101".to_owned(), "pageSize"),
            ("pageSize=x".to_owned(), "pageSize"),
            ("pageNumber=0".to_owned(), "pageNumber"),
            ("sort=age".to_owned(), "sort"),
            ("marker=x".to_owned(), "marker"),
            (format!("marker={marker}x"), "marker"),
            (format!("marker={marker}&pageNumber=2"), "marker"),
            (format!("marker={marker}&sort=name"), "marker"),
        ] {
            let failure = format!("{:?}", page(&query).unwrap_err());
            assert!(failure.contains(&format!("entry: {entry:?}")), "{query}: {failure}");
        }
        assert_eq!(page("pageSize=100").unwrap().size, 100);
    }
}
