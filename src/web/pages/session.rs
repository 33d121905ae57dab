//! `/`: what is in this person's session, who answered, and forms that change it.

use actix_web::http::StatusCode;
use askama::Template;

use super::fields::{Field, FieldView, Kind, Typed, no_hint, views};
use super::frame::{Frame, Message, Place};
use super::visit::{Answer, Body, Visit};
use crate::listing::FieldErrors;
use crate::web::lang::fill;

/// For the browser only; the session checks for itself.
const MAX_NAME: usize = 100;
/// As [`MAX_NAME`].
const MAX_VALUE: usize = 10_000;

const FIELDS: &[Field] = &[
    Field {
        name: "name",
        label: |t| t.session_key,
        hint: no_hint,
        kind: Kind::Line,
        max: MAX_NAME,
        required: true,
    },
    Field {
        name: "value",
        label: |t| t.session_value,
        hint: no_hint,
        kind: Kind::Line,
        max: MAX_VALUE,
        required: false,
    },
];

struct Value {
    key: String,
    value: String,
    remove: String,
}

#[derive(Template)]
#[template(path = "session.html")]
struct SessionPage {
    f: Frame,
    session_id: Option<String>,
    instance: String,
    database: String,
    values: Vec<Value>,
    fields: Vec<FieldView>,
}

fn page(visit: &Visit, typed: &Typed, errors: &FieldErrors) -> SessionPage {
    let t = visit.lang.ui();
    SessionPage {
        f: visit.frame(Place::Session),
        session_id: visit.session_id(),
        instance: visit.state.instance().to_owned(),
        database: visit
            .pool()
            .reader()
            .map_or_else(|| t.no_database.to_owned(), |side| side.to_string()),
        values: visit
            .session
            .values()
            .into_iter()
            .map(|(key, value)| Value {
                remove: fill(t.session_remove_key, &[&key]),
                key,
                value,
            })
            .collect(),
        fields: views(visit.lang, FIELDS, typed, errors),
    }
}

/// `GET /`
pub async fn show(visit: Visit) -> Answer {
    let params = visit.query_params()?;
    let mut page = page(&visit, &Typed::new(), &FieldErrors::default());
    if params.get("destroyed").is_some() {
        // A destroyed session holds no message.
        page.f.flashes.push(Message {
            class: "good",
            text: visit.lang.ui().flash_session_destroyed.to_owned(),
        });
    }
    Ok(visit.page(StatusCode::OK, &page))
}

/// `POST /session/set`
pub async fn set(visit: Visit, body: Body) -> Answer {
    let params = visit.form(body, Place::Session)?;
    let (name, value) = (params.text("name"), params.text("value"));
    match visit.session.set_value(&name, &value) {
        Ok(()) => {
            visit.session.flash("value_saved", &[("name", name.trim())]);
            Ok(visit.see_other("/"))
        }
        Err(errors) => {
            let page = page(&visit, &vec![("name", name), ("value", value)], &errors);
            Ok(visit.page(StatusCode::UNPROCESSABLE_ENTITY, &page))
        }
    }
}

/// `POST /session/remove`
pub async fn remove(visit: Visit, body: Body) -> Answer {
    let params = visit.form(body, Place::Session)?;
    let name = params.text("key");
    if visit.session.remove_value(&name) {
        visit.session.flash("value_removed", &[("name", &name)]);
    }
    Ok(visit.see_other("/"))
}

/// `POST /session/destroy`
pub async fn destroy(visit: Visit) -> Answer {
    visit.session.destroy();
    Ok(visit.see_other("/?destroyed=1"))
}

#[cfg(test)]
pub(super) fn sample(f: Frame) -> impl Template {
    let value = |key: &str, value: &str| Value {
        key: key.to_owned(),
        value: value.to_owned(),
        remove: fill(f.t.session_remove_key, &[&key]),
    };
    SessionPage {
        session_id: Some("4f1c20ab…".to_owned()),
        instance: "web1".to_owned(),
        database: "a".to_owned(),
        values: vec![value("firstname", "Harena"), value("<b>", "<script>")],
        fields: views(f.lang, FIELDS, &Typed::new(), &FieldErrors::default()),
        f,
    }
}
