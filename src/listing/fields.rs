//! What is wrong with an input, field by field.

use std::fmt;

use serde::Serialize;

/// What is wrong with one field, to be translated by variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum ErrorCode {
    /// The field is empty or missing.
    Required,
    /// More than `max` characters.
    TooLong {
        /// Most characters allowed.
        max: usize,
    },
    /// The text holds a NUL character, which PostgreSQL cannot store.
    NulByte,
    /// Not a whole number in decimal digits.
    NotANumber,
    /// A number below `min` or above `max`.
    OutOfRange {
        /// Smallest allowed.
        min: i64,
        /// Largest allowed.
        max: i64,
    },
    /// The field was given twice.
    Duplicate,
    /// Not one of the values this field takes.
    InvalidChoice,
    /// Not a host name or address.
    InvalidHost,
    /// A name that cannot be used here (reserved, or with a character it may not hold).
    InvalidName,
    /// Not a page mark of this list.
    InvalidCursor,
    /// No field has this name.
    UnknownField,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorCode::Required => f.write_str("is required"),
            ErrorCode::TooLong { max } => write!(f, "is longer than {max} characters"),
            ErrorCode::NulByte => f.write_str("contains a NUL character, which cannot be stored"),
            ErrorCode::NotANumber => f.write_str("is not a whole number"),
            ErrorCode::OutOfRange { min, max } => write!(f, "must be between {min} and {max}"),
            ErrorCode::Duplicate => f.write_str("was given more than once"),
            ErrorCode::InvalidChoice => f.write_str("is not one of the values it can take"),
            ErrorCode::InvalidHost => f.write_str("is not a host name or an address"),
            ErrorCode::InvalidName => f.write_str("is not a name that can be used here"),
            ErrorCode::InvalidCursor => f.write_str("is not a page mark of this list"),
            ErrorCode::UnknownField => f.write_str("is not a known field"),
        }
    }
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Its name in forms, JSON and CSV headers.
    pub field: &'static str,
    /// What is wrong.
    #[serde(flatten)]
    pub code: ErrorCode,
}

/// Everything wrong with one input, at most one error a field, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// One error.
    pub fn one(field: &'static str, code: ErrorCode) -> FieldErrors {
        FieldErrors(vec![FieldError { field, code }])
    }

    /// Adds an error unless the field already has one.
    pub fn push(&mut self, field: &'static str, code: ErrorCode) {
        if self.get(field).is_none() {
            self.0.push(FieldError { field, code });
        }
    }

    /// What is wrong with `field`.
    pub fn get(&self, field: &str) -> Option<ErrorCode> {
        self.0.iter().find(|e| e.field == field).map(|e| e.code)
    }

    /// The errors in order.
    pub fn iter(&self) -> impl Iterator<Item = &FieldError> {
        self.0.iter()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` if nothing is wrong, else the errors.
    pub(crate) fn or<T>(self, value: T) -> Result<T, FieldErrors> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }

    /// Checks a text: at most `max` characters and no NUL.
    pub(crate) fn check_text(&mut self, field: &'static str, text: &str, max: usize) {
        if text.contains('\0') {
            self.push(field, ErrorCode::NulByte);
        } else if text.chars().nth(max).is_some() {
            self.push(field, ErrorCode::TooLong { max });
        }
    }

    /// As [`FieldErrors::check_text`], and not empty.
    pub(crate) fn check_required(&mut self, field: &'static str, text: &str, max: usize) {
        if text.is_empty() {
            self.push(field, ErrorCode::Required);
        }
        self.check_text(field, text, max);
    }
}

impl fmt::Display for FieldErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{} {}", error.field, error.code)?;
        }
        Ok(())
    }
}

impl std::error::Error for FieldErrors {}
