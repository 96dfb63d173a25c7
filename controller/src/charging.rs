//! From periods to amounts: a price table, a time window, the lines of an invoice. Pure.
//!
//! All arithmetic is exact: prices are integral billionths of the currency's unit, times are milliseconds. Displayed values are rounded
//! once, half up, to millionths: each line, and the total, which is the sum of the exact amounts.

use crate::model::metering::Charged;
use cps_peering_config::{
    id::RegionId,
    settings::{Price, PriceError},
    time::timestamp_ms,
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt};
use utoipa::ToSchema;

/// Billionths in a unit.
const NANO: u128 = 1_000_000_000;
const HOUR_MS: u128 = 60 * 60 * 1000;
/// Billionths in a millionth.
const ROUND: u128 = 1000;

/// An amount: milliseconds times the price per hour in billionths of the currency's unit, which is exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(pub u128);

/// Rounded half up to millionths of the unit.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MILLIONTHS: u128 = NANO / ROUND;
        let rounded = (self.0 + HOUR_MS * ROUND / 2) / (HOUR_MS * ROUND);
        write!(f, "{}.{:06}", rounded / MILLIONTHS, rounded % MILLIONTHS)
    }
}

impl std::iter::Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        Self(amounts.map(|amount| amount.0).sum())
    }
}

/// A tier with its price in billionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tier {
    up_to_mbit: Option<u32>,
    nano_per_mbit_hour: u128,
}

/// Prices by pair of regions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prices {
    by_regions: BTreeMap<[RegionId; 2], Vec<Tier>>,
    others: Option<Vec<Tier>>,
}

fn sorted([one, other]: &[RegionId; 2]) -> [RegionId; 2] {
    if one <= other { [one.clone(), other.clone()] } else { [other.clone(), one.clone()] }
}

impl Prices {
    /// Reads the price table of the settings.
    pub fn new(table: &[Price]) -> Result<Self, PriceError> {
        let mut prices = Self::default();
        for price in table {
            let tiers = price.checked()?.into_iter();
            let tiers: Vec<Tier> =
                tiers.map(|(up_to_mbit, nano)| Tier { up_to_mbit, nano_per_mbit_hour: u128::from(nano) }).collect();
            match &price.regions {
                Some(regions) => drop(prices.by_regions.insert(sorted(regions), tiers)),
                None => prices.others = Some(tiers),
            }
        }
        Ok(prices)
    }

    /// The price of a bandwidth between two regions for an hour, in billionths; none without a price.
    fn per_hour(&self, regions: &[RegionId; 2], bandwidth: u32) -> Option<u128> {
        let tiers = self.by_regions.get(&sorted(regions)).or(self.others.as_ref())?;
        let mut below = 0;
        let mut sum = 0;
        for tier in tiers {
            let top = tier.up_to_mbit.unwrap_or(u32::MAX).min(bandwidth);
            sum += u128::from(top.saturating_sub(below)) * tier.nano_per_mbit_hour;
            below = below.max(top);
        }
        Some(sum)
    }

    /// The price of a bandwidth for a time; none without a price.
    pub fn amount(&self, regions: &[RegionId; 2], bandwidth: u32, ms: u64) -> Option<Amount> {
        Some(Amount(self.per_hour(regions, bandwidth)? * u128::from(ms)))
    }

    /// The price table: pairs of regions, and none for all others.
    pub fn table(&self) -> Vec<PriceView> {
        let text = |nano: u128| format!("{}.{:09}", nano / NANO, nano % NANO);
        let tiers = |tiers: &[Tier]| {
            let view = |tier: &Tier| {
                let price = text(tier.nano_per_mbit_hour);
                let per_mbit_hour = price.trim_end_matches('0').trim_end_matches('.').to_owned();
                TierView { up_to_mbit: tier.up_to_mbit, per_mbit_hour }
            };
            tiers.iter().map(view).collect()
        };
        let named = self.by_regions.iter().map(|(regions, of)| PriceView {
            regions: Some(regions.iter().map(ToString::to_string).collect()),
            tiers: tiers(of),
        });
        named.chain(self.others.iter().map(|of| PriceView { regions: None, tiers: tiers(of) })).collect()
    }
}

/// The price of bandwidth between two regions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PriceView {
    /// The two regions, in either order; none for all other pairs.
    pub regions: Option<Vec<String>>,
    /// The tiers, from the first Mbit/s on.
    pub tiers: Vec<TierView>,
}

/// The price of each Mbit/s of a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierView {
    /// The last Mbit/s of the tier; none for the last tier.
    pub up_to_mbit: Option<u32>,
    /// The price of a Mbit/s for an hour, in the currency's unit.
    #[schema(example = "0.25")]
    pub per_mbit_hour: String,
}

/// One line of an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The peering.
    pub vpc_peering_id: String,
    /// The account that pays.
    pub account_id: String,
    /// The initiator's region.
    pub region_id: String,
    /// The receiver's region.
    pub remote_region_id: String,
    /// Bandwidth in Mbit/s per direction.
    pub bandwidth: u32,
    /// Start.
    pub from: String,
    /// End (exclusive).
    pub to: String,
    /// How long, in seconds with three decimals.
    pub seconds: String,
    /// The amount; empty if there is no price.
    pub amount: String,
    /// Whether it goes on.
    pub open: bool,
}

/// Charges of a period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Invoice {
    /// The currency of all amounts.
    pub currency: String,
    /// The sum of the exact amounts, rounded once.
    pub total: String,
    /// Periods in the order in which they ended.
    pub lines: Vec<Line>,
}

/// The charges for closed and open periods within a window of time, from its first moment to the one after its last, in
/// milliseconds since 1970-01-01 UTC.
pub fn invoice(charged: &Charged, window: std::ops::Range<u64>, prices: &Prices, currency: &str) -> Invoice {
    let closed = charged.closed.iter().map(|period| (period, false));
    // The first second of an open period can be closed: its bandwidth was different.
    let open = charged.open.iter().map(|period| (period, period.to_ms == charged.now_ms));
    let periods = closed.chain(open);
    let mut total = Amount::default();
    let mut lines = Vec::new();
    for (period, is_open) in periods {
        let (from_ms, to_ms) = (period.from_ms.max(window.start), period.to_ms.min(window.end));
        if from_ms >= to_ms {
            continue;
        }
        let ms = to_ms - from_ms;
        let amount = prices.amount(&period.regions, period.bandwidth, ms);
        total = [total].into_iter().chain(amount).sum();
        let [region, remote] = &period.regions;
        lines.push(Line {
            vpc_peering_id: period.peering.to_string(),
            account_id: period.payer.to_string(),
            region_id: region.to_string(),
            remote_region_id: remote.to_string(),
            bandwidth: period.bandwidth,
            from: timestamp_ms(from_ms),
            to: timestamp_ms(to_ms),
            seconds: format!("{}.{:03}", ms / 1000, ms % 1000),
            amount: amount.map(|amount| amount.to_string()).unwrap_or_default(),
            open: is_open && period.to_ms <= window.end,
        });
    }
    Invoice { currency: currency.to_owned(), total: total.to_string(), lines }
}

impl Invoice {
    /// The lines as comma-separated values (RFC 4180) with a heading. No field needs quotes: all are numbers, times, or ids
    /// of `[A-Za-z0-9._-]`.
    pub fn to_csv(&self) -> String {
        let heading = "vpcPeeringId,accountId,regionId,remoteRegionId,bandwidth,from,to,seconds,amount,currency,open";
        let line = |it: &Line| {
            format!(
                "{},{},{},{},{},{},{},{},{},{},{}",
                it.vpc_peering_id,
                it.account_id,
                it.region_id,
                it.remote_region_id,
                it.bandwidth,
                it.from,
                it.to,
                it.seconds,
                it.amount,
                self.currency,
                it.open
            )
        };
        let lines = std::iter::once(heading.to_owned()).chain(self.lines.iter().map(line));
        lines.map(|line| line + "\r\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::metering::Period;

    fn regions(one: &str, other: &str) -> [RegionId; 2] {
        [one.parse().unwrap(), other.parse().unwrap()]
    }

    fn prices() -> Prices {
        let table: Vec<Price> = toml::from_str::<BTreeMap<String, Vec<Price>>>(
            "[[prices]]\nregions = ['north', 'east']\ntiers = [{ up_to_mbit = 5, per_mbit_hour = '0.1' }, { per_mbit_hour = '0.25' }]\n\
             [[prices]]\ntiers = [{ per_mbit_hour = '0.000000001' }]\n",
        )
        .unwrap()
        .remove("prices")
        .unwrap();
        Prices::new(&table).unwrap()
    }

    fn amount(one: &str, other: &str, bandwidth: u32, ms: u64) -> String {
        prices().amount(&regions(one, other), bandwidth, ms).unwrap().to_string()
    }

    #[test]
    fn each_mbit_costs_what_its_tier_says() {
        const HOUR: u64 = 3_600_000;
        assert_eq!(amount("north", "east", 5, HOUR), "0.500000");
        assert_eq!(amount("east", "north", 6, HOUR), "0.750000", "in whichever direction it was asked for");
        assert_eq!(amount("north", "east", 100, 30 * 24 * HOUR), "17460.000000");
        assert_eq!(amount("north", "east", 1, 36), "0.000001");
        assert_eq!(amount("north", "east", 1, 17), "0.000000", "less than half a millionth");
        assert_eq!(amount("north", "east", 1, 18), "0.000001", "half up");
        assert_eq!(amount("north", "west", 10_000, HOUR), "0.000010", "what has no price of its own");
        assert_eq!(Prices::default().amount(&regions("a", "b"), 1, 1), None);
    }

    #[test]
    fn windows_side_by_side_charge_everything_once() {
        let period = |from_ms, to_ms| Period {
            peering: "p".parse().unwrap(),
            payer: "one".parse().unwrap(),
            regions: regions("north", "east"),
            bandwidth: 10,
            from_ms,
            to_ms,
        };
        let closed = vec![period(0, 10_500), period(10_500, 20_000)];
        // Another bandwidth within the first second.
        let open = vec![period(20_000, 21_000), period(21_000, 31_000)];
        let charged = Charged { closed, open, now_ms: 31_000 };
        let seconds = |window| -> Vec<String> {
            let invoice = invoice(&charged, window, &prices(), "CNY");
            invoice.lines.iter().map(|line| format!("{}{}", line.seconds, if line.open { "+" } else { "" })).collect()
        };
        assert_eq!(seconds(0..u64::MAX), ["10.500", "9.500", "1.000", "10.000+"]);
        assert_eq!(seconds(0..15_000), ["10.500", "4.500"]);
        assert_eq!(seconds(15_000..25_000), ["5.000", "1.000", "4.000"]);
        assert_eq!(seconds(25_000..40_000), ["6.000+"]);
        assert_eq!(seconds(20_000..31_000), ["1.000", "10.000+"], "what only touches the window has no line");
        let invoice = invoice(&charged, 0..u64::MAX, &prices(), "CNY");
        let csv = invoice.to_csv();
        assert_eq!(csv.lines().count(), 5);
        assert!(
            csv.contains(
                "p,one,north,east,10,1970-01-01T00:00:00.000Z,1970-01-01T00:00:10.500Z,10.500,0.005104,CNY,false"
            ),
            "{csv}"
        );
    }

    #[test]
    fn a_sum_is_rounded_once() {
        // Each of a thousand seconds costs 0.4 millionths.
        let table: Vec<Price> =
            toml::from_str::<BTreeMap<String, Vec<Price>>>("[[prices]]\ntiers = [{ per_mbit_hour = '0.00144' }]\n")
                .unwrap()
                .remove("prices")
                .unwrap();
        let prices = Prices::new(&table).unwrap();
        let period = |second: u64| Period {
            peering: "p".parse().unwrap(),
            payer: "one".parse().unwrap(),
            regions: regions("north", "east"),
            bandwidth: 1,
            from_ms: second * 1000,
            to_ms: (second + 1) * 1000,
        };
        let closed: Vec<Period> = (0..1000).map(period).collect();
        let charged = Charged { closed, open: Vec::new(), now_ms: 1_000_000 };
        let invoice = invoice(&charged, 0..u64::MAX, &prices, "CNY");
        assert!(invoice.lines.iter().all(|line| line.amount == "0.000000"), "{:?}", invoice.lines[0]);
        assert_eq!(invoice.total, "0.000400");
        assert_eq!(prices.table()[0].tiers[0].per_mbit_hour, "0.00144");
    }
}
