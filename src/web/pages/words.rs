//! What the heart and the subjects say about trouble, in the reader's language.

use super::frame::side_names;
use crate::listing::ErrorCode;
use crate::multipool::{Loss, NotApplied, SideFault};
use crate::web::import::{FileProblem, RowProblem};
use crate::web::lang::{Lang, fill};

/// Why a field cannot be taken.
pub fn field_error(lang: Lang, field: &str, code: ErrorCode) -> String {
    let t = lang.trouble();
    match code {
        ErrorCode::Required => t.error_required.to_owned(),
        ErrorCode::TooLong { max } => fill(t.error_too_long, &[&max]),
        ErrorCode::NulByte => t.error_control.to_owned(),
        ErrorCode::NotANumber => t.error_not_a_number.to_owned(),
        ErrorCode::OutOfRange { .. } if field == "port" => t.error_port.to_owned(),
        ErrorCode::OutOfRange { min, max } => fill(t.error_range, &[&min, &max]),
        ErrorCode::Duplicate => t.error_duplicate.to_owned(),
        ErrorCode::InvalidHost => t.error_host.to_owned(),
        ErrorCode::InvalidName => t.error_session_name.to_owned(),
        ErrorCode::InvalidChoice if field == "active" => t.error_boolean.to_owned(),
        ErrorCode::InvalidChoice | ErrorCode::InvalidCursor => t.error_other.to_owned(),
        ErrorCode::UnknownField => t.error_unknown_column.to_owned(),
    }
}

/// Why nothing was written.
pub fn not_applied(lang: Lang, why: &NotApplied) -> String {
    let t = lang.trouble();
    match why {
        NotApplied::Overloaded => t.overloaded.to_owned(),
        NotApplied::NoSide => t.no_side.to_owned(),
        NotApplied::NoAuthority(side) => fill(t.no_authority, &[side]),
        NotApplied::Isolated(side) => fill(t.isolated, &[side]),
        NotApplied::NoVotes {
            given,
            needed,
            missing,
        } => fill(t.no_votes, &[given, needed, missing]),
        NotApplied::DecidedFor(sides) => fill(t.decided_for, &[&side_names(sides.iter())]),
        NotApplied::NoMemory(why) => fill(t.no_memory, &[why]),
        NotApplied::Split => t.split.to_owned(),
        NotApplied::Unable(side, why) => fill(t.unable, &[side, why]),
        NotApplied::Locked => t.locked.to_owned(),
        NotApplied::Held => t.held.to_owned(),
        NotApplied::Deadline => t.deadline.to_owned(),
        NotApplied::Abandoned => t.abandoned.to_owned(),
        NotApplied::Closing => t.closing.to_owned(),
    }
}

/// Why a file cannot be read as rows.
pub fn file_problem(lang: Lang, problem: &FileProblem) -> String {
    let t = lang.trouble();
    match problem {
        FileProblem::Empty => t.file_empty.to_owned(),
        FileProblem::HeaderNotUtf8 => t.file_header_not_utf8.to_owned(),
        FileProblem::MissingColumn(name) => fill(t.file_missing_column, &[name]),
        FileProblem::UnknownColumn(name) => fill(t.file_unknown_column, &[name]),
        FileProblem::DuplicateColumn(name) => fill(t.file_duplicate_column, &[name]),
        FileProblem::UnterminatedQuote { line } => fill(t.file_unterminated_quote, &[line]),
        FileProblem::TextAfterQuote { line } => fill(t.file_text_after_quote, &[line]),
    }
}

/// Why a row of a file cannot be read; the errors of its fields are said one by one instead.
pub fn row_problem(lang: Lang, problem: &RowProblem) -> String {
    let t = lang.trouble();
    match problem {
        RowProblem::NotUtf8 => t.row_not_utf8.to_owned(),
        RowProblem::FieldCount { expected, found } => fill(t.row_field_count, &[found, expected]),
        RowProblem::Fields(errors) => errors
            .iter()
            .map(|error| field_error(lang, error.field, error.code))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// What is wrong with a side.
pub fn fault(lang: Lang, fault: &SideFault) -> String {
    let t = lang.cluster();
    match fault {
        SideFault::Down(why) => fill(t.fault_down, &[why]),
        SideFault::Silent => t.fault_silent.to_owned(),
        SideFault::Refused(why) => fill(t.fault_refused, &[why]),
        SideFault::Unfit(why) => fill(t.fault_unfit, &[why]),
        SideFault::Behind => t.fault_behind.to_owned(),
        SideFault::Lost(loss) => fill(t.fault_lost, &[&self::loss(lang, *loss)]),
    }
}

/// Why a side has to be rebuilt.
pub fn loss(lang: Lang, loss: Loss) -> &'static str {
    let t = lang.cluster();
    match loss {
        Loss::Empty => t.loss_empty,
        Loss::Stripped => t.loss_stripped,
        Loss::Restored => t.loss_restored,
        Loss::TooOld => t.loss_too_old,
        Loss::Unfinished => t.loss_unfinished,
        Loss::Asked => t.loss_asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multipool::SideId;

    #[test]
    fn the_usual_reasons_are_translated() {
        let b = SideId::from_index(1).unwrap();
        assert!(not_applied(Lang::Fr, &NotApplied::NoAuthority(b)).starts_with("la base b répond"));
        assert_eq!(fault(Lang::Fr, &SideFault::Down("x".into())), "ne répond pas : x");
        for known in Loss::ALL {
            assert_eq!(loss(Lang::En, known), known.to_string());
        }
    }
}
