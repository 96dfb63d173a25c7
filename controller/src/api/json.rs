//! What JSON leaves open (RFC 8259 section 4): an object with a duplicate key means one thing to one reader and another to the next, so
//! it is refused. And what generated clients write for unset fields.

use super::response::Failure;
use cps_peering_config::text::{MAX_QUOTED, cut, shorten};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use std::{cell::RefCell, collections::HashSet, fmt};

/// Reads any value and keeps only the first duplicate key.
#[derive(Clone, Copy)]
struct Unique<'a>(&'a RefCell<Option<String>>);

impl<'de> DeserializeSeed<'de> for Unique<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut known = HashSet::new();
        while let Some(key) = fields.next_key::<String>()? {
            if !known.insert(key.clone()) {
                self.0.replace(Some(key));
                return Err(A::Error::custom("it is there twice"));
            }
            fields.next_value_seed(self)?;
        }
        Ok(())
    }
}

/// Refuses invalid JSON, and objects with duplicate keys.
pub(super) fn check(body: &[u8]) -> Result<(), Failure> {
    let twice = RefCell::new(None);
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let read = Unique(&twice).deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track));
    match (read.and_then(|()| json.end()), twice.into_inner()) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(key)) => {
            let (path, key) = (shorten(&track.path().to_string()), cut(&key, MAX_QUOTED));
            let entry = if path == "." { key } else { format!("{path}.{key}") };
            Err(Failure::field(entry, "it is there twice"))
        }
        (Err(error), None) => Err(Failure::invalid(format!("the body is no JSON: {}", shorten(&error.to_string())))),
    }
}

/// A text, or none if it is empty: generated clients write `""` for unset fields.
pub(super) fn not_empty<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    match Option::<Value>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(value) => T::deserialize(value).map(Some).map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> Option<String> {
        check(body.as_bytes()).err().map(|failure| format!("{failure:?}"))
    }

    #[test]
    fn a_key_is_there_once_in_each_object() {
        for legal in ["{}", "[]", "1", r#"{ "a": [{ "b": 1 }, { "b": 1 }], "b": null }"#, r#"{ "a": { "a": 1.5 } }"#] {
            assert_eq!(refused(legal), None, "{legal}");
        }
        for (body, entry) in [
            (r#"{ "a": 1, "a": 1 }"#, "\"a\""),
            (r#"{ "a": { "b": true, "c": "x", "b": null } }"#, "\"a.b\""),
            (r#"{ "a": 1, "\u0061": 2 }"#, "\"a\""),
            (r#"{ "tags": [{}, { "k": 1, "k": [] }] }"#, "\"tags[1].k\""),
        ] {
            let failure = refused(body).unwrap();
            assert!(failure.contains(entry) && failure.contains("there twice"), "{body}: {failure}");
        }
        let long = "k".repeat(10_000);
        assert!(refused(&format!("{{ \"{long}\": 1, \"{long}\": 2 }}")).unwrap().len() < 3000);
        for broken in ["", "{", "{} {}", r#"{ "a": 1, }"#, &"[".repeat(10_000)] {
            assert!(refused(broken).unwrap().contains("no JSON"), "{broken}");
        }
    }
}
