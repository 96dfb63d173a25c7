//! Each host's share of one side's bandwidth. Pure.
//!
//! A host's bound is the most that it can be using. It is raised when a grant is sent, for the grant may arrive even if no answer
//! does; it is lowered when the host has confirmed that its kernel lets no more pass. The sum of all bounds never exceeds the
//! whole, so neither does the traffic. A host that cannot be reached keeps its bound.

use super::max_min::{DIVIDED, divide};
use cps_peering_config::{host_config::Share, id::HostId, traffic::SideTraffic};
use std::collections::{BTreeMap, BTreeSet};

/// A host that sends more than this part of its share needs more. In percent.
const NEARLY_ALL: u64 = 90;
/// A share as a percentage of what was used.
const HEADROOM: u64 = 125;

/// The bounds of one side.
#[derive(Debug, Default)]
pub struct ShareAllocator {
    hosts: BTreeMap<HostId, Entry>,
    /// The upper bound, together, of hosts that have not reported yet.
    unheard: Share,
}

#[derive(Debug)]
struct Entry {
    /// Whether the host should send; else it may still do so, because it has not confirmed that it does not.
    member: bool,
    /// Its bound; none before it has first reported.
    bound: Option<Share>,
    /// The share that it should have.
    target: Share,
    /// The share that it needs, as far as is known.
    want: Share,
    /// The bytes sent and dropped, and when they were reported, in milliseconds.
    last: Option<(u64, u64, u64)>,
}

impl Entry {
    fn new(bound: Option<Share>) -> Self {
        Self { member: true, bound, target: Share::NONE, want: Share::NONE, last: None }
    }
}

impl ShareAllocator {
    /// The allocator of a side that hosts may have had before this controller began.
    pub fn of_unheard() -> Self {
        Self { hosts: BTreeMap::new(), unheard: Share::WHOLE }
    }

    /// Follows the plan: which hosts should send, the share that each has from the beginning, and which may still send. New hosts are
    /// `heard` if they certainly have no more than that.
    pub fn follow(&mut self, members: &BTreeSet<HostId>, beginning: Share, draining: &BTreeSet<HostId>, heard: bool) {
        self.hosts.retain(|host, _| members.contains(host) || draining.contains(host));
        for host in members.union(draining) {
            let entry = self.hosts.entry(host.clone()).or_insert_with(|| Entry::new(heard.then_some(beginning)));
            entry.member = members.contains(host);
        }
        self.close();
    }

    /// Once all hosts have reported, nothing unknown is left.
    fn close(&mut self) {
        if self.hosts.values().all(|entry| entry.bound.is_some()) {
            self.unheard = Share::NONE;
        }
    }

    /// Whether there is anything to divide.
    pub fn is_shared(&self) -> bool {
        let alone = |entry: &Entry| entry.member && entry.bound == Some(Share::WHOLE);
        self.hosts.len() > 1 || !self.hosts.values().all(alone)
    }

    /// The hosts to poll, with their known bounds.
    pub fn hosts(&self) -> impl Iterator<Item = (&HostId, Option<Share>)> {
        self.hosts.iter().map(|(host, entry)| (host, entry.bound))
    }

    /// Records a host's report: the share that it was asked to use, what it has sent, and the whole in bytes per second.
    pub fn on_report(&mut self, host: &HostId, asked: Option<Share>, traffic: &SideTraffic, whole: u64, now_ms: u64) {
        let Some(entry) = self.hosts.get_mut(host) else { return };
        match (entry.bound, traffic.share) {
            (None, Some(has)) => {
                entry.bound = Some(has);
                self.unheard = self.unheard.without(has);
            }
            // Only a confirmed request counts: anything else may be about to change.
            (Some(_), Some(has)) if asked == Some(has) => entry.bound = Some(has),
            (Some(bound), Some(has)) if has > bound => entry.bound = Some(has),
            _ => {}
        }
        let (sent, dropped) = (traffic.sent.bytes, traffic.dropped);
        if let (Some((sent_before, dropped_before, at_ms)), Some(bound)) = (entry.last, entry.bound) {
            let elapsed_ms = now_ms.saturating_sub(at_ms).max(1);
            let rate = sent.saturating_sub(sent_before).saturating_mul(1000) / elapsed_ms;
            let used = rate.saturating_mul(1_000_000) / whole.max(1);
            let nearly_all = used * 100 >= u64::from(bound.millionths()) * NEARLY_ALL && used > 0;
            entry.want = if nearly_all || traffic.backlog > 0 || dropped > dropped_before {
                Share::WHOLE
            } else {
                // Flows that pause for a moment keep some of what they had.
                let before = if entry.want == Share::WHOLE { bound } else { entry.want };
                let now = u32::try_from(used * HEADROOM / 100).ok().and_then(Share::of_millionths);
                now.unwrap_or(Share::WHOLE).max(Share::of_millionths(before.millionths() / 4).unwrap_or(before))
            };
        }
        entry.last = Some((sent, dropped, now_ms));
        self.close();
    }

    /// Decides the share that each host should have.
    pub fn divide(&mut self) {
        let mut members: Vec<&mut Entry> = self.hosts.values_mut().filter(|entry| entry.member).collect();
        let wants: Vec<Share> = members.iter().map(|entry| entry.want).collect();
        let shares = divide(&wants);
        // Small changes are skipped, unless another host waits for them.
        let steady = |entry: &Entry, share: Share| {
            let (now, then) = (entry.target.millionths(), share.millionths());
            let waits = entry.want == Share::WHOLE && then > now;
            if waits || now.abs_diff(then) > now / 8 { share } else { entry.target }
        };
        let steadied: Vec<Share> = members.iter().zip(&shares).map(|(entry, share)| steady(entry, *share)).collect();
        let sum = |shares: &[Share]| shares.iter().map(|share| u64::from(share.millionths())).sum::<u64>();
        let shares = if sum(&steadied) > sum(&shares).max(DIVIDED.millionths().into()) { shares } else { steadied };
        for (entry, share) in members.iter_mut().zip(shares) {
            entry.target = share;
        }
        self.hosts.values_mut().filter(|entry| !entry.member).for_each(|entry| entry.target = Share::NONE);
    }

    /// The hosts that should use less than their bounds.
    pub fn reductions(&self) -> Vec<(HostId, Share)> {
        let less = |entry: &Entry| entry.member && entry.bound.is_some_and(|bound| entry.target < bound);
        self.hosts.iter().filter(|(_, entry)| less(entry)).map(|(host, entry)| (host.clone(), entry.target)).collect()
    }

    /// The hosts whose bounds are raised now, as far as bandwidth is free.
    pub fn raises(&mut self) -> Vec<(HostId, Share)> {
        let members = self.hosts.values().filter(|entry| entry.member).count();
        let taken = self.hosts.values().fold(self.unheard, |sum, entry| sum.with(entry.bound.unwrap_or(Share::NONE)));
        let free = u64::from(if members > 1 { DIVIDED } else { Share::WHOLE }.without(taken).millionths());
        let missing = |entry: &Entry| match entry.bound {
            Some(bound) if entry.member => u64::from(entry.target.without(bound).millionths()),
            _ => 0,
        };
        let all_missing: u64 = self.hosts.values().map(missing).sum();
        let mut raises = Vec::new();
        for (host, entry) in &mut self.hosts {
            let missing = missing(entry);
            // If there is not enough, each gets the same fraction of what it lacks.
            let more = if all_missing > free { missing * free / all_missing } else { missing };
            let more = u32::try_from(more).ok().and_then(Share::of_millionths).unwrap_or(Share::NONE);
            if let Some(bound) = entry.bound.filter(|_| more > Share::NONE) {
                let raised = bound.with(more);
                entry.bound = Some(raised);
                raises.push((host.clone(), raised));
            }
        }
        raises
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::{Revision, traffic::Count};
    use proptest::prelude::*;

    const CAP: u64 = 12_500_000;
    const BEGINNING: Share = Share::of_millionths(1250).unwrap();

    fn host(number: usize) -> HostId {
        format!("h{number}").parse().unwrap()
    }

    fn hosts(numbers: &[usize]) -> BTreeSet<HostId> {
        numbers.iter().map(|number| host(*number)).collect()
    }

    /// A host with a shaper, as an agent manages it.
    #[derive(Debug, Clone)]
    struct Agent {
        there: bool,
        share: Share,
        newest: Revision,
        sent: u64,
        dropped: u64,
    }

    impl Agent {
        fn new(share: Share) -> Self {
            Self { there: true, share, newest: Revision { epoch: 0, number: 0 }, sent: 0, dropped: 0 }
        }

        /// Applies a grant unless it is older, and answers; nothing if it refuses.
        fn take(&mut self, revision: Revision, share: Option<Share>) -> Option<SideTraffic> {
            if revision < self.newest {
                return None;
            }
            self.newest = revision;
            self.share = share.unwrap_or(self.share);
            Some(SideTraffic {
                peering: "p".parse().unwrap(),
                sent: Count { bytes: self.sent, packets: 0 },
                dropped: self.dropped,
                received: Count::default(),
                backlog: 0,
                share: Some(self.share),
            })
        }

        /// A second in which it wants to send this part of the cap.
        fn send(&mut self, wants: f64) {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a test"
            )]
            let wants = (wants * CAP as f64) as u64;
            let may = CAP * u64::from(self.share.millionths()) / 1_000_000;
            self.sent += wants.min(may);
            self.dropped += u64::from(wants > may);
        }
    }

    /// One round in which all hosts answer.
    fn round(book: &mut ShareAllocator, agents: &mut [Agent], now_ms: u64, wants: &[f64]) {
        for (agent, wants) in agents.iter_mut().zip(wants) {
            agent.send(*wants);
        }
        let revision = Revision { epoch: 1, number: now_ms };
        let mut ask = |book: &mut ShareAllocator, whom: Vec<(HostId, Option<Share>)>| {
            for (id, share) in whom {
                let place: usize = id.as_str()[1..].parse().unwrap();
                if let Some(answer) = agents[place].take(revision, share) {
                    book.on_report(&id, share, &answer, CAP, now_ms);
                }
            }
            let together: u32 = agents.iter().map(|agent| agent.share.millionths()).sum();
            assert!(together <= 1_000_000 + 5000, "{agents:?}");
        };
        let all = book.hosts().map(|(id, bound)| (id.clone(), bound)).collect();
        ask(book, all);
        book.divide();
        let less = book.reductions().into_iter().map(|(id, share)| (id, Some(share))).collect();
        ask(book, less);
        let more = book.raises().into_iter().map(|(id, share)| (id, Some(share))).collect();
        ask(book, more);
    }

    #[test]
    fn a_busy_host_alone_gets_nearly_all_and_busy_ones_get_equal_parts() {
        let mut book = ShareAllocator::default();
        book.follow(&hosts(&[0, 1, 2]), BEGINNING, &BTreeSet::new(), true);
        let mut agents = vec![Agent::new(BEGINNING); 3];
        let shares = |agents: &[Agent]| agents.iter().map(|agent| agent.share.millionths()).collect::<Vec<_>>();
        round(&mut book, &mut agents, 1000, &[0.0, 0.0, 0.0]);
        assert_eq!(shares(&agents), [331_666; 3], "nobody needs it: it is there for who begins");
        for second in 2..5 {
            round(&mut book, &mut agents, second * 1000, &[2.0, 0.0, 0.0]);
        }
        assert!(agents[0].share.millionths() > 960_000, "{:?}", shares(&agents));
        // The demand shifts: within three rounds the shares have moved.
        for second in 5..8 {
            round(&mut book, &mut agents, second * 1000, &[0.0, 2.0, 0.0]);
        }
        assert!(agents[1].share.millionths() > 960_000, "{:?}", shares(&agents));
        for second in 8..11 {
            round(&mut book, &mut agents, second * 1000, &[2.0, 2.0, 2.0]);
        }
        assert!(shares(&agents).iter().all(|share| *share > 325_000), "{:?}", shares(&agents));
        for second in 11..16 {
            round(&mut book, &mut agents, second * 1000, &[2.0, 2.0, 0.1]);
        }
        assert!(shares(&agents)[..2].iter().all(|share| *share > 420_000), "{:?}", shares(&agents));
        assert!(agents[2].share.millionths() > 100_000);
    }

    #[test]
    fn one_that_had_all_gives_before_the_others_get() {
        let mut book = ShareAllocator::default();
        book.follow(&hosts(&[0]), Share::WHOLE, &BTreeSet::new(), true);
        assert!(!book.is_shared());
        book.follow(&hosts(&[0, 1]), BEGINNING, &BTreeSet::new(), true);
        book.divide();
        assert_eq!(book.raises(), [], "nothing is free");
        assert_eq!(book.reductions().len(), 1);
        // Its answer is about something else: it may still have all.
        let mut old = Agent::new(Share::WHOLE);
        let answer = old.take(Revision { epoch: 1, number: 1 }, None).unwrap();
        book.on_report(&host(0), Some(book.reductions()[0].1), &answer, CAP, 1);
        assert_eq!(book.raises(), []);
        let mut agents = vec![old, Agent::new(BEGINNING)];
        // The second one's need is known after two reports.
        for second in 2..4 {
            round(&mut book, &mut agents, second * 1000, &[2.0, 2.0]);
        }
        assert_eq!(agents[1].share.millionths(), 497_500);
    }

    #[test]
    fn what_was_granted_and_is_not_confirmed_may_still_come() {
        let mut book = ShareAllocator::default();
        book.follow(&hosts(&[0, 1]), BEGINNING, &BTreeSet::new(), true);
        book.divide();
        let raised = book.raises()[0].1;
        // Its kernel did not apply it, and may when the agent tries again.
        let answer = Agent::new(BEGINNING).take(Revision { epoch: 1, number: 1 }, None).unwrap();
        book.on_report(&host(0), Some(raised), &answer, CAP, 1);
        assert_eq!(book.hosts().next(), Some((&host(0), Some(raised))));
    }

    #[test]
    fn one_that_needs_all_of_it_gives_also_a_little() {
        let mut book = ShareAllocator::default();
        book.follow(&hosts(&[0]), Share::WHOLE, &BTreeSet::new(), true);
        book.divide();
        let mut agents = vec![Agent::new(Share::WHOLE), Agent::new(BEGINNING)];
        book.follow(&hosts(&[0, 1]), BEGINNING, &BTreeSet::new(), true);
        for second in 1..4 {
            round(&mut book, &mut agents, second * 1000, &[2.0, 0.0]);
        }
        assert_eq!([0, 1].map(|host: usize| agents[host].share.millionths()), [975_000, 20_000]);
    }

    #[test]
    fn the_bound_of_a_host_that_is_cut_off_is_given_to_nobody() {
        let mut book = ShareAllocator::default();
        book.follow(&hosts(&[0, 1]), BEGINNING, &BTreeSet::new(), true);
        let mut agents = vec![Agent::new(BEGINNING); 2];
        for second in 1..4 {
            round(&mut book, &mut agents, second * 1000, &[0.0, 0.5]);
        }
        let reserved = agents[1].share;
        // It is removed from the plan, and does not report any more.
        book.follow(&hosts(&[0]), BEGINNING, &hosts(&[1]), true);
        for second in 4..9 {
            agents[0].send(2.0);
            let answer = agents[0].take(Revision { epoch: 1, number: second * 1000 }, None).unwrap();
            book.on_report(&host(0), None, &answer, CAP, second * 1000);
            book.divide();
            for (_, share) in book.raises() {
                agents[0].share = share;
            }
        }
        assert_eq!(agents[0].share, Share::WHOLE.without(reserved));
        // At last it is known to have nothing.
        book.follow(&hosts(&[0]), BEGINNING, &BTreeSet::new(), true);
        book.divide();
        assert_eq!(book.raises(), [(host(0), Share::WHOLE)]);
        assert!(!book.is_shared());
    }

    #[test]
    fn a_controller_that_restarts_gives_nothing_before_it_knows() {
        let share = |millionths| Share::of_millionths(millionths).unwrap();
        let mut book = ShareAllocator::of_unheard();
        book.follow(&hosts(&[0, 1, 2]), BEGINNING, &BTreeSet::new(), false);
        let mut agents = [Agent::new(share(100_000)), Agent::new(share(200_000)), Agent::new(share(600_000))];
        let revision = Revision { epoch: 1, number: 1 };
        for place in [0, 1] {
            let answer = agents[place].take(revision, None).unwrap();
            book.on_report(&host(place), None, &answer, CAP, 1);
        }
        book.divide();
        assert_eq!(book.raises(), [], "the third may have all that is left");
        let answer = agents[2].take(revision, None).unwrap();
        book.on_report(&host(2), None, &answer, CAP, 1);
        assert_eq!(book.raises().len(), 2, "95 thousandths are free");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Grants and answers are delayed and lost, hosts come and go, the controller restarts: together the hosts never have
        /// more than the whole, and what each new one has from the beginning.
        #[test]
        fn together_never_more_than_the_whole(seed in any::<u64>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut agents: Vec<Agent> = (0..4).map(|_| Agent { there: false, ..Agent::new(Share::NONE) }).collect();
            let mut members: BTreeSet<usize> = BTreeSet::new();
            let mut draining: BTreeSet<usize> = BTreeSet::new();
            let mut book = ShareAllocator::default();
            // In flight: the host, the number, the grant, and whether the controller that sent it still exists.
            let mut grants: Vec<(usize, Revision, Option<Share>)> = Vec::new();
            let mut answers: Vec<(usize, Revision, Option<Share>, SideTraffic)> = Vec::new();
            let mut revision = Revision { epoch: 1, number: 0 };
            for step in 1..400u64 {
                let ids = |numbers: &BTreeSet<usize>| numbers.iter().map(|number| host(*number)).collect::<BTreeSet<_>>();
                match random.u8(..12) {
                    // The plan changes: a host comes, with what it has from the beginning.
                    0 => {
                        let one = random.usize(..4);
                        if !members.contains(&one) {
                            if !draining.remove(&one) {
                                agents[one] = Agent { newest: agents[one].newest, ..Agent::new(BEGINNING) };
                            }
                            members.insert(one);
                            book.follow(&ids(&members), BEGINNING, &ids(&draining), true);
                        }
                    }
                    // One leaves, and may send until it has been told.
                    1 => {
                        if let Some(one) = random.choice(members.iter().copied().collect::<Vec<_>>()) {
                            members.remove(&one);
                            draining.insert(one);
                            book.follow(&ids(&members), BEGINNING, &ids(&draining), true);
                        }
                    }
                    2 => {
                        if let Some(one) = random.choice(draining.iter().copied().collect::<Vec<_>>()) {
                            draining.remove(&one);
                            agents[one].there = false;
                            grants.retain(|(whom, ..)| *whom != one);
                            book.follow(&ids(&members), BEGINNING, &ids(&draining), true);
                        }
                    }
                    // The controller restarts.
                    3 if random.u8(..4) == 0 => {
                        book = ShareAllocator::of_unheard();
                        book.follow(&ids(&members), BEGINNING, &ids(&draining), false);
                        revision = Revision { epoch: revision.epoch + 1, number: 0 };
                        answers.clear();
                    }
                    3..=5 => {
                        revision.number += 1;
                        let all: Vec<_> = book.hosts().map(|(id, bound)| (id.clone(), bound)).collect();
                        for (id, bound) in all {
                            grants.push((id.as_str()[1..].parse().unwrap(), revision, bound));
                        }
                    }
                    6 => {
                        revision.number += 1;
                        book.divide();
                        for (id, share) in book.reductions() {
                            grants.push((id.as_str()[1..].parse().unwrap(), revision, Some(share)));
                        }
                    }
                    7 => {
                        revision.number += 1;
                        for (id, share) in book.raises() {
                            grants.push((id.as_str()[1..].parse().unwrap(), revision, Some(share)));
                        }
                    }
                    // Something arrives, in any order, or is lost.
                    8 | 9 if !grants.is_empty() => {
                        let (one, number, share) = grants.swap_remove(random.usize(..grants.len()));
                        if agents[one].there && random.u8(..5) > 0 {
                            let wants = random.f64() * 2.0;
                            agents[one].send(wants);
                            if let Some(answer) = agents[one].take(number, share) {
                                answers.push((one, number, share, answer));
                            }
                        }
                    }
                    10 | 11 if !answers.is_empty() => {
                        let (one, number, share, answer) = answers.swap_remove(random.usize(..answers.len()));
                        // A host is polled again only when it has answered, or when its answer is no longer awaited.
                        if number == revision {
                            book.on_report(&host(one), share, &answer, CAP, step * 100);
                        }
                    }
                    _ => {}
                }
                let there = agents.iter().filter(|agent| agent.there);
                let together: u32 = there.map(|agent| agent.share.millionths()).sum();
                let newcomers = 4 * BEGINNING.millionths();
                prop_assert!(together <= 1_000_000 + newcomers, "step {}: {:?}", step, agents);
            }
        }
    }
}
