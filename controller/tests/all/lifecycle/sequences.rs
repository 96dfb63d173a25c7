//! Random sequences of accounts' commands.

use super::{disclosure::prefixes, *};

/// One step of several accounts on a small cloud.
#[derive(Debug, Clone)]
enum Step {
    Ask { vpc: usize, peer: usize },
    Answer { nth: usize, who: usize, yes: bool },
    Delete { nth: usize, who: usize },
    Cidr { vpc: usize, cidr: u8 },
    Charge { who: usize, status: usize },
    Bandwidth { nth: usize, mbit: u32 },
    Confirm,
    Wait { hours: u64 },
    SetClock { hours: i64, away: bool },
    ConfirmClock,
}

const VPCS: [&str; 8] = ["v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7"];
const ACCOUNTS: [&str; 3] = ["one", "two", "three"];

/// The same with a clock that is set now and then.
fn steps_with_leaps() -> impl Strategy<Value = Vec<Step>> {
    with_leaps(Just(false).boxed())
}

/// The same with downtimes of which only the clock knows the length.
fn steps_with_absences() -> impl Strategy<Value = Vec<Step>> {
    with_leaps(any::<bool>().boxed())
}

fn with_leaps(away: BoxedStrategy<bool>) -> impl Strategy<Value = Vec<Step>> {
    let set = (-300i64..300, away).prop_map(|(hours, away)| Step::SetClock { hours, away });
    let leaps =
        proptest::collection::vec((any::<proptest::sample::Index>(), prop_oneof![set, Just(Step::ConfirmClock)]), 0..8);
    (steps(), leaps).prop_map(|(mut steps, leaps)| {
        for (place, leap) in leaps {
            steps.insert(place.index(steps.len() + 1), leap);
        }
        steps
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..8, 0usize..8).prop_map(|(vpc, peer)| Step::Ask { vpc, peer }),
        4 => (any::<usize>(), 0usize..3, any::<bool>()).prop_map(|(nth, who, yes)| Step::Answer { nth, who, yes }),
        2 => (any::<usize>(), 0usize..3).prop_map(|(nth, who)| Step::Delete { nth, who }),
        2 => (0usize..8, 0u8..10).prop_map(|(vpc, cidr)| Step::Cidr { vpc, cidr }),
        1 => (0usize..3, 0usize..3).prop_map(|(who, status)| Step::Charge { who, status }),
        2 => (any::<usize>(), 1u32..4).prop_map(|(nth, mbit)| Step::Bandwidth { nth, mbit }),
        3 => Just(Step::Confirm),
        1 => (1u64..100).prop_map(|hours| Step::Wait { hours }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Eight VPCs of three accounts in two regions; CIDRs of neighbours overlap now and then.
fn small_cloud() -> Model {
    let mut text = REGIONS.to_owned();
    for (number, id) in VPCS.iter().enumerate() {
        let region = if number % 2 == 0 { "north" } else { "east" };
        text += &vpc_of(ACCOUNTS[number % 3], id, region, &format!("\"10.{}.0.0/16\"", number / 2 * 3 + number % 2));
    }
    let limits = Limits { peerings_per_region: 3, ..Limits::default() };
    let mut model = Model { now_ms: 1000 * HOUR, limits, ..Model::default() };
    model.apply(&text).unwrap();
    model
}

fn carry_out(model: &mut Model, step: &Step) {
    let nth = |model: &Model, nth: usize| {
        let ids: Vec<PeeringId> = model.state.peerings().keys().cloned().collect();
        (!ids.is_empty()).then(|| ids[nth % ids.len()].clone())
    };
    // Refusals are expected; the model checks that they change nothing.
    match step {
        Step::Ask { vpc, peer } => drop(ask(model, VPCS[*vpc], VPCS[*peer])),
        Step::Answer { nth: n, who, yes } => {
            if let Some(id) = nth(model, *n) {
                let command = if *yes { accept(&id) } else { reject(&id) };
                drop(model.run_as(ACCOUNTS[*who], command));
            }
        }
        Step::Delete { nth: n, who } => {
            if let Some(id) = nth(model, *n) {
                drop(model.run_as(ACCOUNTS[*who], delete(&id)));
            }
        }
        Step::Cidr { vpc, cidr } => {
            let which = vpc::Locator { region: None, id: VPCS[*vpc].parse().unwrap() };
            let cidr = vpc::Cidr { which, cidr: format!("10.{cidr}.128.0/17").parse().unwrap() };
            drop(model.run(&Command::AddCidr(cidr)));
        }
        Step::Charge { who, status } => {
            let status = [ChargeStatus::Normal, ChargeStatus::Overdue, ChargeStatus::Arrear][*status];
            charge(model, ACCOUNTS[*who], status);
        }
        Step::Bandwidth { nth: n, mbit } => {
            if let Some(id) = nth(model, *n) {
                let set = SetBandwidth { which: locate(&id), bandwidth: *mbit };
                drop(model.run(&Command::SetBandwidth(set)));
            }
        }
        Step::Confirm => confirm(model),
        Step::Wait { hours } => {
            model.now_ms += hours * HOUR;
            model.run(&Command::Tick).unwrap();
        }
        Step::SetClock { hours, away } => {
            // A controller that ran at least once knows how long it has been down.
            let known = model.leap.map_or(!away, |leap| leap.elapsed_known);
            model.set_clock(hours * HOURS, known);
            model.run(&Command::Tick).unwrap();
        }
        Step::ConfirmClock => model.confirm_clock(),
    }
}

/// What must hold, whoever did what when (rules L3, L5 to L9, B5).
fn invariants(model: &Model) {
    let state = &model.state;
    let mut vnis = BTreeSet::new();
    let mut pairs = BTreeSet::new();
    for vpc in state.vpcs().values() {
        assert!(vnis.insert(vpc.vni));
        // What a receiver does to its VPC before it accepts is checked when it accepts.
        let counting: Vec<&Peering> = state
            .peerings_of(&vpc.id)
            .filter(|it| it.counts_for(&vpc.id) && it.state != PeeringState::Pending)
            .collect();
        let mut claimed: Vec<(VpcId, ipnet::IpNet)> = vpc.cidrs.iter().map(|cidr| (vpc.id.clone(), *cidr)).collect();
        for (_, peer) in counting.iter().flat_map(|peering| peering.views()).filter(|(own, _)| own.vpc == vpc.id) {
            for cidr in &peer.cidrs {
                let clash = claimed.iter().find(|(whose, other)| *whose != peer.vpc && overlap(other, cidr));
                assert!(clash.is_none(), "{} of {} beside {clash:?} at {}", cidr, peer.vpc, vpc.id);
                claimed.push((peer.vpc.clone(), *cidr));
            }
        }
    }
    for peering in state.peerings().values() {
        for side in peering.sides() {
            assert!(side.vni.is_none_or(|vni| vnis.insert(vni)), "VNIs are given once");
            assert!(!(peering.is_live() && side.deleted_by_owner), "what an account deleted is not live");
        }
        let has_vnis = peering.sides().iter().all(|side| side.vni.is_some());
        let pending_or_over = peering.state == PeeringState::Pending || peering.is_ended();
        assert_ne!(has_vnis, pending_or_over, "VNIs as long as hosts may have it: {}", state_word(&peering.state));
        if peering.is_live() {
            let mut pair = peering.sides().map(|side| side.vpc.clone());
            pair.sort();
            assert!(pairs.insert(pair), "one live peering per pair");
        }
        if peering.state == PeeringState::Pending {
            assert!(peering.is_cross_account() && peering.expires_ms.unwrap() > model.now_ms);
        }
        let unpaid = state.account(&peering.initiator.account).charge.in_arrear() && peering.is_cross_region();
        assert!(!(unpaid && peering.forwards()), "what is not paid for does not forward");
        assert!(unpaid || !matches!(peering.state, PeeringState::Suspended { .. }));
        let rejected = matches!(peering.state, PeeringState::Ended { how: End::Rejected, .. });
        assert!(!rejected || peering.receiver.deleted_by_owner);
    }
    for account in ACCOUNTS {
        for region in ["north", "east"] {
            let (account, region) = (account.parse().unwrap(), region.parse().unwrap());
            let live = |it: &&Peering| it.is_live() && it.initiator.account == account && it.initiator.region == region;
            let count = state.peerings().values().filter(live).count();
            assert_eq!(
                count,
                peerings_used(model, account.as_str(), region.as_str()),
                "the index counts what is there"
            );
            assert!(count <= 3, "the quota holds");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// L3, L5 to L9, B5: see `invariants`.
    #[test]
    fn no_sequence_of_commands_of_several_accounts_breaks_a_rule(steps in steps_with_leaps()) {
        let mut model = small_cloud();
        for step in &steps {
            carry_out(&mut model, step);
            invariants(&model);
        }
    }

    /// Whatever the clock does, a request lives for 24 hours, neither more nor less, and what has expired stays so (L3).
    #[test]
    fn a_request_lives_as_long_as_it_may(steps in steps_with_leaps()) {
        let mut model = small_cloud();
        let passed = |model: &Model| model.now_ms.saturating_add_signed(-model.jumped_ms);
        let mut born: BTreeMap<PeeringId, u64> = BTreeMap::new();
        let mut expired: BTreeSet<PeeringId> = BTreeSet::new();
        for step in &steps {
            carry_out(&mut model, step);
            for (id, peering) in model.state.peerings().iter() {
                let age = passed(&model) - *born.entry(id.clone()).or_insert_with(|| passed(&model));
                let word = state_word(&peering.state);
                prop_assert!(word != "pending" || age < 24 * HOUR);
                prop_assert!(word != "expired" || age >= 24 * HOUR);
                prop_assert!(!expired.contains(id) || word == "expired");
                if word == "expired" {
                    expired.insert(id.clone());
                }
            }
        }
    }

    /// The sum of all periods, closed and open, is the time for which a peering had a bandwidth (B4, B6).
    #[test]
    fn every_moment_of_an_active_peering_is_charged_once(steps in steps_with_absences()) {
        let mut model = small_cloud();
        let mut expected: BTreeMap<(PeeringId, u32), u64> = BTreeMap::new();
        let passed = |model: &Model| model.now_ms.saturating_add_signed(-model.jumped_ms);
        let mut before = passed(&model);
        // What was active when the controller went down.
        let mut then = Vec::new();
        for step in &steps {
            // What is active now stays so until the step changes it, at the time to which the step sets the clock.
            let charged: Vec<(PeeringId, u32)> = model
                .state
                .peerings()
                .values()
                .filter(|it| it.state == PeeringState::Active && it.is_cross_region())
                .map(|it| (it.id.clone(), it.bandwidth.unwrap()))
                .collect();
            let leap = model.leap;
            carry_out(&mut model, step);
            match (leap, model.leap) {
                (None, Some(_)) => then.clone_from(&charged),
                (Some(leap), None) if matches!(step, Step::ConfirmClock) && !leap.elapsed_known => {
                    for key in then.drain(..) {
                        *expected.entry(key).or_default() += u64::try_from(leap.by_ms).unwrap_or(0);
                    }
                }
                _ => {}
            }
            for key in charged {
                *expected.entry(key).or_default() += passed(&model) - before;
            }
            before = passed(&model);
        }
        let open = model.state.peerings().values().flat_map(|it| open_periods(it, model.now_ms));
        let mut sums: BTreeMap<(PeeringId, u32), u64> = BTreeMap::new();
        for period in model.periods.iter().cloned().chain(open) {
            prop_assert!(period.from_ms < period.to_ms);
            *sums.entry((period.peering, period.bandwidth)).or_default() += period.to_ms - period.from_ms;
        }
        expected.retain(|_, ms| *ms > 0);
        prop_assert_eq!(sums, expected);
    }

    /// Also when the clock is set back no moment is charged twice, and none before the first (B6).
    #[test]
    fn a_clock_that_is_set_back_charges_nothing_twice(steps in steps(), clocks in proptest::collection::vec(0u64..400, 60)) {
        let mut model = small_cloud();
        for (step, clock) in steps.iter().zip(clocks) {
            carry_out(&mut model, step);
            // Around the current time, mostly forwards.
            model.now_ms = model.now_ms + clock * HOUR / 20 - 5 * HOUR;
        }
        let open = model.state.peerings().values().flat_map(|it| open_periods(it, model.now_ms));
        let mut ends: BTreeMap<PeeringId, u64> = BTreeMap::new();
        for period in model.periods.iter().cloned().chain(open) {
            prop_assert!(period.from_ms < period.to_ms);
            let end = ends.insert(period.peering.clone(), period.to_ms).unwrap_or(0);
            prop_assert!(end <= period.from_ms, "{:?} begins before {}", period, end);
        }
    }

    /// Whatever an account requests, no response names a prefix of a VPC that it does not see (L11).
    #[test]
    fn refusals_name_no_foreign_prefix(steps in steps()) {
        let mut model = small_cloud();
        for step in &steps {
            carry_out(&mut model, step);
        }
        for account in ACCOUNTS {
            let id = account.parse().unwrap();
            let vpcs = model.state.vpcs_of(&id);
            let mine: Vec<(VpcId, Vec<ipnet::IpNet>)> = vpcs.map(|vpc| (vpc.id.clone(), vpc.cidrs.clone())).collect();
            let own: BTreeSet<ipnet::IpNet> = mine.iter().flat_map(|(_, cidrs)| cidrs.clone()).collect();
            let trial = || Model { state: model.state.clone(), now_ms: model.now_ms, ..Model::default() };
            for (vpc, _) in &mine {
                for peer in VPCS {
                    if let Err(refusal) = ask(&mut trial(), vpc.as_str(), peer) {
                        let told = prefixes(&refusal.to_string());
                        prop_assert!(told.iter().all(|it| own.contains(it)), "{account}: {refusal}");
                    }
                }
                let which = vpc::Locator { region: None, id: vpc.clone() };
                let cidr: ipnet::IpNet = "10.4.128.0/17".parse().unwrap();
                if let Err(refusal) = trial().run_as(account, Command::AddCidr(vpc::Cidr { which, cidr })) {
                    let told = prefixes(&refusal.to_string());
                    prop_assert!(told.iter().all(|it| own.contains(it) || *it == cidr), "{account}: {refusal}");
                }
            }
        }
    }

    #[test]
    fn accounts_see_their_own_and_nothing_else(steps in steps()) {
        let mut model = small_cloud();
        for step in &steps {
            carry_out(&mut model, step);
        }
        for (account, peering) in ACCOUNTS.iter().flat_map(|account| model.state.peerings().values().map(move |it| (account, it))) {
            let seen = role(peering, &account.parse().unwrap(), None);
            let own = peering.sides().iter().any(|side| side.account.as_str() == *account);
            prop_assert!(own || seen.is_none());
            let listed = model.state.peerings_of_account(&account.parse().unwrap()).any(|it| it.id == peering.id);
            prop_assert_eq!(listed, own);
        }
    }

    /// All records make the same state again, in any order.
    #[test]
    fn a_state_is_its_records(steps in steps()) {
        use cps_peering_controller::model::state::{Change, State};
        let mut model = small_cloud();
        for step in &steps {
            carry_out(&mut model, step);
        }
        let state = &model.state;
        let mut again = State::default();
        again.apply(Change::Meta(state.meta()));
        let peerings = state.peerings().values().rev().map(|it| Change::Peering(it.id.clone(), Some(it.clone())));
        let vpcs = state.vpcs().values().map(|it| Change::Vpc(it.id.clone(), Some(it.clone())));
        let accounts = state.accounts().values().map(|it| Change::Account(it.id.clone(), Some(it.clone())));
        let regions = state.regions().values().map(|it| Change::Region(it.id.clone(), Some(it.clone())));
        let hourly = state.hourly().iter().map(|(key, it)| Change::Hourly(key.clone(), Some(it.clone())));
        for change in peerings.chain(vpcs).chain(accounts).chain(regions).chain(hourly) {
            again.apply(change);
        }
        prop_assert_eq!(&again, state);
    }
}
