//! Fields of forms: what they are, and how they are shown.

use super::words;
use crate::listing::FieldErrors;
use crate::web::lang::{Lang, UiTexts, fill};

/// How a field is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One line of anybody's script.
    Line,
    /// One line of ASCII-like text: no capitals, no spelling.
    Plain,
    /// Several lines.
    Area,
    /// A port number.
    Port,
    /// Yes or no.
    Check,
}

/// A field of a subject's form.
#[derive(Debug)]
pub struct Field {
    /// Its name in the form, the database and CSV headers.
    pub name: &'static str,
    /// Its label.
    pub label: fn(&UiTexts) -> &'static str,
    /// Help beside it.
    pub hint: fn(&UiTexts) -> &'static str,
    /// How it is entered.
    pub kind: Kind,
    /// Most characters.
    pub max: usize,
    /// Whether it may be empty.
    pub required: bool,
}

/// No help.
pub fn no_hint(_: &UiTexts) -> &'static str {
    ""
}

/// The text of every field of a form, in the order of its fields.
pub type Typed = Vec<(&'static str, String)>;

/// The text of `name`.
pub fn typed<'a>(values: &'a Typed, name: &str) -> &'a str {
    values
        .iter()
        .find(|(field, _)| *field == name)
        .map_or("", |(_, value)| value)
}

/// A field ready to be shown by `_fields.html`.
#[derive(Debug)]
pub struct FieldView {
    /// See [`Field::name`].
    pub name: &'static str,
    /// Its label.
    pub label: &'static str,
    /// Help, or empty.
    pub hint: String,
    /// What stands in it.
    pub value: String,
    /// What is wrong with it.
    pub error: Option<String>,
    /// See [`Field::max`].
    pub max: usize,
    /// See [`Field::required`].
    pub required: bool,
    /// Whether spelling and capitals are left alone.
    pub plain: bool,
    kind: Kind,
}

impl FieldView {
    /// Whether it is a tick box.
    pub fn is_check(&self) -> bool {
        self.kind == Kind::Check
    }

    /// Whether it has several lines.
    pub fn is_area(&self) -> bool {
        self.kind == Kind::Area
    }

    /// Whether it is a port number.
    pub fn is_port(&self) -> bool {
        self.kind == Kind::Port
    }

    /// Whether the box is ticked.
    pub fn checked(&self) -> bool {
        self.value == "true"
    }

    /// Whether there is text beside it.
    pub fn described(&self) -> bool {
        self.error.is_some() || !self.hint.is_empty()
    }
}

/// The fields with what stands in them and what is wrong.
pub fn views(lang: Lang, fields: &[Field], values: &Typed, errors: &FieldErrors) -> Vec<FieldView> {
    let t = lang.ui();
    fields
        .iter()
        .map(|field| FieldView {
            name: field.name,
            label: (field.label)(t),
            hint: fill((field.hint)(t), &[&field.max]),
            value: typed(values, field.name).to_owned(),
            error: errors
                .get(field.name)
                .map(|code| words::field_error(lang, field.name, code)),
            max: field.max,
            required: field.required,
            plain: matches!(field.kind, Kind::Plain | Kind::Port),
            kind: field.kind,
        })
        .collect()
}

/// Values as a person reads them, for pages without a form.
pub fn shown(lang: Lang, fields: &[Field], values: &Typed) -> Vec<(&'static str, String)> {
    let t = lang.ui();
    fields
        .iter()
        .map(|field| {
            let value = typed(values, field.name);
            let value = match field.kind {
                Kind::Check if value == "true" => t.yes,
                Kind::Check => t.no,
                _ => value,
            };
            ((field.label)(t), value.to_owned())
        })
        .collect()
}
