//! The file: what people wrote in it stays.

use std::path::Path;

use anyhow::{Context, Result};

/// Between these two marks people write; everything else is made anew.
pub const HAND_WRITTEN_BEGIN: &str = "<!-- by hand: begin -->";
pub const HAND_WRITTEN_END: &str = "<!-- by hand: end -->";

/// Writes the report, with the hand-written part of the file that is there.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let old = std::fs::read_to_string(path).unwrap_or_default();
    std::fs::write(path, keep(&old, text)).with_context(|| format!("cannot write {}", path.display()))
}

fn keep(old: &str, new: &str) -> String {
    match (parts(old), parts(new)) {
        (Some((_, kept, _)), Some((before, _, after))) => {
            format!("{before}{HAND_WRITTEN_BEGIN}{kept}{HAND_WRITTEN_END}{after}")
        }
        _ => new.to_owned(),
    }
}

fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once(HAND_WRITTEN_BEGIN)?;
    let (kept, after) = rest.split_once(HAND_WRITTEN_END)?;
    Some((before, kept, after))
}
