//! Named parameters of forms (`application/x-www-form-urlencoded`) and query strings, read strictly.
//!
//! A parameter given twice, a broken escape or text that is not UTF-8 is refused: two readers of such a request could
//! understand two different things.

use std::fmt;

/// More parameters than any form of ours has.
const MAX_PARAMS: usize = 200;

/// Why parameters cannot be understood; HTTP 400.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParamError {
    /// A name or value is not UTF-8.
    InvalidUtf8,
    /// A `%` is not followed by two hexadecimal digits.
    BadEscape,
    /// The parameter was given twice.
    Duplicate(String),
    /// Nobody reads a parameter of this name.
    Unknown(String),
    /// More than 200 parameters.
    TooMany,
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParamError::InvalidUtf8 => f.write_str("a parameter is not valid UTF-8 text"),
            ParamError::BadEscape => f.write_str("a `%` is not followed by two hexadecimal digits"),
            ParamError::Duplicate(name) => write!(f, "the parameter `{name}` was given more than once"),
            ParamError::Unknown(name) => write!(f, "there is no parameter `{name}` here"),
            ParamError::TooMany => write!(f, "more than {MAX_PARAMS} parameters were given"),
        }
    }
}

impl std::error::Error for ParamError {}

/// Parameters in the order given, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// The value of `name`, if given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of `name`, or the empty text.
    pub fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// Names and values in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Refuses names that are not in `known`: a mistyped filter must not look like one that matched everything.
    ///
    /// # Errors
    /// The first unknown name.
    pub fn only(self, known: &[&str]) -> Result<Params, ParamError> {
        match self.0.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(ParamError::Unknown(name.chars().take(100).collect())),
            None => Ok(self),
        }
    }
}

/// Reads the body of a form.
///
/// # Errors
/// See [`ParamError`].
pub fn parse_form(body: &[u8]) -> Result<Params, ParamError> {
    let mut params: Vec<(String, String)> = Vec::new();
    for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        let end = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        let name = decode(&pair[..end])?;
        let value = decode(pair.get(end + 1..).unwrap_or_default())?;
        if params.iter().any(|(known, _)| *known == name) {
            return Err(ParamError::Duplicate(name.chars().take(100).collect()));
        }
        if params.len() == MAX_PARAMS {
            return Err(ParamError::TooMany);
        }
        params.push((name, value));
    }
    Ok(Params(params))
}

/// Reads a query string (without the `?`).
///
/// # Errors
/// See [`ParamError`].
pub fn parse_query(query: &str) -> Result<Params, ParamError> {
    parse_form(query.as_bytes())
}

fn decode(text: &[u8]) -> Result<String, ParamError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, after) = rest.split_at_checked(2).ok_or(ParamError::BadEscape)?;
                let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(ParamError::BadEscape);
                bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
                rest = after;
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).map_err(|_| ParamError::InvalidUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_forms() {
        let params = parse_form(b"name=%E5%90%8D+%2B1&empty=&flag&x=a=b").unwrap();
        assert_eq!(params.get("name"), Some("名 +1"));
        assert_eq!(
            (params.get("empty"), params.get("flag"), params.get("no")),
            (Some(""), Some(""), None)
        );
        assert_eq!(params.get("x"), Some("a=b"));
        assert_eq!(parse_form(b""), Ok(Params::default()));
        assert_eq!(parse_form(b"n=%00").unwrap().get("n"), Some("\0"));
    }

    #[test]
    fn refuses_what_two_readers_could_read_differently() {
        assert_eq!(parse_form(b"a=1&b=2&a=1"), Err(ParamError::Duplicate("a".into())));
        assert_eq!(parse_form(b"a=1&%61=2"), Err(ParamError::Duplicate("a".into())));
        assert_eq!(parse_form(b"a=%ff"), Err(ParamError::InvalidUtf8));
        for bad in ["a=%", "a=%4", "a=%zz", "%g0=1", "a=%+1"] {
            assert_eq!(parse_query(bad), Err(ParamError::BadEscape), "{bad}");
        }
        let many: String = (0..201).map(|i| format!("p{i}=&")).collect();
        assert_eq!(parse_query(&many), Err(ParamError::TooMany));
        let params = parse_query("search=x&serach=y").unwrap();
        assert_eq!(
            params.only(&["search"]),
            Err(ParamError::Unknown("serach".into()))
        );
    }
}
