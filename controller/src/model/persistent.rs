//! Maps and sets with structural sharing. A copy costs next to nothing, and a change of it only
//! what is changed.

use equivalent::{Comparable, Equivalent};
use imbl::{OrdMap, OrdSet};
use std::{
    borrow::Borrow,
    cmp::Ordering,
    ops::{Index, RangeBounds},
    sync::Arc,
};

/// Records by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records<K: Ord + Clone, V>(OrdMap<K, Arc<V>>);

impl<K: Ord + Clone, V> Default for Records<K, V> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<K: Ord + Clone, V> Records<K, V> {
    /// Sets or removes a record. Returns the previous one.
    pub(super) fn set(&mut self, key: K, value: Option<V>) -> Option<Arc<V>> {
        match value {
            Some(value) => self.0.insert(key, Arc::new(value)),
            None => self.0.remove(&key),
        }
    }

    /// A record.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map(Arc::as_ref)
    }

    pub(super) fn shared(&self, key: &K) -> Option<Arc<V>> {
        self.0.get(key).cloned()
    }

    /// Whether there is a record with this key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// The keys in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.keys()
    }

    /// The records in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.0.values().map(Arc::as_ref)
    }

    /// Those with keys in a range.
    pub fn range<Q: Ord + ?Sized>(&self, range: impl RangeBounds<Q>) -> impl DoubleEndedIterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.0.range(range).map(|(key, value)| (key, value.as_ref()))
    }
}

impl<K: Ord + Clone + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for Records<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        &self.0[key]
    }
}

/// Which items belong to which others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Links<A: Ord + Clone, B: Ord + Clone>(OrdSet<(A, B)>);

impl<A: Ord + Clone, B: Ord + Clone> Default for Links<A, B> {
    fn default() -> Self {
        Self(OrdSet::new())
    }
}

/// The position before everything that belongs to an item.
struct Before<'a, A>(&'a A);

impl<A: Ord, B> Equivalent<(A, B)> for Before<'_, A> {
    fn equivalent(&self, _: &(A, B)) -> bool {
        false
    }
}

impl<A: Ord, B> Comparable<(A, B)> for Before<'_, A> {
    fn compare(&self, (of, _): &(A, B)) -> Ordering {
        self.0.cmp(of).then(Ordering::Less)
    }
}

impl<A: Ord + Clone, B: Ord + Clone> Links<A, B> {
    pub(super) fn link(&mut self, of: &A, what: &B) {
        self.0.insert((of.clone(), what.clone()));
    }

    pub(super) fn unlink(&mut self, of: &A, what: &B) {
        self.0.remove(&(of.clone(), what.clone()));
    }

    /// What belongs to an item, in order.
    pub(super) fn of<'a>(&'a self, of: &A) -> impl Iterator<Item = &'a B> + use<'a, A, B> {
        let of = of.clone();
        self.0.range(Before(&of)..).take_while(move |(other, _)| *other == of).map(|(_, what)| what)
    }

    /// The first of what belongs to an item, from some point on.
    pub(super) fn next_of(&self, of: &A, from: B) -> Option<&B> {
        let next = self.0.get_next(&(of.clone(), from));
        next.filter(|(other, _)| other == of).map(|(_, what)| what)
    }
}
