//! Addresses with parameters.

use std::fmt::Write;

/// An address that grows parameter by parameter; empty values are left out.
#[derive(Clone, Debug)]
pub struct Link(String);

impl Link {
    /// An address without parameters.
    pub fn to(path: &str) -> Link {
        Link(path.to_owned())
    }

    /// Adds `name=value` unless the value is empty.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Link {
        if !value.is_empty() {
            self.0.push(if self.0.contains('?') { '&' } else { '?' });
            encode(name, &mut self.0);
            self.0.push('=');
            encode(value, &mut self.0);
        }
        self
    }

    /// The address.
    pub fn build(self) -> String {
        self.0
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// The query string `query` without parameter `name`, still encoded.
pub fn without<'a>(query: &'a str, name: &str) -> Vec<&'a str> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty() && pair.split('=').next() != Some(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_encoded() {
        let link = Link::to("/items")
            .with("search", "a&b=é \"x\"")
            .with("sort", "")
            .with("order", "desc");
        assert_eq!(link.build(), "/items?search=a%26b%3D%C3%A9%20%22x%22&order=desc");
        assert_eq!(without("lang=fr&search=x&lang=en", "lang"), ["search=x"]);
    }
}
