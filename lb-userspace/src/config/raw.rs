//! The file as a tree of keys and values that know their lines: the only place that names `toml`.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::Fault;

/// A table as written in the file, or as a preset makes it. Nothing here is trusted yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    /// Line of the header or the opening brace, from 1.
    pub(super) line: usize,
    /// Keys in the order of the file.
    pub(super) entries: Vec<Entry>,
    /// Why a preset made this table, a line each.
    pub(super) comments: Vec<String>,
    /// The place that stands for this table in messages, if a preset made it.
    pub(super) origin: Option<String>,
}

/// One key of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Value,
    /// Why a preset set this key.
    pub(super) comment: Option<String>,
}

/// One value and its line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Value {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

/// The kinds of values that a configuration is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Value>),
    Table(Table),
    /// A date, a fraction or a number beyond 64 bits, as written: no key takes one.
    Other(String),
}

impl Table {
    /// Returns the value of `key`.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    /// Returns the table under `key`, if it is one.
    pub(super) fn table(&self, key: &str) -> Option<&Self> {
        match &self.get(key)?.kind {
            Kind::Table(table) => Some(table),
            _ => None,
        }
    }
}

/// Making tables, for presets.
impl Table {
    /// Adds a key.
    pub(super) fn with(mut self, key: &str, kind: impl Into<Kind>) -> Self {
        let mut value = Value {
            line: self.line,
            kind: kind.into(),
        };
        value.stand_at(self.line);
        self.entries.push(Entry {
            key: key.to_owned(),
            value,
            comment: None,
        });
        self
    }

    /// Adds a key and the reason for its value.
    pub(super) fn with_reason(self, key: &str, kind: impl Into<Kind>, reason: &str) -> Self {
        let mut table = self.with(key, kind);
        if let Some(entry) = table.entries.last_mut() {
            entry.comment = Some(reason.to_owned());
        }
        table
    }

    /// Adds a key if there is a value for it.
    pub(super) fn with_some(self, key: &str, kind: Option<impl Into<Kind>>) -> Self {
        match kind {
            Some(kind) => self.with(key, kind),
            None => self,
        }
    }
}

impl Value {
    /// Gives a line to what was made without one.
    fn stand_at(&mut self, line: usize) {
        if self.line == 0 {
            self.line = line;
        }
        match &mut self.kind {
            Kind::List(items) => items.iter_mut().for_each(|item| item.stand_at(line)),
            Kind::Table(table) => {
                if table.line == 0 {
                    table.line = line;
                }
                table
                    .entries
                    .iter_mut()
                    .for_each(|entry| entry.value.stand_at(line));
            }
            Kind::Text(_) | Kind::Integer(_) | Kind::Boolean(_) | Kind::Other(_) => {}
        }
    }
}

impl From<&str> for Kind {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Kind {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Kind {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<Table> for Kind {
    fn from(table: Table) -> Self {
        Self::Table(table)
    }
}

impl From<Vec<Value>> for Kind {
    fn from(items: Vec<Value>) -> Self {
        Self::List(items)
    }
}

impl<K: Into<Kind>> From<K> for Value {
    /// Returns a value without a line; it gets that of the table it is put into.
    fn from(kind: K) -> Self {
        Self {
            line: 0,
            kind: kind.into(),
        }
    }
}

/// Reads TOML.
///
/// # Errors
///
/// The first fault of syntax, with line and column: what follows it is seldom meant as it reads.
pub(super) fn parse(text: &str) -> Result<Table, Fault> {
    let lines = Lines::new(text);
    let table = DeTable::parse(text).map_err(|error| syntax_fault(text, &lines, &error))?;
    Ok(table_of(table, &lines))
}

fn syntax_fault(text: &str, lines: &Lines, error: &toml::de::Error) -> Fault {
    let start = error
        .span()
        .map_or(text.len(), |span| span.start)
        .min(text.len());
    let line = lines.of(start);
    let column = text
        .get(lines.start_of(line)..start)
        .map_or(1, |before| before.chars().count() + 1);
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    Fault {
        place: String::new(),
        line: Some(line),
        column: Some(column),
        message: format!("{message}; the file must be TOML"),
    }
}

fn table_of(table: Spanned<DeTable<'_>>, lines: &Lines) -> Table {
    let line = lines.of(table.span().start);
    let mut entries: Vec<(Range<usize>, Entry)> = table
        .into_inner()
        .into_iter()
        .map(|(key, value)| {
            let span = key.span();
            let entry = Entry {
                key: key.into_inner().into_owned(),
                value: value_of(value, lines),
                comment: None,
            };
            (span, entry)
        })
        .collect();
    entries.sort_by_key(|(span, _)| span.start);
    Table {
        line,
        entries: entries.into_iter().map(|(_, entry)| entry).collect(),
        comments: Vec::new(),
        origin: None,
    }
}

fn value_of(value: Spanned<DeValue<'_>>, lines: &Lines) -> Value {
    let span = value.span();
    let line = lines.of(span.start);
    let kind = match value.into_inner() {
        DeValue::String(text) => Kind::Text(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Kind::Other(number.to_string()), Kind::Integer),
        DeValue::Boolean(value) => Kind::Boolean(value),
        DeValue::Float(number) => Kind::Other(number.to_string()),
        DeValue::Datetime(date) => Kind::Other(date.to_string()),
        DeValue::Array(items) => Kind::List(
            items
                .into_iter()
                .map(|item| value_of(item, lines))
                .collect(),
        ),
        DeValue::Table(table) => Kind::Table(table_of(Spanned::new(span, table), lines)),
    };
    Value { line, kind }
}

/// Where each line starts, in bytes.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn new(text: &str) -> Self {
        let after_breaks = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        Self {
            starts: std::iter::once(0).chain(after_breaks).collect(),
        }
    }

    /// Returns the line of the byte at `offset`, from 1.
    fn of(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// Returns the offset of the first byte of `line`.
    fn start_of(&self, line: usize) -> usize {
        self.starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_knows_its_line_and_keys_keep_their_order() {
        let table = parse(
            "[node]\n\nb = 1\na = [\n  \"x\",\n  { k = true \
         },\n]\n[[pool]]\n[[pool]]\nname = \"p\"\n",
        )
        .expect("valid TOML");

        let node = table.table("node").expect("node");
        assert_eq!(node.line, 1);
        assert_eq!(
            node.entries
                .iter()
                .map(|e| (e.key.as_str(), e.value.line))
                .collect::<Vec<_>>(),
            [("b", 3), ("a", 4)]
        );
        let Kind::List(items) = &node.entries[1].value.kind else {
            panic!("a list")
        };
        assert_eq!(
            items.iter().map(|item| item.line).collect::<Vec<_>>(),
            [5, 6]
        );
        let Some(Kind::List(pools)) = table.get("pool").map(|value| &value.kind) else {
            panic!("pools")
        };
        assert_eq!(
            pools.iter().map(|pool| pool.line).collect::<Vec<_>>(),
            [8, 9]
        );
    }

    #[test]
    fn broken_syntax_is_one_fault_with_line_and_column() {
        let fault = parse("[node]\ninterfaces = [\"eth0\"\n[log]\n").expect_err("broken");
        assert_eq!((fault.line, fault.place.as_str()), (Some(3), ""));
        assert!(fault.column.is_some());
    }
}
