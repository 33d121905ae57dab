//! What two people changed, side by side and put together. Pure; every comparison is bounded in time.

use std::time::Duration;

use similar::{ChangeTag, TextDiff, TextMerge};

/// A comparison that takes longer shows larger pieces instead of the smallest ones.
const PATIENCE: Duration = Duration::from_millis(60);
/// Lines up to which a three-way merge is tried: its cost grows with the product of lines and differences.
const MERGED_LINES: usize = 2000;

/// A piece of a compared text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The HTML element that marks it: `ins`, `del`, or empty for what stayed.
    pub tag: &'static str,
    /// Its text.
    pub text: String,
}

/// `new` with what was added to and removed from `old`, word by word.
pub fn compare(old: &str, new: &str) -> Vec<Piece> {
    let diff = TextDiff::configure().timeout(PATIENCE).diff_words(old, new);
    let mut pieces: Vec<Piece> = Vec::new();
    for change in diff.iter_all_changes() {
        let tag = match change.tag() {
            ChangeTag::Equal => "",
            ChangeTag::Insert => "ins",
            ChangeTag::Delete => "del",
        };
        match pieces.last_mut() {
            Some(last) if last.tag == tag => last.text.push_str(change.value()),
            _ => pieces.push(Piece {
                tag,
                text: change.value().to_owned(),
            }),
        }
    }
    pieces
}

/// Both people's changes put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The text to start from.
    pub text: String,
    /// Whether both changed the same place, so that a person must look.
    pub overlapping: bool,
}

/// Puts two changes of one field together. One-line fields are never cut in pieces: if both changed it, `mine` stands.
pub fn merge(base: &str, mine: &str, theirs: &str, lines: bool, labels: (&str, &str)) -> Merged {
    let plain = |text: &str, overlapping| Merged {
        text: text.to_owned(),
        overlapping,
    };
    if mine == theirs || theirs == base {
        return plain(mine, false);
    }
    if mine == base {
        return plain(theirs, false);
    }
    let long = [base, mine, theirs]
        .iter()
        .any(|text| text.lines().nth(MERGED_LINES).is_some());
    if !lines || long {
        return plain(mine, true);
    }
    let ended = [base, mine, theirs].map(|text| {
        let newline = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        format!("{text}{newline}")
    });
    let mut merged = TextMerge::from_lines(&ended[0], &ended[1], &ended[2]);
    merged.labels("", labels.0, labels.1);
    let mut text = merged.to_string();
    if !mine.ends_with('\n') && text.ends_with('\n') {
        text.pop();
    }
    Merged {
        text,
        overlapping: merged.is_conflicted(),
    }
}

/// What a browser sent for `field`, with the line ends of `seen` where nothing else was changed: browsers turn every line end
/// of a form into CR LF, and a one-line field loses them, which is nobody's edit.
pub fn without_browser_changes(seen: &str, sent: &str) -> String {
    let sent = sent.replace("\r\n", "\n");
    let same_lines = seen.replace("\r\n", "\n").replace('\r', "\n") == sent;
    let same_line = seen.replace(['\r', '\n'], "") == sent;
    if same_lines || same_line {
        seen.to_owned()
    } else {
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: (&str, &str) = ("yours", "theirs");

    #[test]
    fn comparing_marks_words() {
        let marked: Vec<_> = compare("a red house", "a blue house")
            .into_iter()
            .map(|p| (p.tag, p.text))
            .collect();
        let expected = [("", "a "), ("del", "red"), ("ins", "blue"), ("", " house")];
        assert_eq!(marked, expected.map(|(tag, text)| (tag, text.to_owned())));
        assert!(compare("", "").is_empty());
    }

    #[test]
    fn changes_in_different_lines_go_together() {
        let merged = merge(
            "1\n2\n3\n4\n5",
            "one\n2\n3\n4\n5",
            "1\n2\n3\n4\nfive",
            true,
            LABELS,
        );
        assert_eq!(merged.text, "one\n2\n3\n4\nfive");
        assert!(!merged.overlapping);
    }

    #[test]
    fn changes_in_one_line_are_both_kept() {
        let merged = merge("1\n2\n3", "1\nmine\n3", "1\nother\n3", true, LABELS);
        assert!(merged.overlapping);
        assert!(merged.text.contains("mine\n") && merged.text.contains("other\n"));
        assert!(merged.text.contains("<<<<<<< yours") && merged.text.contains(">>>>>>> theirs"));
        let name = merge("x", "mine", "other", false, LABELS);
        assert_eq!((name.text.as_str(), name.overlapping), ("mine", true));
        assert_eq!(merge("x", "x", "other", false, LABELS).text, "other");
    }

    #[test]
    fn a_huge_text_does_not_hang() {
        let lines = |seed: usize| (0..40_000).map(|i| format!("{}\n", i * seed)).collect::<String>();
        let begun = std::time::Instant::now();
        merge(&lines(1), &lines(3), &lines(7), true, LABELS);
        compare(&lines(3), &lines(7));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn line_ends_of_browsers_are_no_edit() {
        assert_eq!(without_browser_changes("a\nb", "a\r\nb"), "a\nb");
        assert_eq!(without_browser_changes("a\r\nb", "a\r\nb"), "a\r\nb");
        assert_eq!(without_browser_changes("a\nb", "ab"), "a\nb");
        assert_eq!(without_browser_changes("a\nb", "a\r\nc"), "a\nc");
    }
}
