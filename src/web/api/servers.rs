//! `/api/servers`.

use serde::Deserialize;
use serde_json::Number;

use super::request::json;
use super::resource::Resource;
use crate::listing::{ListQuery, Page};
use crate::multipool::{Applied, MultiPool, OpId, ReadError, WriteError};
use crate::servers::{self, Server, ServerForm, ServerInput};
use crate::web::problem::Problem;

/// Servers as a resource of the API.
pub(in crate::web) struct Servers;

/// As sent; the numbers are checked with the other fields, so that all errors come at once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default)]
    name: String,
    #[serde(default)]
    host: String,
    port: Option<Number>,
    /// Like the table, a server is active unless somebody says otherwise.
    active: Option<bool>,
}

impl Resource for Servers {
    type Row = Server;
    type Input = ServerInput;
    const PATH: &'static str = servers::TABLE;
    const NAME: &'static str = "server";
    const SORTS: &'static [&'static str] = servers::SORTS;

    fn parse(body: &[u8]) -> Result<ServerInput, Problem> {
        let body: Body = json(body)?;
        let form = ServerForm {
            name: body.name,
            host: body.host,
            port: body.port.map(|port| port.to_string()).unwrap_or_default(),
            active: Some(body.active.unwrap_or(true).to_string()),
        };
        form.validate().map_err(|errors| Problem::invalid(&errors))
    }

    fn seen(row: &Server) -> ServerInput {
        row.into()
    }

    async fn list(pool: &MultiPool, query: &ListQuery) -> Result<Page<Server>, ReadError> {
        servers::list(pool, query).await
    }

    async fn get(pool: &MultiPool, id: i32) -> Result<Option<Server>, ReadError> {
        servers::get(pool, id).await
    }

    async fn create(pool: &MultiPool, op: OpId, input: &ServerInput) -> Result<Applied, WriteError> {
        servers::create(pool, op, input).await
    }

    async fn update(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        input: &ServerInput,
        seen: Option<&ServerInput>,
    ) -> Result<Applied, WriteError> {
        servers::update(pool, op, id, input, seen).await
    }

    async fn delete(
        pool: &MultiPool,
        op: OpId,
        id: i32,
        seen: Option<&ServerInput>,
    ) -> Result<Applied, WriteError> {
        servers::delete(pool, op, id, seen).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wrong_fields_are_named_at_once() {
        let status = |body: &str| Servers::parse(body.as_bytes()).map_err(|p| p.status().as_u16());
        assert!(status(r#"{"name":"a","host":"h","port":80}"#).unwrap().active);
        for bad in [
            r#"{"name":"a","host":"h","port":0}"#,
            r#"{"name":"a","host":"h","port":65536}"#,
            r#"{"name":"a","host":"h","port":80.5}"#,
            r#"{"name":"a","host":"h","port":"80"}"#,
            r#"{"name":"a","host":"h","port":1e999}"#,
            r#"{"name":"a","host":"h"}"#,
        ] {
            assert!(matches!(status(bad), Err(400 | 422)), "{bad}");
        }
    }
}
