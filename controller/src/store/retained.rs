//! Unknown fields of records, written by a newer release. They are written back with changes of the record, so
//! that nothing is lost when that release comes back: after a downgrade, or while controllers are upgraded one by one.

use serde::Serialize;
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Unknown fields, by the keys of the records.
#[derive(Debug, Default)]
pub(crate) struct Retained(Mutex<BTreeMap<String, Kept>>);

#[derive(Debug)]
struct Kept {
    fields: Fields,
    /// Whether the record is about to be removed: a new one in its place has nothing in common with it.
    removed: bool,
}

/// The unknown part of a value.
#[derive(Debug, Clone, PartialEq)]
enum Fields {
    /// Of an object: unknown fields, and the unknown parts of known fields.
    Object(Map<String, Value>, BTreeMap<String, Fields>),
    /// Of a list: the unknown parts of elements, with the known parts.
    List(Vec<(Value, Fields)>),
}

impl Fields {
    /// The part of a value that is not in its known part.
    fn between(stored: &Value, known: &Value) -> Option<Self> {
        match (stored, known) {
            (Value::Object(stored), Value::Object(known)) => {
                let (mut unknown, mut within) = (Map::new(), BTreeMap::new());
                for (name, value) in stored {
                    match known.get(name) {
                        None => drop(unknown.insert(name.clone(), value.clone())),
                        Some(known) => within.extend(Self::between(value, known).map(|fields| (name.clone(), fields))),
                    }
                }
                (!unknown.is_empty() || !within.is_empty()).then_some(Fields::Object(unknown, within))
            }
            (Value::Array(stored), Value::Array(known)) if stored.len() == known.len() => {
                let pairs = stored.iter().zip(known);
                let unknown = pairs.filter_map(|(stored, known)| Some((known.clone(), Self::between(stored, known)?)));
                let unknown: Vec<_> = unknown.collect();
                (!unknown.is_empty()).then_some(Fields::List(unknown))
            }
            _ => None,
        }
    }

    /// Puts the fields back, as far as what they belong to still exists.
    fn put_back(&self, value: &mut Value) {
        match (self, value) {
            (Fields::Object(unknown, within), Value::Object(value)) => {
                for (name, fields) in within {
                    if let Some(value) = value.get_mut(name) {
                        fields.put_back(value);
                    }
                }
                for (name, field) in unknown {
                    value.entry(name).or_insert_with(|| field.clone());
                }
            }
            (Fields::List(unknown), Value::Array(value)) => {
                for element in value {
                    if let Some((_, fields)) = unknown.iter().find(|(known, _)| *known == *element) {
                        fields.put_back(element);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Retained {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        // Each change leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.all().clear();
    }

    /// A record was read without unknown fields, or it is gone.
    pub(super) fn nothing_of(&self, key: &str) {
        self.all().remove(key);
    }

    /// A record was read with unknown fields.
    pub(super) fn keep(&self, key: &str, json: &[u8], known: &impl Serialize) -> serde_json::Result<()> {
        let fields = Fields::between(&serde_json::from_slice(json)?, &serde_json::to_value(known)?);
        match fields {
            Some(fields) => drop(self.all().insert(key.to_owned(), Kept { fields, removed: false })),
            None => self.nothing_of(key),
        }
        Ok(())
    }

    /// A record to write, with its retained fields.
    pub(super) fn put_back(&self, key: &str, record: &impl Serialize) -> serde_json::Result<Vec<u8>> {
        let all = self.all();
        let Some(kept) = all.get(key).filter(|kept| !kept.removed) else { return serde_json::to_vec(record) };
        let mut value = serde_json::to_value(record)?;
        kept.fields.put_back(&mut value);
        serde_json::to_vec(&value)
    }

    /// A record is being removed.
    pub(super) fn remove(&self, key: &str) {
        if let Some(kept) = self.all().get_mut(key) {
            kept.removed = true;
        }
    }

    /// The removals have succeeded, or failed.
    pub(super) fn settle(&self, keys: impl Iterator<Item = impl AsRef<str>>, gone: bool) {
        let mut all = self.all();
        if all.is_empty() {
            return;
        }
        for key in keys {
            if gone && all.get(key.as_ref()).is_some_and(|kept| kept.removed) {
                all.remove(key.as_ref());
            } else if let Some(kept) = all.get_mut(key.as_ref()) {
                kept.removed = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_known_is_put_back_where_it_belongs() {
        let stored = json!({
            "a": 1, "new": [1], "side": { "b": 2, "color": "red" }, "gone": { "c": 3, "x": 4 },
            "tags": [{ "k": 1, "note": "n" }, { "k": 2 }, { "k": 3, "note": "m" }],
        });
        let known = json!({
            "a": 1, "side": { "b": 2 }, "gone": { "c": 3 }, "tags": [{ "k": 1 }, { "k": 2 }, { "k": 3 }],
        });
        let retained = Retained::default();
        retained.keep("it", stored.to_string().as_bytes(), &known).unwrap();
        let read =
            |value: &Value| -> Value { serde_json::from_slice(&retained.put_back("it", value).unwrap()).unwrap() };
        assert_eq!(read(&known), stored, "what is not changed is as it was");
        let changed = json!({ "a": 7, "side": { "b": 8 }, "tags": [{ "k": 3 }, { "k": 9 }] });
        let wanted = json!({
            "a": 7, "new": [1], "side": { "b": 8, "color": "red" }, "tags": [{ "k": 3, "note": "m" }, { "k": 9 }],
        });
        assert_eq!(read(&changed), wanted);
        // Values that this release writes itself take precedence.
        assert_eq!(read(&json!({ "new": 5 }))["new"], 5);
        assert_eq!(retained.put_back("other", &known).unwrap(), serde_json::to_vec(&known).unwrap());

        // A record that is created again has nothing of the previous one, also before the removal is durable.
        retained.remove("it");
        assert_eq!(read(&known), known);
        retained.settle(["it"].iter(), false);
        assert_eq!(read(&known), stored, "it could not be removed");
        retained.remove("it");
        retained.settle(["it"].iter(), true);
        assert_eq!(read(&known), known);
    }
}
