//! What the pages need to know of a subject: items and servers have the same pages.

use std::future::Future;

use askama::Template;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fields::{Field, Typed};
use super::frame::Place;
use super::list::ListView;
use crate::listing::{FieldErrors, ListQuery, Page};
use crate::multipool::{Applied, Fields, MultiPool, OpId, ReadError, WriteError};
use crate::web::lang::{Lang, SubjectTexts, UiTexts};

/// A column of a list.
pub struct ColumnSpec {
    /// Name in `?sort=`, or empty if the list cannot be sorted by it.
    pub sort: &'static str,
    /// Its title.
    pub label: fn(&UiTexts) -> &'static str,
    /// CSS class of its title.
    pub class: &'static str,
}

/// One line of the page of a row; `None` is shown as "not set".
#[derive(Debug)]
pub struct Fact {
    /// What it is.
    pub label: &'static str,
    /// Its value.
    pub value: Option<String>,
}

/// A table with pages to list, create, show, edit and delete its rows.
pub trait Subject: 'static {
    /// A row.
    type Row;
    /// What a person may say about a row; its JSON is the hidden field that notices edit conflicts.
    type Input: Serialize + DeserializeOwned;
    /// The page of a list.
    type ListPage: Template;

    /// Part of the application.
    const PLACE: Place;
    /// Address of the list, and word before the dot of its messages.
    const NAME: &'static str;
    /// Columns of the list.
    const COLUMNS: &'static [ColumnSpec];
    /// Names a list can be sorted by.
    const SORTS: &'static [&'static str];
    /// Fields of the form.
    const FIELDS: &'static [Field];

    /// Its texts.
    fn texts(lang: Lang) -> &'static SubjectTexts;
    /// An empty form.
    fn blank() -> Typed;
    /// Number of a row.
    fn id(row: &Self::Row) -> i32;
    /// A row as input.
    fn input(row: &Self::Row) -> Self::Input;
    /// The row of an edit conflict as input.
    fn current(fields: &Fields) -> Self::Input;
    /// Input as the text of the form's fields.
    fn typed(input: &Self::Input) -> Typed;
    /// Reads and checks a form. `seen` is what stood in it before.
    ///
    /// # Errors
    /// The wrong fields.
    fn read(typed: &Typed, seen: Option<&Self::Input>) -> Result<Self::Input, FieldErrors>;
    /// A row as a person reads it.
    fn facts(lang: Lang, row: &Self::Row) -> Vec<Fact>;
    /// The page of a list.
    fn list_page(view: ListView, rows: Vec<Self::Row>) -> Self::ListPage;

    /// One page of rows.
    fn list(pool: &MultiPool, query: &ListQuery) -> impl Future<Output = Result<Page<Self::Row>, ReadError>>;
    /// One row.
    fn get(pool: &MultiPool, id: i32) -> impl Future<Output = Result<Option<Self::Row>, ReadError>>;
    /// Inserts a row.
    fn create(
        pool: &MultiPool,
        op: OpId,
        input: &Self::Input,
    ) -> impl Future<Output = Result<Applied, WriteError>>;
    /// Changes a row if it is as it was seen.
    fn update(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        input: &Self::Input,
        seen: Option<&Self::Input>,
    ) -> impl Future<Output = Result<Applied, WriteError>>;
    /// Deletes a row if it is as it was seen.
    fn delete(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        seen: Option<&Self::Input>,
    ) -> impl Future<Output = Result<Applied, WriteError>>;

    /// Address of the list.
    fn base() -> String {
        format!("/{}", Self::NAME)
    }
}
