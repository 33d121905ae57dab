//! `/api/items`.

use super::request::json;
use super::resource::Resource;
use crate::items::{self, Item, ItemInput};
use crate::listing::{ListQuery, Page};
use crate::multipool::{Applied, MultiPool, OpId, ReadError, WriteError};
use crate::web::problem::Problem;

/// Items as a resource of the API.
pub(in crate::web) struct Items;

impl Resource for Items {
    type Row = Item;
    type Input = ItemInput;
    const PATH: &'static str = items::TABLE;
    const NAME: &'static str = "item";
    const SORTS: &'static [&'static str] = items::SORTS;

    fn parse(body: &[u8]) -> Result<ItemInput, Problem> {
        let input: ItemInput = json(body)?;
        input.validate().map_err(|errors| Problem::invalid(&errors))
    }

    fn seen(row: &Item) -> ItemInput {
        row.into()
    }

    async fn list(pool: &MultiPool, query: &ListQuery) -> Result<Page<Item>, ReadError> {
        items::list(pool, query).await
    }

    async fn get(pool: &MultiPool, id: i32) -> Result<Option<Item>, ReadError> {
        items::get(pool, id).await
    }

    async fn create(pool: &MultiPool, op: OpId, input: &ItemInput) -> Result<Applied, WriteError> {
        items::create(pool, op, input).await
    }

    async fn update(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        input: &ItemInput,
        seen: Option<&ItemInput>,
    ) -> Result<Applied, WriteError> {
        items::update(pool, op, id, input, seen).await
    }

    async fn delete(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        seen: Option<&ItemInput>,
    ) -> Result<Applied, WriteError> {
        items::delete(pool, op, id, seen).await
    }
}
