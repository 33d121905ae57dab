//! The two languages of the pages. Every text stands in a table with both of them, so that a missing translation does
//! not compile. `{0}`, `{1}` are filled by [`fill`]. Knows nothing of HTTP but the `Accept-Language` header's form.

mod cluster;
mod happened;
mod subjects;
mod trouble;
mod ui;

use std::fmt;

pub use cluster::ClusterTexts;
pub use happened::HappenedTexts;
pub use subjects::SubjectTexts;
pub use trouble::TroubleTexts;
pub use ui::UiTexts;

/// Declares a struct of texts and its value in each language.
macro_rules! texts {
    ($(#[$doc:meta])* $table:ident { $($key:ident: $en:literal => $fr:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $table {
            $(#[doc = $en] pub $key: &'static str,)*
        }

        impl $table {
            /// In English.
            pub const EN: $table = $table { $($key: $en,)* };
            /// In French.
            pub const FR: $table = $table { $($key: $fr,)* };

            /// Every key with its English and its French text.
            #[cfg(test)]
            pub(crate) fn all() -> Vec<(&'static str, &'static str, &'static str)> {
                vec![$((stringify!($key), $en, $fr),)*]
            }
        }
    };
}
use texts;

/// A language of the pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lang {
    /// English, also for everybody whose languages we do not have.
    #[default]
    En,
    /// French.
    Fr,
}

impl Lang {
    /// Every language, in the order of the switch.
    pub const ALL: [Lang; 2] = [Lang::En, Lang::Fr];

    /// As in `<html lang>` and `?lang=`.
    pub fn code(self) -> &'static str {
        match self {
            Lang::En => "en",
            Lang::Fr => "fr",
        }
    }

    /// Its own name for itself.
    pub fn name(self) -> &'static str {
        match self {
            Lang::En => "English",
            Lang::Fr => "Français",
        }
    }

    /// The language with this code; `fr-CA` counts as French.
    pub fn from_code(code: &str) -> Option<Lang> {
        let primary = code.trim().split(['-', '_']).next()?;
        Lang::ALL
            .into_iter()
            .find(|lang| lang.code().eq_ignore_ascii_case(primary))
    }

    /// The best of our languages for an `Accept-Language` header (RFC 9110, 12.5.4); of equals the first named.
    pub fn from_accept(header: &str) -> Option<Lang> {
        let mut best: Option<(f32, Lang)> = None;
        for range in header.split(',') {
            let mut parts = range.split(';');
            let Some(lang) = parts.next().and_then(Lang::from_code) else {
                continue;
            };
            let quality = parts
                .find_map(|part| part.trim().strip_prefix("q="))
                .map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0));
            if quality > best.map_or(0.0, |(q, _)| q) {
                best = Some((quality, lang));
            }
        }
        best.map(|(_, lang)| lang)
    }

    /// Frame, lists and forms.
    pub fn ui(self) -> &'static UiTexts {
        match self {
            Lang::En => &UiTexts::EN,
            Lang::Fr => &UiTexts::FR,
        }
    }

    /// What went wrong and what to do.
    pub fn trouble(self) -> &'static TroubleTexts {
        match self {
            Lang::En => &TroubleTexts::EN,
            Lang::Fr => &TroubleTexts::FR,
        }
    }

    /// Databases, membership and journal.
    pub fn cluster(self) -> &'static ClusterTexts {
        match self {
            Lang::En => &ClusterTexts::EN,
            Lang::Fr => &ClusterTexts::FR,
        }
    }

    /// What has happened to the databases.
    pub fn happened(self) -> &'static HappenedTexts {
        match self {
            Lang::En => &HappenedTexts::EN,
            Lang::Fr => &HappenedTexts::FR,
        }
    }
}

/// `text` with `{0}`, `{1}`, … replaced by `values`; a value is never read for places of its own.
pub fn fill(text: &str, values: &[&dyn fmt::Display]) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        out.push_str(before);
        let place = from
            .find('}')
            .and_then(|close| Some((close, values.get(from[1..close].parse::<usize>().ok()?)?)));
        match place {
            Some((close, value)) => {
                out.push_str(&value.to_string());
                rest = &from[close + 1..];
            }
            None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// A count with the separator of thousands that `lang` uses.
pub fn number(lang: Lang, count: i64) -> String {
    let separator = match lang {
        Lang::En => ',',
        // A narrow no-break space, as French typography asks for.
        Lang::Fr => '\u{202f}',
    };
    let digits = count.unsigned_abs().to_string();
    let mut out = String::with_capacity(digits.len() * 2);
    if count < 0 {
        out.push('-');
    }
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(separator);
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<String> {
        let mut found: Vec<String> = (0..9)
            .map(|n| format!("{{{n}}}"))
            .filter(|place| text.contains(place.as_str()))
            .collect();
        found.sort();
        found
    }

    #[test]
    fn every_text_is_there_in_both_languages_with_the_same_places() {
        let mut all = UiTexts::all();
        all.extend(TroubleTexts::all());
        all.extend(ClusterTexts::all());
        all.extend(HappenedTexts::all());
        all.extend(SubjectTexts::all());
        assert!(all.len() > 150);
        for (key, en, fr) in all {
            assert!(!en.trim().is_empty() && !fr.trim().is_empty(), "{key} is empty");
            assert_eq!(places(en), places(fr), "{key} has other places in French");
        }
    }

    #[test]
    fn the_language_a_browser_prefers() {
        assert_eq!(Lang::from_accept("fr-FR,fr;q=0.9,en;q=0.8"), Some(Lang::Fr));
        assert_eq!(Lang::from_accept("de, en;q=0.5, fr;q=0.7"), Some(Lang::Fr));
        assert_eq!(Lang::from_accept("en,fr"), Some(Lang::En));
        assert_eq!(Lang::from_accept("fr;q=0, de"), None);
        assert_eq!(Lang::from_accept(""), None);
        assert_eq!(Lang::from_code("FR-ca"), Some(Lang::Fr));
        assert_eq!(Lang::from_code("mg"), None);
    }

    #[test]
    fn filling_and_numbers() {
        assert_eq!(fill("{1} of {0}", &[&"{1}", &2]), "2 of {1}");
        assert_eq!(fill("a {x} {7} {", &[&1]), "a {x} {7} {");
        assert_eq!(number(Lang::En, 1_234_567), "1,234,567");
        assert_eq!(number(Lang::Fr, 61_000), "61\u{202f}000");
        assert_eq!(number(Lang::En, 12), "12");
        assert_eq!(number(Lang::En, -1000), "-1,000");
    }
}
