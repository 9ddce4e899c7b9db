//! The plain configuration that a file with presets stands for, as text.

use std::fmt::Write;

use super::{
    convert::is_bare_key,
    error::ConfigErrors,
    keys::Report,
    raw::{self, Kind, Table, Value},
    site,
};

/// Longest line of a list before its elements get lines of their own, in characters.
const LINE_CHARS: usize = 80;

/// Returns the configuration with its presets spelt out as pools and services, each with the
/// reason for what the vendor asks.
///
/// What is returned means the same as `text`; comments of `text` are left out.
///
/// # Errors
///
/// Every fault of `text`, as [`super::parse`] reports them.
pub fn expand(text: &str) -> Result<String, ConfigErrors> {
    super::parse(text)?;
    let root = raw::parse(text).map_err(ConfigErrors::one)?;
    Ok(print(&site::expand(root, &Report::default())))
}

fn print(root: &Table) -> String {
    let mut out = String::from("# Written by `vipd config expand`.\n");
    for entry in &root.entries {
        match &entry.value.kind {
            Kind::List(blocks) => {
                for block in blocks {
                    if let Kind::Table(table) = &block.kind {
                        print_block(&mut out, &format!("[[{}]]", key(&entry.key)), table);
                    }
                }
            }
            Kind::Table(table) => print_block(&mut out, &format!("[{}]", key(&entry.key)), table),
            // No key of the top level takes anything else, and the file has no fault.
            Kind::Text(_) | Kind::Integer(_) | Kind::Boolean(_) | Kind::Other(_) => {}
        }
    }
    out
}

fn print_block(out: &mut String, header: &str, table: &Table) {
    out.push('\n');
    for comment in &table.comments {
        line(out, &format!("# {comment}"));
    }
    line(out, header);
    for entry in &table.entries {
        if let Some(comment) = &entry.comment {
            line(out, &format!("# {comment}"));
        }
        line(
            out,
            &format!("{} = {}", key(&entry.key), value_on_lines(&entry.value)),
        );
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// Returns a value of a block; a long list has a line for each element.
fn value_on_lines(value: &Value) -> String {
    let short = value_in_line(value);
    let Kind::List(items) = &value.kind else {
        return short;
    };
    let of_tables = items.iter().any(|item| matches!(item.kind, Kind::Table(_)));
    if !of_tables && short.chars().count() <= LINE_CHARS {
        return short;
    }
    items.iter().fold(String::from("[\n"), |list, item| {
        list + "  " + &value_in_line(item) + ",\n"
    }) + "]"
}

fn value_in_line(value: &Value) -> String {
    match &value.kind {
        Kind::Text(text) => quote(text),
        Kind::Integer(number) => number.to_string(),
        Kind::Boolean(value) => value.to_string(),
        Kind::Other(text) => text.clone(),
        Kind::List(items) => {
            format!(
                "[{}]",
                items
                    .iter()
                    .map(value_in_line)
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
        Kind::Table(table) if table.entries.is_empty() => "{}".to_owned(),
        Kind::Table(table) => {
            let pairs = table
                .entries
                .iter()
                .map(|entry| format!("{} = {}", key(&entry.key), value_in_line(&entry.value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

fn key(key: &str) -> String {
    if is_bare_key(key) {
        key.to_owned()
    } else {
        quote(key)
    }
}

/// Returns text as a TOML basic string (TOML 1.0, "String").
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                // Writing to a `String` cannot fail.
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
