//! A database as the statements that make it.

use rusqlite::Connection;
use rusqlite::types::Value;
use std::fmt::Write as _;

/// Statements that make this database.
pub(crate) fn dump(connection: &Connection) -> String {
    let mut text = String::new();
    let mut schema = connection
        .prepare("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid")
        .unwrap();
    let objects = schema.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    for object in objects.unwrap() {
        let (kind, name, sql): (String, String, String) = object.unwrap();
        writeln!(text, "{sql};").unwrap();
        if kind != "table" {
            continue;
        }
        let mut rows = connection
            .prepare(&format!("SELECT * FROM {name}"))
            .unwrap();
        let columns = rows.column_names().join(", ");
        let n_columns = rows.column_count();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> = (0..n_columns)
                .map(|idx| literal(row.get_unwrap(idx)))
                .collect();
            let values = values.join(", ");
            writeln!(text, "INSERT INTO {name} ({columns}) VALUES ({values});").unwrap();
        }
    }
    writeln!(
        text,
        "PRAGMA user_version = {};",
        schema_version(connection)
    )
    .unwrap();
    text
}

fn literal(value: Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        Value::Blob(bytes) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("x'{digits}'")
        }
    }
}

pub(crate) fn schema_version(connection: &Connection) -> u32 {
    connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap()
}
