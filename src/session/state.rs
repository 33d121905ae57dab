//! Between a row of `php_session` and the session layer's map of JSON texts; pure.
//!
//! PHP knows values that JSON does not (bytes, objects, references, keys of two kinds): they travel through the map as an object
//! with the one key [`ESCAPE`], which no PHP text can be confused with, and come back byte for byte. A variable that nobody
//! changed keeps its bytes. The map also carries the row it was read from ([`BASE`]), so that [`merge`] can tell what *this*
//! request changed and leave what another request changed meanwhile.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

use super::php::{self, PhpError, PhpKey, PhpValue, Variable};

/// What the session layer holds: JSON texts by name.
pub(super) type State = HashMap<String, String>;

/// Key of an object that stands for a value JSON cannot hold; the value is it serialized, in hexadecimal digits.
const ESCAPE: &str = "\0php";
/// Name under which the map carries the row it was read from. `\0` keeps it apart from any name PHP uses.
pub(super) const BASE: &str = "\0base";

/// Why a session cannot be written.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum MergeError {
    #[error(transparent)]
    Row(#[from] PhpError),
    #[error("a value is not JSON: {0}")]
    Json(String),
    #[error("the name of a variable cannot be written in PHP's format")]
    Name,
    /// `R:3` means "the third value of the session": nothing in front may come or go.
    #[error("the session holds references between variables, and one in front of them was changed")]
    References,
}

/// The variables of a row, and the row itself under [`BASE`].
///
/// # Errors
/// The row is not in PHP's format. Then nothing may be written over it.
pub(super) fn load(data: &[u8]) -> Result<State, PhpError> {
    let mut state = variables(data)?;
    state.insert(BASE.to_owned(), hex::encode(data));
    Ok(state)
}

fn variables(data: &[u8]) -> Result<State, PhpError> {
    let mut state = State::new();
    for variable in php::split(data)? {
        // A name that is not UTF-8 cannot be shown; the variable stays in the row.
        if let Ok(name) = String::from_utf8(variable.name) {
            state.insert(name, to_json(&php::read(&variable.serialized)?));
        }
    }
    Ok(state)
}

/// The row that `state` was read from, if it was read from one (and not cleared since).
pub(super) fn base(state: &State) -> Option<Vec<u8>> {
    hex::decode(state.get(BASE)?).ok()
}

/// The row to write: `current` (the row as it is now) with what `state` changed since it was read.
///
/// # Errors
/// See [`MergeError`].
pub(super) fn merge(current: &[u8], state: &State) -> Result<Vec<u8>, MergeError> {
    let base = match base(state) {
        Some(base) => Some(variables(&base)?),
        None => None,
    };
    let mut merged = Vec::new();
    let (mut known, mut touched_before, mut touched) = (Vec::new(), false, false);
    for variable in php::split(current)? {
        let kept = match std::str::from_utf8(&variable.name) {
            Err(_) => Some(variable.clone()),
            Ok(name) => {
                known.push(name.to_owned());
                let before = base.as_ref().and_then(|base| base.get(name));
                match (before, state.get(name)) {
                    (before, Some(now)) if before != Some(now) => Some(variable_of(name, now)?),
                    (Some(_), None) => None,
                    // Cleared, not loaded: everything goes.
                    (None, None) if base.is_none() => None,
                    _ => Some(variable.clone()),
                }
            }
        };
        touched |= kept.as_ref() != Some(&variable);
        touched_before |= touched && php::refers(&php::read(&variable.serialized)?) && base.is_some();
        merged.extend(kept);
    }
    if touched_before {
        return Err(MergeError::References);
    }
    let mut added: Vec<_> = state
        .iter()
        .filter(|(name, _)| *name != BASE && !known.contains(*name))
        // Unchanged here and gone from the row: another request removed it.
        .filter(|(name, now)| base.as_ref().and_then(|base| base.get(*name)) != Some(*now))
        .collect();
    added.sort();
    for (name, json) in added {
        merged.push(variable_of(name, json)?);
    }
    Ok(php::join(&merged))
}

fn variable_of(name: &str, json: &str) -> Result<Variable, MergeError> {
    if name.is_empty() || name.contains('|') || name.contains('\0') {
        return Err(MergeError::Name);
    }
    let FromJson(value) = serde_json::from_str(json).map_err(|error| MergeError::Json(error.to_string()))?;
    Ok(Variable::new(name.as_bytes(), &value))
}

fn to_json(value: &PhpValue) -> String {
    let mut json = String::new();
    write_json(value, &mut json);
    json
}

fn write_json(value: &PhpValue, json: &mut String) {
    match value {
        PhpValue::Null => json.push_str("null"),
        PhpValue::Bool(value) => json.push_str(if *value { "true" } else { "false" }),
        PhpValue::Int(value) => json.push_str(&value.to_string()),
        PhpValue::Float(float) => {
            let text = serde_json::to_string(float).unwrap_or_default();
            // Infinity has no JSON, and a JSON reader may miss the last bit.
            match serde_json::from_str::<f64>(&text) {
                Ok(read) if read.to_bits() == float.to_bits() => json.push_str(&text),
                _ => write_escaped(value, json),
            }
        }
        PhpValue::Str(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => json.push_str(&quoted(text)),
            Err(_) => write_escaped(value, json),
        },
        PhpValue::Array(entries) if is_list(entries) => {
            json.push('[');
            for (i, (_, value)) in entries.iter().enumerate() {
                if i > 0 {
                    json.push(',');
                }
                write_json(value, json);
            }
            json.push(']');
        }
        PhpValue::Array(entries) => {
            let Some(names) = names_of(entries) else {
                return write_escaped(value, json);
            };
            json.push('{');
            for (i, (name, (_, value))) in names.iter().zip(entries).enumerate() {
                if i > 0 {
                    json.push(',');
                }
                json.push_str(&quoted(name));
                json.push(':');
                write_json(value, json);
            }
            json.push('}');
        }
        PhpValue::Raw(_) => write_escaped(value, json),
    }
}

fn write_escaped(value: &PhpValue, json: &mut String) {
    let mut serialized = Vec::new();
    php::write(value, &mut serialized);
    json.push_str(&format!(
        "{{{}:\"{}\"}}",
        quoted(ESCAPE),
        hex::encode(&serialized)
    ));
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn is_list(entries: &[(PhpKey, PhpValue)]) -> bool {
    (0i64..).zip(entries).all(|(i, (key, _))| *key == PhpKey::Int(i))
}

/// The keys as names of a JSON object, if they come back as the same keys.
fn names_of(entries: &[(PhpKey, PhpValue)]) -> Option<Vec<String>> {
    let mut seen = std::collections::HashSet::new();
    let name_of = |(key, _): &(PhpKey, PhpValue)| {
        let name = match key {
            PhpKey::Int(key) => key.to_string(),
            PhpKey::Str(bytes) => String::from_utf8(bytes.clone()).ok()?,
        };
        let comes_back = PhpKey::of_text(name.as_bytes()) == *key && name != ESCAPE;
        (comes_back && seen.insert(name.clone())).then_some(name)
    };
    entries.iter().map(name_of).collect()
}

/// Reads JSON in its own order, which a map of `serde_json` would lose.
struct FromJson(PhpValue);

impl<'de> Deserialize<'de> for FromJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FromJson, D::Error> {
        deserializer.deserialize_any(JsonVisitor).map(FromJson)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = PhpValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<PhpValue, E> {
        Ok(PhpValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<PhpValue, E> {
        Ok(PhpValue::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<PhpValue, E> {
        Ok(PhpValue::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<PhpValue, E> {
        // As PHP does with a number that is too large for its `int`.
        Ok(i64::try_from(value).map_or(PhpValue::Float(value as f64), PhpValue::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<PhpValue, E> {
        Ok(PhpValue::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<PhpValue, E> {
        Ok(PhpValue::Str(value.as_bytes().to_vec()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PhpValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(FromJson(value)) = seq.next_element()? {
            entries.push((PhpKey::Int(entries.len() as i64), value));
        }
        Ok(PhpValue::Array(entries))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PhpValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == ESCAPE {
                let serialized = hex::decode(map.next_value::<String>()?).ok();
                let value = serialized.and_then(|serialized| php::read(&serialized).ok());
                return value.ok_or_else(|| A::Error::custom("a damaged PHP value"));
            }
            let FromJson(value) = map.next_value()?;
            entries.push((PhpKey::of_text(name.as_bytes()), value));
        }
        Ok(PhpValue::Array(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(current: &[u8], state: &State) -> String {
        String::from_utf8(merge(current, state).unwrap()).unwrap()
    }

    #[test]
    fn common_values_are_common_json() {
        let data = "n|N;t|b:1;i|i:-5;f|d:2;s|s:3:\"\u{20ac}\";l|a:2:{i:0;i:1;i:1;s:1:\"x\";}m|a:2:{s:1:\"z\";i:1;s:1:\"a\";i:2;}";
        let state = load(data.as_bytes()).unwrap();
        let json = |name: &str| state[name].as_str();
        assert_eq!(
            (json("n"), json("t"), json("i"), json("f")),
            ("null", "true", "-5", "2.0")
        );
        assert_eq!(
            (json("s"), json("l"), json("m")),
            ("\"\u{20ac}\"", "[1,\"x\"]", "{\"z\":1,\"a\":2}")
        );
        // Written anew from JSON, every value is the same to PHP.
        let mut written = State::new();
        for (name, json) in &state {
            written.insert(format!("{name}2"), json.clone());
        }
        written.remove("\0base2");
        let again = variables(&merge(b"", &written).unwrap()).unwrap();
        for (name, json) in &written {
            assert_eq!(&again[name], json);
        }
    }

    #[test]
    fn what_json_cannot_hold_comes_back() {
        let data = b"b|s:2:\"\xff\x00\";o|O:8:\"stdClass\":1:{s:1:\"p\";i:1;}i|d:INF;m|a:2:{i:5;N;s:2:\"05\";N;}k|a:1:{s:1:\"\xff\";N;}";
        let mut state = load(data).unwrap();
        assert_eq!(state.len(), 6);
        assert_eq!(merge(data, &state).unwrap(), data);
        let base = state.remove(BASE);
        assert!(base.is_some());
        let order = |data: &[u8]| {
            let mut all = php::split(data).unwrap();
            all.sort_by(|a, b| a.name.cmp(&b.name));
            all
        };
        assert_eq!(order(&merge(b"", &state).unwrap()), order(data));
    }

    #[test]
    fn a_request_changes_only_what_it_changed() {
        let read = b"a|i:1;b|i:2;c|i:3;";
        let mut state = load(read).unwrap();
        state.insert("b".into(), "20".into());
        state.insert("new".into(), "\"x\"".into());
        state.remove("c");
        assert_eq!(merged(read, &state), "a|i:1;b|i:20;new|s:1:\"x\";");
        // Meanwhile another request changed `a`, removed `b`, and added `d`.
        let now = b"a|i:10;c|i:3;d|i:4;";
        assert_eq!(merged(now, &state), "a|i:10;d|i:4;b|i:20;new|s:1:\"x\";");
        // Cleared: nothing of the row stays.
        let mut cleared = State::new();
        assert_eq!(merged(now, &cleared), "");
        cleared.insert("e".into(), "null".into());
        assert_eq!(merged(now, &cleared), "e|N;");
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        assert!(load(b"not php").is_err());
        assert!(merge(b"not php", &State::new()).is_err());
        for name in ["", "a|b", "a\0"] {
            let state = State::from([(name.to_owned(), "1".to_owned())]);
            assert_eq!(merge(b"", &state), Err(MergeError::Name));
        }
        let data = b"a|i:1;b|a:1:{i:0;R:1;}c|i:1;";
        let mut state = load(data).unwrap();
        state.insert("d".into(), "1".into());
        state.remove("c");
        assert_eq!(merged(data, &state), "a|i:1;b|a:1:{i:0;R:1;}d|i:1;");
        state.insert("a".into(), "2".into());
        assert_eq!(merge(data, &state), Err(MergeError::References));
    }
}
