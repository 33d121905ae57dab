//! The least that an actix program with one PostgreSQL can do: what the web application is compared with.
//!
//! The bench starts itself with the argument `minimal`; `DSN` and `PORT` come from the environment.

use actix_web::web::{self, Data, Json, Path};
use actix_web::{App, HttpResponse, HttpServer, Responder};
use anyhow::Result;
use deadpool_postgres::{Manager, Pool};
use serde::{Deserialize, Serialize};
use tokio_postgres::{NoTls, Row};

/// As many as the web application has for reads.
const CONNECTIONS: usize = 8;

/// The same columns as the web application.
const COLUMNS: &str = "id, name, content, updated_at::text AS updated_at";

#[derive(Serialize)]
struct Item {
    id: i32,
    name: String,
    content: Option<String>,
    updated_at: Option<String>,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    content: Option<String>,
}

type Answer = Result<HttpResponse, Box<dyn std::error::Error>>;

fn item(row: &Row) -> Item {
    Item {
        id: row.get(0),
        name: row.get(1),
        content: row.get(2),
        updated_at: row.get::<_, Option<&str>>(3).map(|at| at.replacen(' ', "T", 1)),
    }
}

async fn show(pool: Data<Pool>, id: Path<i32>) -> Answer {
    let client = pool.get().await?;
    let sql = format!("SELECT {COLUMNS} FROM items WHERE id = $1");
    let statement = client.prepare_cached(&sql).await?;
    let row = client.query_opt(&statement, &[&*id]).await?;
    Ok(match row {
        Some(row) => HttpResponse::Ok().json(item(&row)),
        None => HttpResponse::NotFound().finish(),
    })
}

async fn list(pool: Data<Pool>) -> Answer {
    let client = pool.get().await?;
    let sql = format!("SELECT {COLUMNS} FROM items ORDER BY id LIMIT 25");
    let statement = client.prepare_cached(&sql).await?;
    let rows: Vec<Item> = client.query(&statement, &[]).await?.iter().map(item).collect();
    Ok(HttpResponse::Ok().json(serde_json::json!({ "rows": rows })))
}

async fn create(pool: Data<Pool>, input: Json<Input>) -> Answer {
    let client = pool.get().await?;
    let sql = format!("INSERT INTO items (name, content) VALUES ($1, $2) RETURNING {COLUMNS}");
    let statement = client.prepare_cached(&sql).await?;
    let row = client
        .query_one(&statement, &[&input.name, &input.content])
        .await?;
    Ok(HttpResponse::Created().json(item(&row)))
}

async fn well() -> impl Responder {
    HttpResponse::Ok()
}

/// Its `main`.
pub fn main() -> Result<()> {
    let dsn = std::env::var("DSN")?;
    let port: u16 = std::env::var("PORT")?.parse()?;
    let pool = Pool::builder(Manager::new(dsn.parse()?, NoTls))
        .max_size(CONNECTIONS)
        .build()?;
    actix_web::rt::System::new().block_on(async move {
        HttpServer::new(move || {
            App::new()
                .app_data(Data::new(pool.clone()))
                .route("/api/items/{id}", web::get().to(show))
                .route("/api/items", web::get().to(list))
                .route("/api/items", web::post().to(create))
                .default_service(web::to(well))
        })
        .bind(("127.0.0.1", port))?
        .run()
        .await
    })?;
    Ok(())
}
