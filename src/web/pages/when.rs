//! Dates a person can read, always in UTC and saying so.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::web::lang::Lang;

const EN: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const FR: [&str; 12] = [
    "janv.", "févr.", "mars", "avr.", "mai", "juin", "juil.", "août", "sept.", "oct.", "nov.", "déc.",
];

/// A stored time in ISO form; what is not one (`infinity`) is shown as it is.
pub fn stored(lang: Lang, iso: &str) -> String {
    match iso.parse::<DateTime>() {
        Ok(time) => readable(lang, time),
        Err(_) => iso.to_owned(),
    }
}

/// A moment of this instance's clock.
pub fn moment(lang: Lang, time: SystemTime) -> String {
    match Timestamp::try_from(time) {
        Ok(time) => readable(lang, TimeZone::UTC.to_datetime(time)),
        Err(_) => "?".to_owned(),
    }
}

fn readable(lang: Lang, t: DateTime) -> String {
    let names = match lang {
        Lang::En => EN,
        Lang::Fr => FR,
    };
    let month = usize::try_from(t.month() - 1)
        .ok()
        .and_then(|month| names.get(month))
        .copied()
        .unwrap_or_default();
    format!(
        "{} {month} {}, {:02}:{:02}:{:02} UTC",
        t.day(),
        t.year(),
        t.hour(),
        t.minute(),
        t.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_languages() {
        let iso = "2026-01-31T12:03:04.500000";
        assert_eq!(stored(Lang::En, iso), "31 Jan 2026, 12:03:04 UTC");
        assert_eq!(stored(Lang::Fr, iso), "31 janv. 2026, 12:03:04 UTC");
        assert_eq!(stored(Lang::En, "infinity"), "infinity");
        assert_eq!(
            moment(Lang::En, SystemTime::UNIX_EPOCH),
            "1 Jan 1970, 00:00:00 UTC"
        );
    }
}
