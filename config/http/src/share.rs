//! A common pool that no holder can exhaust for the others.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A number of units shared by several holders. Each may hold no more than are free: a single one half of them, two a
/// third each, and so on (dynamic thresholds, Choudhury and Hahne 1998). So a holder with nothing always finds
/// something.
#[derive(Debug)]
pub struct FairShare<K> {
    total: usize,
    held: Mutex<(usize, HashMap<K, usize>)>,
}

impl<K: Hash + Eq + Clone> FairShare<K> {
    /// With this many units.
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, held: Mutex::new((0, HashMap::new())) })
    }

    fn lock(&self) -> MutexGuard<'_, (usize, HashMap<K, usize>)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing yet, for `who`.
    pub fn hold(self: &Arc<Self>, who: K) -> Held<K> {
        Held { stock: Arc::clone(self), who, units: 0 }
    }

    fn take(&self, who: &K, units: usize, most: usize) -> bool {
        let mut held = self.lock();
        let (all, by_holder) = &mut *held;
        let own = by_holder.get(who).copied().unwrap_or_default();
        if own.saturating_add(units) > self.total.saturating_sub(*all).min(most) {
            return false;
        }
        *all += units;
        *by_holder.entry(who.clone()).or_default() += units;
        true
    }

    fn give_back(&self, who: &K, units: usize) {
        let mut held = self.lock();
        let (all, by_holder) = &mut *held;
        *all -= units;
        if let Some(own) = by_holder.get_mut(who) {
            *own -= units;
            if *own == 0 {
                by_holder.remove(who);
            }
        }
    }
}

/// Units that are given back when this is dropped.
#[derive(Debug)]
pub struct Held<K: Hash + Eq + Clone> {
    stock: Arc<FairShare<K>>,
    who: K,
    units: usize,
}

impl<K: Hash + Eq + Clone> Held<K> {
    /// Takes more. False if there is not enough left for this holder; nothing is taken then.
    #[must_use]
    pub fn take(&mut self, units: usize) -> bool {
        self.take_within(units, usize::MAX)
    }

    /// The same, while this holder's total stays within `most`.
    #[must_use]
    pub fn take_within(&mut self, units: usize, most: usize) -> bool {
        let taken = self.stock.take(&self.who, units, most);
        if taken {
            self.units += units;
        }
        taken
    }
}

impl<K: Hash + Eq + Clone> Drop for Held<K> {
    fn drop(&mut self) {
        if self.units > 0 {
            self.stock.give_back(&self.who, self.units);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_with_nothing_always_finds_something() {
        let stock = FairShare::new(100);
        let fill = |who: u32| {
            let mut held = stock.hold(who);
            while held.take(1) {}
            held
        };
        let holders: Vec<Held<u32>> = (0..5).map(fill).collect();
        assert_eq!(holders.iter().map(|held| held.units).collect::<Vec<_>>(), [50, 25, 13, 6, 3]);
        let mut more = stock.hold(0);
        assert!(!more.take(1), "who holds much gets no more by another handle");
        drop((holders, more));
        assert_eq!(fill(7).units, 50, "everything was given back");
        assert!(stock.lock().1.is_empty());
        assert!(!stock.hold(8).take(101));
    }
}
