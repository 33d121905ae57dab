//! PHP's `php` session format (`name|serialized` one after the other), pure. Values of every kind but objects and references
//! are read; those are kept as the bytes they are ([`PhpValue::Raw`]). What cannot be read at all is an error, never an empty
//! session.
//!
//! Format: ext/session/session.c (`php_session_encode`) and ext/standard/var.c (`php_var_serialize`) of PHP.

use thiserror::Error;

/// Deeper nesting than any session has; the parser recurses.
const MAX_DEPTH: usize = 128;

/// Session data that cannot be read.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("not PHP session data: {what} at byte {at}")]
pub struct PhpError {
    what: &'static str,
    at: usize,
}

/// A PHP value.
#[derive(Clone, Debug, PartialEq)]
pub enum PhpValue {
    /// `null`.
    Null,
    /// `bool`.
    Bool(bool),
    /// `int`.
    Int(i64),
    /// `float`.
    Float(f64),
    /// `string`: bytes, of any or no encoding.
    Str(Vec<u8>),
    /// `array`: ordered.
    Array(Vec<(PhpKey, PhpValue)>),
    /// An object or a reference, serialized.
    Raw(Vec<u8>),
}

/// Key of an array.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PhpKey {
    /// An integer; PHP makes one of every text that looks like one.
    Int(i64),
    /// Any other text.
    Str(Vec<u8>),
}

impl PhpKey {
    /// The key PHP makes of a text.
    pub fn of_text(text: &[u8]) -> PhpKey {
        let number = std::str::from_utf8(text).ok().and_then(|text| {
            let number: i64 = text.parse().ok()?;
            (number.to_string() == text).then_some(number)
        });
        number.map_or_else(|| PhpKey::Str(text.to_vec()), PhpKey::Int)
    }
}

/// One variable of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name: bytes without `|`.
    pub name: Vec<u8>,
    /// Its value, serialized.
    pub serialized: Vec<u8>,
}

impl Variable {
    /// A variable with this value.
    pub fn new(name: &[u8], value: &PhpValue) -> Variable {
        let mut serialized = Vec::new();
        write(value, &mut serialized);
        Variable {
            name: name.to_vec(),
            serialized,
        }
    }
}

/// Splits session data into its variables, in order.
///
/// # Errors
/// The data is not in this format, or has a variable twice.
pub fn split(data: &[u8]) -> Result<Vec<Variable>, PhpError> {
    let mut variables: Vec<Variable> = Vec::new();
    let mut parser = Parser { data, at: 0 };
    while parser.at < data.len() {
        let name = parser.until(b'|', "a name that never ends")?.to_vec();
        let start = parser.at;
        parser.value(0)?;
        let serialized = data[start..parser.at].to_vec();
        if variables.iter().any(|known| known.name == name) {
            return Err(parser.error("a variable given twice"));
        }
        variables.push(Variable { name, serialized });
    }
    Ok(variables)
}

/// Joins variables to session data.
pub fn join(variables: &[Variable]) -> Vec<u8> {
    let mut data = Vec::new();
    for variable in variables {
        data.extend_from_slice(&variable.name);
        data.push(b'|');
        data.extend_from_slice(&variable.serialized);
    }
    data
}

/// Reads one serialized value.
///
/// # Errors
/// It is not one value and nothing else.
pub fn read(serialized: &[u8]) -> Result<PhpValue, PhpError> {
    let mut parser = Parser {
        data: serialized,
        at: 0,
    };
    let value = parser.value(0)?;
    if parser.at < serialized.len() {
        return Err(parser.error("more than one value"));
    }
    Ok(value)
}

/// Whether a value refers to other values of the session by their position (`r:` and `R:`): then nothing in front of it may
/// change.
pub fn refers(value: &PhpValue) -> bool {
    match value {
        // Inside an object the letters could also stand in a text: then we are careful without need.
        PhpValue::Raw(raw) => [b"r:", b"R:"]
            .iter()
            .any(|mark| raw.windows(2).any(|two| two == *mark)),
        PhpValue::Array(entries) => entries.iter().any(|(_, value)| refers(value)),
        _ => false,
    }
}

/// Appends the serialized value.
pub fn write(value: &PhpValue, out: &mut Vec<u8>) {
    match value {
        PhpValue::Null => out.extend_from_slice(b"N;"),
        PhpValue::Bool(value) => out.extend_from_slice(if *value { b"b:1;" } else { b"b:0;" }),
        PhpValue::Int(value) => out.extend_from_slice(format!("i:{value};").as_bytes()),
        PhpValue::Float(value) => out.extend_from_slice(format!("d:{};", float_text(*value)).as_bytes()),
        PhpValue::Str(bytes) => write_string(bytes, out),
        PhpValue::Array(entries) => {
            out.extend_from_slice(format!("a:{}:{{", entries.len()).as_bytes());
            for (key, value) in entries {
                match key {
                    PhpKey::Int(key) => out.extend_from_slice(format!("i:{key};").as_bytes()),
                    PhpKey::Str(key) => write_string(key, out),
                }
                write(value, out);
            }
            out.push(b'}');
        }
        PhpValue::Raw(raw) => out.extend_from_slice(raw),
    }
}

fn write_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("s:{}:\"", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\";");
}

/// As PHP writes it with `serialize_precision = -1`: the shortest digits that read back the same, with an exponent below
/// 0.0001 and from 1.0E+17 on.
fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NAN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "INF" } else { "-INF" }.into();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..=16 => format!("{value}"),
        exponent => {
            let point = if mantissa.contains('.') { "" } else { ".0" };
            format!("{mantissa}{point}E{exponent:+}")
        }
    }
}

struct Parser<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, what: &'static str) -> PhpError {
        PhpError { what, at: self.at }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], PhpError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.data.len());
        let end = end.ok_or_else(|| self.error("the end is missing"))?;
        let taken = &self.data[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn expect(&mut self, text: &[u8]) -> Result<(), PhpError> {
        if self.data[self.at..].starts_with(text) {
            self.at += text.len();
            Ok(())
        } else {
            Err(self.error("something else than the format asks for"))
        }
    }

    /// What stands before `end`; the end is taken too.
    fn until(&mut self, end: u8, what: &'static str) -> Result<&'a [u8], PhpError> {
        let rest = &self.data[self.at..];
        let length = rest
            .iter()
            .position(|byte| *byte == end)
            .ok_or_else(|| self.error(what))?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    fn number<T: std::str::FromStr>(&mut self, end: u8) -> Result<T, PhpError> {
        let text = self.until(end, "a number that never ends")?;
        let text = std::str::from_utf8(text).ok();
        text.and_then(|text| text.parse().ok())
            .ok_or_else(|| self.error("not a number"))
    }

    /// `len:"bytes"`.
    fn quoted(&mut self) -> Result<&'a [u8], PhpError> {
        let length = self.number(b':')?;
        self.expect(b"\"")?;
        let bytes = self.take(length)?;
        self.expect(b"\"")?;
        Ok(bytes)
    }

    fn value(&mut self, depth: usize) -> Result<PhpValue, PhpError> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        let start = self.at;
        let kind = self.take(2)?;
        match kind {
            b"N;" => Ok(PhpValue::Null),
            b"b:" => match self.number(b';')? {
                0 => Ok(PhpValue::Bool(false)),
                1 => Ok(PhpValue::Bool(true)),
                _ => Err(self.error("not a bool")),
            },
            b"i:" => Ok(PhpValue::Int(self.number(b';')?)),
            b"d:" => {
                let text = self.until(b';', "a number that never ends")?;
                Ok(PhpValue::Float(match text {
                    b"NAN" => f64::NAN,
                    b"INF" => f64::INFINITY,
                    b"-INF" => f64::NEG_INFINITY,
                    text => {
                        let text = std::str::from_utf8(text).ok();
                        let number = text.and_then(|text| text.parse().ok());
                        number.ok_or_else(|| self.error("not a number"))?
                    }
                }))
            }
            b"s:" => {
                let bytes = self.quoted()?.to_vec();
                self.expect(b";")?;
                Ok(PhpValue::Str(bytes))
            }
            b"a:" => Ok(PhpValue::Array(self.entries(depth)?)),
            b"O:" => {
                self.quoted()?;
                self.expect(b":")?;
                self.entries(depth)?;
                Ok(self.raw_since(start))
            }
            b"C:" => {
                self.quoted()?;
                self.expect(b":")?;
                let length = self.number(b':')?;
                self.expect(b"{")?;
                self.take(length)?;
                self.expect(b"}")?;
                Ok(self.raw_since(start))
            }
            b"E:" => {
                self.quoted()?;
                self.expect(b";")?;
                Ok(self.raw_since(start))
            }
            b"r:" | b"R:" => {
                self.number::<u64>(b';')?;
                Ok(self.raw_since(start))
            }
            _ => {
                self.at = start;
                Err(self.error("an unknown kind of value"))
            }
        }
    }

    fn raw_since(&self, start: usize) -> PhpValue {
        PhpValue::Raw(self.data[start..self.at].to_vec())
    }

    /// `count:{key value …}`.
    fn entries(&mut self, depth: usize) -> Result<Vec<(PhpKey, PhpValue)>, PhpError> {
        let count: usize = self.number(b':')?;
        self.expect(b"{")?;
        // The count is not believed before the entries are there.
        let mut entries = Vec::new();
        for _ in 0..count {
            let key = match self.value(depth + 1)? {
                PhpValue::Int(key) => PhpKey::Int(key),
                PhpValue::Str(key) => PhpKey::Str(key),
                _ => return Err(self.error("a key that is neither int nor string")),
            };
            entries.push((key, self.value(depth + 1)?));
        }
        self.expect(b"}")?;
        Ok(entries)
    }
}

#[cfg(test)]
mod tests;
