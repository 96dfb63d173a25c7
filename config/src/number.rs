//! Whole numbers in JSON and TOML: JSON does not distinguish `100` and `100.0` (RFC 8259 section 6), and clients write
//! either.

use serde::{
    Deserialize, Deserializer,
    de::{Error, Unexpected, Visitor},
};
use std::{collections::BTreeMap, fmt};

/// A whole number that may be written with a decimal point.
struct Whole(u32);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from 0 to {}", u32::MAX)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Whole, E> {
                let whole = u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self));
                whole.map(Whole)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Whole, E> {
                let whole = u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self));
                whole.map(Whole)
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Whole, E> {
                let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
                // A float represents every whole number in this range exactly.
                let whole = is_whole.then(|| format!("{number:.0}").trim_start_matches('-').parse().ok()).flatten();
                whole.map(Whole).ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

/// A whole number.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Whole::deserialize(deserializer).map(|Whole(number)| number)
}

/// A whole number that may be absent.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Option::<Whole>::deserialize(deserializer).map(|number| number.map(|Whole(number)| number))
}

/// The same, with zero as absent: generated clients write it for what is not set.
pub fn optional_not_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    optional(deserializer).map(|number| number.filter(|number| *number > 0))
}

/// Whole numbers by name.
pub fn map<'de, D: Deserializer<'de>, K: Deserialize<'de> + Ord>(
    deserializer: D,
) -> Result<BTreeMap<K, u32>, D::Error> {
    let numbers = BTreeMap::<K, Whole>::deserialize(deserializer)?;
    Ok(numbers.into_iter().map(|(key, Whole(number))| (key, number)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Body {
        #[serde(default, deserialize_with = "optional_not_zero")]
        bandwidth: Option<u32>,
    }

    fn read(text: &str) -> Result<Option<u32>, String> {
        let read: Result<Body, _> = serde_json::from_str(&format!("{{ \"bandwidth\": {text} }}"));
        read.map(|body| body.bandwidth).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_number_is_one_however_it_is_written() {
        for (text, number) in [("100", 100), ("100.0", 100), ("1e2", 100), ("4294967295.0", u32::MAX)] {
            assert_eq!(read(text), Ok(Some(number)), "{text}");
        }
        for absent in ["0", "0.0", "-0.0", "null"] {
            assert_eq!(read(absent), Ok(None), "{absent}");
        }
        for wrong in ["100.5", "-1", "-1.0", "4294967296", "4294967296.0", "1e99", "\"100\"", "true", "[]", "{}"] {
            assert!(read(wrong).unwrap_err().contains("a whole number from 0 to 4294967295"), "{wrong}");
        }
    }
}
