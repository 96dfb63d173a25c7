//! Reading in pages, as of one moment.

use super::{Etcd, Lookup, Operation, PAGE_WITHIN, Page, PeriodKey, Range, SideRow, client::KeyValue};
use crate::store::{StoreError, raw::SideId};
use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLockReadGuard},
};

/// Rows of one page. They are small: a page is some megabytes at most.
const PAGE: usize = 4000;
/// How many times a load starts over because what it was reading was compacted.
const ATTEMPTS: usize = 5;
/// How many single keys are read at a time: fewer than a transaction's operations.
const AT_ONCE: usize = 100;

/// A revision, with what is not in place yet.
pub(super) struct Moment {
    revision: u64,
    /// The changes of a large commit that is valid but not in place yet. By key; none for deleted keys.
    coming: BTreeMap<String, Option<Vec<u8>>>,
}

impl Moment {
    /// A revision as it is in etcd.
    pub(super) fn at(revision: u64) -> Self {
        Self { revision, coming: BTreeMap::new() }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }
}

impl Etcd {
    fn settled(&self) -> RwLockReadGuard<'_, ()> {
        self.whole.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Result<Moment, StoreError> {
        let ranges = [Range::key(&self.cluster.key("pending")), Range::key(&self.cluster.key("filling"))];
        let done = self.cluster.client.ranges(&ranges, super::WITHIN).map_err(self.cluster.failed("read it"))?;
        let revision = done.header.revision;
        let mut rows = done.ranges().map(|found| found.kvs.into_iter().next());
        let (pending, filling) = (rows.next().flatten(), rows.next().flatten());
        if filling.is_some() {
            return Err(StoreError::Unfinished { path: self.cluster.place.clone() });
        }
        let mut coming = BTreeMap::new();
        for operation in pending.map(|row| self.staged(&row.value, revision)).transpose()?.into_iter().flatten() {
            match operation {
                Operation::Put(key, value) => drop(coming.insert(key, Some(value))),
                Operation::Delete(key) => drop(coming.insert(key, None)),
                Operation::DeleteAll(_) => {}
            }
        }
        Ok(Moment { revision, coming })
    }

    /// Pages of the rows below a key; the common prefix is removed from their keys.
    pub(super) fn pages(
        &self,
        moment: &Moment,
        rest: &str,
        take: &mut dyn FnMut(Vec<KeyValue>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let below = self.cluster.key(rest);
        let strip = |mut row: KeyValue| {
            row.key.drain(..below.len());
            row
        };
        let mut range = Range { limit: PAGE, revision: moment.revision, ..self.below(rest) };
        loop {
            let found = self.cluster.client.range(&range, PAGE_WITHIN).map_err(self.cluster.failed("read it"))?;
            let next = found.kvs.last().map(|row| format!("{}\0", row.key));
            let old = found.kvs.into_iter().filter(|row| !moment.coming.contains_key(&row.key));
            take(old.map(strip).collect())?;
            match next {
                Some(next) if found.more => range.first = next,
                _ => break,
            }
        }
        let coming = moment.coming.iter().filter(|(key, _)| key.starts_with(&below));
        let coming = coming.filter_map(|(key, value)| {
            let value = value.clone()?;
            Some(strip(KeyValue { key: key.clone(), value, create_revision: 0, mod_revision: 0, lease: 0 }))
        });
        let coming: Vec<KeyValue> = coming.collect();
        if coming.is_empty() { Ok(()) } else { take(coming) }
    }

    fn all(&self, rest: &str) -> Result<Vec<KeyValue>, StoreError> {
        let _settled = self.settled();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut rows = Vec::new();
            let read = self.now().and_then(|moment| {
                self.pages(&moment, rest, &mut |page| {
                    rows.extend(page);
                    Ok(())
                })
            });
            match read {
                Ok(()) => return Ok(rows),
                Err(StoreError::Etcd { source, .. }) if source.is_compacted() && attempt < ATTEMPTS => {
                    tracing::info!("etcd was compacted meanwhile: it is read again");
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn read_records(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        Ok(self.all("records/")?.into_iter().map(|row| (row.key, row.value)).collect())
    }

    /// In pages, each as of its own moment: rows are never changed, and new ones come after all others.
    pub(super) fn read_periods(
        &self,
        payer: &str,
        window: &std::ops::Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let below = format!("periods/{payer}/");
        let first = self.cluster.key(&format!("{below}{:016x}", window.start.saturating_add(1)));
        let mut range = Range { limit: PAGE, first, ..self.below(&below) };
        let what = "read what is to be charged";
        loop {
            let found = {
                // A large commit waits for one page rather than for all.
                let _settled = self.settled();
                self.cluster.client.range(&range, PAGE_WITHIN).map_err(self.cluster.failed(what))?
            };
            for row in &found.kvs {
                let (_, from) = row.key.rsplit_once('/').ok_or_else(|| self.unknown(&row.key))?;
                let from_ms = u64::from_str_radix(from, 16).map_err(|_| self.unknown(&row.key))?;
                if from_ms < window.end && !take(&row.value)? {
                    return Ok(());
                }
            }
            match found.kvs.last() {
                Some(last) if found.more => range.first = format!("{}\0", last.key),
                _ => return Ok(()),
            }
        }
    }

    pub(super) fn read_traffic(&self) -> Result<Vec<SideRow>, StoreError> {
        self.all("traffic/")?.into_iter().map(|row| self.side(row)).collect()
    }

    fn side(&self, row: KeyValue) -> Result<SideRow, StoreError> {
        let (peering, vni) = side_id(&row.key).ok_or_else(|| self.unknown(&row.key))?;
        Ok((peering, vni, row.value))
    }

    fn period(&self, row: KeyValue) -> Result<(PeriodKey, Vec<u8>), StoreError> {
        let read = || {
            let mut parts = row.key.split('/');
            let mut next = || parts.next();
            let (payer, to, peering, from) = (next()?, next()?, next()?, next()?);
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((payer.to_owned(), number(to)?, peering.to_owned(), number(from)?))
        };
        Ok((read().ok_or_else(|| self.unknown(&row.key))?, row.value))
    }

    fn unknown(&self, key: &str) -> StoreError {
        StoreError::UnknownRecord { path: self.cluster.place.clone(), key: key.to_owned() }
    }

    pub(super) fn read_audit(&self, lookup: &Lookup) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let _settled = self.settled();
        let failed = || self.cluster.failed("read the audit trail");
        let rest = lookup.key.as_ref().map_or("audit/".to_owned(), |key| format!("audit_by/{key}/"));
        let mut range = Range { backwards: true, limit: lookup.limit.unwrap_or(0), ..self.below(&rest) };
        if let Some(before) = lookup.before {
            range.end = Some(self.cluster.key(&format!("{rest}{before:016x}")));
        }
        let found = self.cluster.client.range(&range, PAGE_WITHIN).map_err(failed())?;
        let mut rows = Vec::with_capacity(found.kvs.len());
        if lookup.key.is_none() {
            for row in found.kvs {
                rows.push((self.tail_number(&row.key)?, row.value));
            }
            return Ok(rows);
        }
        self.entries_of(&found.kvs)
    }

    pub(super) fn read_audit_after(
        &self,
        key: Option<&str>,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let _settled = self.settled();
        let failed = self.cluster.failed("read the audit trail");
        let rest = key.map_or("audit/".to_owned(), |key| format!("audit_by/{key}/"));
        let first = self.cluster.key(&format!("{rest}{:016x}", after.saturating_add(1)));
        let range = Range { first, limit, ..self.below(&rest) };
        let found = self.cluster.client.range(&range, PAGE_WITHIN).map_err(failed)?;
        if key.is_some() {
            return self.entries_of(&found.kvs);
        }
        found.kvs.into_iter().map(|row| Ok((self.tail_number(&row.key)?, row.value))).collect()
    }

    /// The entries of the audit trail that rows of the index refer to.
    fn entries_of(&self, found: &[KeyValue]) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let failed = || self.cluster.failed("read the audit trail");
        let mut rows = Vec::with_capacity(found.len());
        let numbers = found.iter().map(|row| self.tail_number(&row.key)).collect::<Result<Vec<_>, _>>()?;
        for numbers in numbers.chunks(AT_ONCE) {
            let one = |number: &u64| Range::key(&self.cluster.key(&format!("audit/{number:016x}")));
            let ranges: Vec<Range> = numbers.iter().map(one).collect();
            let done = self.cluster.client.ranges(&ranges, PAGE_WITHIN).map_err(failed())?;
            let entries = done.ranges().map(|found| found.kvs.into_iter().next());
            rows.extend(numbers.iter().zip(entries).filter_map(|(number, row)| Some((*number, row?.value))));
        }
        Ok(rows)
    }

    /// Everything as of one moment.
    pub(super) fn read_all(&self, take: &mut dyn FnMut(Page) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let moment = {
            let _settled = self.settled();
            self.now()?
        };
        self.pages(&moment, "records/", &mut |rows| {
            take(Page::Records(rows.into_iter().map(|row| (row.key, row.value)).collect()))
        })?;
        self.pages(&moment, "audit/", &mut |rows| {
            let rows = rows.into_iter().map(|row| Ok((self.tail_number(&row.key)?, row.value)));
            take(Page::Audit(rows.collect::<Result<_, _>>()?))
        })?;
        self.pages(&moment, "periods/", &mut |rows| {
            take(Page::Periods(rows.into_iter().map(|row| self.period(row)).collect::<Result<_, _>>()?))
        })?;
        self.pages(&moment, "traffic/", &mut |rows| {
            take(Page::Traffic(rows.into_iter().map(|row| self.side(row)).collect::<Result<_, _>>()?))
        })
    }
}

/// The side that a key names.
pub(super) fn side_id(key: &str) -> Option<SideId> {
    let (peering, vni) = key.split_once('/')?;
    Some((peering.to_owned(), u32::from_str_radix(vni, 16).ok()?))
}
