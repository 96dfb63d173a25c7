//! Prices of bandwidth.

use crate::id::RegionId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The price of peerings between two regions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// The two regions, in any order; none for all pairs that have no price of their own.
    #[serde(default)]
    pub regions: Option<[RegionId; 2]>,
    /// Prices by bandwidth: each Mbit/s costs the price of the tier that it falls in.
    pub tiers: Vec<PriceTier>,
}

/// A range of bandwidth with one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceTier {
    /// The last Mbit/s of the tier; none for the last tier.
    #[serde(default)]
    pub up_to_mbit: Option<u32>,
    /// The price of a Mbit/s for an hour, a decimal number with at most nine decimals, as a string: `"0.05"`.
    pub per_mbit_hour: String,
}

/// An invalid price table.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PriceError {
    /// A price is not a number.
    #[error("per_mbit_hour {0:?} is not a decimal number with at most nine decimals")]
    NotANumber(String),
    /// The tiers are not ascending, or the last one has an end.
    #[error("tiers must go upwards by up_to_mbit, and the last one must have none")]
    Tiers,
}

/// A decimal number in billionths.
fn billionths(text: &str) -> Result<u64, PriceError> {
    const DECIMALS: usize = 9;
    let wrong = || PriceError::NotANumber(text.to_owned());
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || decimals.len() > DECIMALS || !digits(whole) || !digits(decimals) {
        return Err(wrong());
    }
    format!("{whole}{decimals:0<DECIMALS$}").parse().map_err(|_| wrong())
}

impl Price {
    /// The tiers with their prices in billionths.
    pub fn checked(&self) -> Result<Vec<(Option<u32>, u64)>, PriceError> {
        let mut below = Some(0);
        let mut tiers = Vec::new();
        for tier in &self.tiers {
            // Nothing may follow a tier without an end.
            let least = below.ok_or(PriceError::Tiers)?;
            if tier.up_to_mbit.is_some_and(|top| top <= least) {
                return Err(PriceError::Tiers);
            }
            below = tier.up_to_mbit;
            tiers.push((tier.up_to_mbit, billionths(&tier.per_mbit_hour)?));
        }
        if below.is_some() { Err(PriceError::Tiers) } else { Ok(tiers) }
    }
}
