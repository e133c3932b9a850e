//! One connection: questions in three forms, every wait bounded.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, SimpleQueryMessage, Statement};

use super::options::{Endpoint, Form};
use crate::pg;

/// What is asked of a cell, by the number of its row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question {
    Read { row: i32 },
    Write { row: i32, value: i64 },
    Increase { row: i32 },
}

/// What a server said, and which it was.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) row: i32,
    pub(super) value: i64,
    pub(super) replica: bool,
    pub(super) node: String,
}

#[derive(Clone, Debug)]
pub(super) struct StatementError {
    /// SQLSTATE, or a word where there is none.
    pub(super) code: String,
    pub(super) message: String,
    /// The connection cannot be used any more.
    pub(super) lost: bool,
}

impl StatementError {
    fn plain(code: &str, message: impl Into<String>, lost: bool) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            lost,
        }
    }

    /// Whether a write or COMMIT that met this may have happened nevertheless.
    pub(super) fn leaves_outcome_unknown(&self) -> bool {
        self.lost || self.code.starts_with("08") || matches!(&*self.code, "40003" | "57P01")
    }
}

impl From<tokio_postgres::Error> for StatementError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self {
                code: db.code().code().to_owned(),
                message: db.message().to_owned(),
                lost: matches!(db.severity(), "FATAL" | "PANIC"),
            },
            None => Self::plain("connection", pg::with_causes(&error), true),
        }
    }
}

/// The statements, with `$n` for parameters.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    read: String,
    write: String,
    increase: String,
}

impl Texts {
    /// Who answers is asked in the same statement, by functions that are not volatile: anything else
    /// would send every read to the primary. `in_hot_standby` exists since PostgreSQL 14.
    ///
    /// With a history each write of an own row is noted by the same statement.
    pub(super) fn new(schema: &str, node_expression: &str, history: bool) -> Self {
        let cells = format!("\"{schema}\".cells");
        let note = match history {
            true => format!("WITH noted AS (INSERT INTO \"{schema}\".history VALUES ($1, $2)) "),
            false => String::new(),
        };
        let columns = format!(
            "id, value, coalesce(current_setting('in_hot_standby', true), \
             current_setting('transaction_read_only')), ({node_expression})::text"
        );
        Self {
            read: format!("SELECT {columns} FROM {cells} WHERE id = $1"),
            write: format!(
                "{note}UPDATE {cells} SET value = greatest(value, $2) WHERE id = $1 RETURNING {columns}"
            ),
            increase: format!(
                "UPDATE {cells} SET value = value + 1 WHERE id = $1 RETURNING {columns}"
            ),
        }
    }

    fn of(&self, question: Question) -> &str {
        match question {
            Question::Read { .. } => &self.read,
            Question::Write { .. } => &self.write,
            Question::Increase { .. } => &self.increase,
        }
    }
}

/// A connection and what is prepared on it.
pub(super) struct Connection {
    client: Client,
    driver: JoinHandle<()>,
    prepared: HashMap<String, Statement>,
    patience: Duration,
}

impl Connection {
    /// Connects and sends `settings`, each of which must succeed.
    pub(super) async fn open(
        endpoint: &Endpoint,
        settings: &[String],
        patience: Duration,
    ) -> Result<Self, StatementError> {
        let mut config = endpoint.config().clone();
        if config.get_application_name().is_none() {
            config.application_name("causeway verify");
        }
        let (client, driver) = bounded(patience, pg::connect(&config)).await?;
        let link = Self {
            client,
            driver,
            prepared: HashMap::new(),
            patience,
        };
        for setting in settings {
            link.run(setting, Form::Simple).await?;
        }
        Ok(link)
    }

    /// Runs text that returns nothing.
    pub(super) async fn run(&self, text: &str, form: Form) -> Result<(), StatementError> {
        match form {
            Form::Extended => bounded(self.patience, self.client.query_typed(text, &[]))
                .await
                .map(drop),
            Form::Simple | Form::Prepared => {
                bounded(self.patience, self.client.batch_execute(text)).await
            }
        }
    }

    /// Runs text that returns rows of text, one column.
    pub(super) async fn column(&self, text: &str) -> Result<Vec<String>, StatementError> {
        let messages = bounded(self.patience, self.client.simple_query(text)).await?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
            .collect())
    }

    /// Asks one question; the answer must be one row.
    pub(super) async fn ask(
        &mut self,
        texts: &Texts,
        question: Question,
        form: Form,
    ) -> Result<Answer, StatementError> {
        let text = texts.of(question);
        match form {
            Form::Simple => self.ask_simply(text, question).await,
            Form::Extended => {
                let parameters: Vec<(&(dyn ToSql + Sync), Type)> = match &question {
                    Question::Read { row } | Question::Increase { row } => vec![(row, Type::INT4)],
                    Question::Write { row, value } => vec![(row, Type::INT4), (value, Type::INT8)],
                };
                let rows = bounded(self.patience, self.client.query_typed(text, &parameters));
                answer(rows.await?.first())
            }
            Form::Prepared => {
                let statement = self.prepare(text, question).await?;
                let parameters: Vec<&(dyn ToSql + Sync)> = match &question {
                    Question::Read { row } | Question::Increase { row } => vec![row],
                    Question::Write { row, value } => vec![row, value],
                };
                let rows = bounded(self.patience, self.client.query(&statement, &parameters));
                answer(rows.await?.first())
            }
        }
    }

    async fn ask_simply(&self, text: &str, question: Question) -> Result<Answer, StatementError> {
        let text = match question {
            Question::Read { row } | Question::Increase { row } => {
                text.replace("$1", &row.to_string())
            }
            Question::Write { row, value } => text
                .replace("$1", &row.to_string())
                .replace("$2", &value.to_string()),
        };
        let messages = bounded(self.patience, self.client.simple_query(&text)).await?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row = row.ok_or_else(no_row)?;
        let (Some(id), Some(value)) = (
            row.get(0).and_then(|text| text.parse().ok()),
            row.get(1).and_then(|text| text.parse().ok()),
        ) else {
            return Err(StatementError::plain(
                "answer",
                "not the columns asked for",
                false,
            ));
        };
        Ok(Answer {
            row: id,
            value,
            replica: row.get(2) == Some("on"),
            node: row.get(3).unwrap_or("?").to_owned(),
        })
    }

    async fn prepare(
        &mut self,
        text: &str,
        question: Question,
    ) -> Result<Statement, StatementError> {
        if let Some(statement) = self.prepared.get(text) {
            return Ok(statement.clone());
        }
        let types: &[Type] = match question {
            Question::Read { .. } | Question::Increase { .. } => &[Type::INT4],
            Question::Write { .. } => &[Type::INT4, Type::INT8],
        };
        let statement = bounded(self.patience, self.client.prepare_typed(text, types)).await?;
        self.prepared.insert(text.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Says goodbye, so that no server logs a broken connection.
    pub(super) async fn close(mut self) {
        self.prepared.clear();
        let driver = std::mem::replace(&mut self.driver, tokio::spawn(async {}));
        let abort = driver.abort_handle();
        drop(self);
        if tokio::time::timeout(Duration::from_secs(1), driver)
            .await
            .is_err()
        {
            abort.abort();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // A server that hangs must not keep the connection's task alive.
        self.driver.abort();
    }
}

pub(super) fn no_row() -> StatementError {
    StatementError::plain("no row", "the answer has no row", false)
}

fn answer(row: Option<&Row>) -> Result<Answer, StatementError> {
    let row = row.ok_or_else(no_row)?;
    let replica: Option<String> = row.try_get(2)?;
    let node: Option<String> = row.try_get(3)?;
    Ok(Answer {
        row: row.try_get(0)?,
        value: row.try_get(1)?,
        replica: replica.as_deref() == Some("on"),
        node: node.unwrap_or_else(|| "?".to_owned()),
    })
}

async fn bounded<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StatementError> {
    match tokio::time::timeout(patience, work).await {
        Ok(result) => result.map_err(StatementError::from),
        // The answer may still come, and would be taken for the next one's.
        Err(_) => Err(StatementError::plain("timeout", "no answer in time", true)),
    }
}
