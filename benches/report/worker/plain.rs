//! Plain connections: what a program without this one would do.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_postgres::{Client, NoTls, Statement};

use super::Order;
use super::clients::Doer;
use crate::work::{Step, Work};

/// As many connections as the present cell has clients: more would only lengthen the server's lists.
pub struct Plain {
    dsn: String,
    connections: Vec<Arc<Client>>,
    statements: Vec<Statement>,
    prepared: Option<Work>,
}

impl Plain {
    pub fn new(dsn: String) -> Plain {
        Plain {
            dsn,
            connections: Vec::new(),
            statements: Vec::new(),
            prepared: None,
        }
    }

    /// Opens and closes connections until there is one a client, with the statement of `work` prepared.
    pub async fn connect(&mut self, clients: usize, work: Work) -> Result<()> {
        if self.connections.len() == clients && self.prepared == Some(work) {
            return Ok(());
        }
        self.connections.truncate(clients);
        while self.connections.len() < clients {
            let (client, connection) = tokio_postgres::connect(&self.dsn, NoTls)
                .await
                .with_context(|| format!("connection {}", self.connections.len() + 1))?;
            tokio::spawn(connection);
            self.connections.push(Arc::new(client));
        }
        self.statements.clear();
        for connection in &self.connections {
            self.statements.push(connection.prepare(work.sql()).await?);
        }
        self.prepared = Some(work);
        Ok(())
    }

    pub fn doers(&self, order: &Order) -> Vec<impl Doer + use<>> {
        let each = self.connections.iter().zip(&self.statements);
        each.map(|(connection, statement)| PlainClient {
            connection: Arc::clone(connection),
            statement: statement.clone(),
            work: order.work.plain(),
        })
        .collect()
    }
}

struct PlainClient {
    connection: Arc<Client>,
    statement: Statement,
    work: Work,
}

impl Doer for PlainClient {
    async fn act(&mut self, step: Step) -> Result<()> {
        let (client, statement) = (&self.connection, &self.statement);
        match self.work {
            Work::Insert => {
                let (name, content) = (step.name(), step.content());
                client.execute(statement, &[&name, &content]).await?;
            }
            Work::Update => {
                client.execute(statement, &[&step.content(), &step.id]).await?;
            }
            Work::Session => {
                client
                    .execute(statement, &[&step.session(), &step.data()])
                    .await?;
            }
            Work::Point => {
                client.query_one(statement, &[&step.id]).await?;
            }
            _ => {
                client.query(statement, &[&step.id, &step.page()]).await?;
            }
        }
        Ok(())
    }
}
