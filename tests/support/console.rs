//! What the console answers, as rows.

use std::collections::HashMap;

use tokio_postgres::{Client, Error, SimpleColumn, SimpleQueryMessage};

use super::block_on;

/// A row's values by column; NULL is left out.
pub type Row = HashMap<String, String>;

/// The rows of a command.
pub fn rows(client: &Client, command: &str) -> Result<Vec<Row>, Error> {
    let messages = block_on(client.simple_query(command))?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let named = rows.map(|row| {
        let columns = row.columns().iter().enumerate();
        let value = |(index, column): (usize, &SimpleColumn)| {
            let value = row.get(index)?;
            Some((column.name().to_owned(), value.to_owned()))
        };
        columns.filter_map(value).collect()
    });
    Ok(named.collect())
}
