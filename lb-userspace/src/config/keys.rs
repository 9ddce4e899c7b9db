//! Reading one table key by key: what is missing, of the wrong kind, out of range or unknown
//! becomes a fault with its place, and reading goes on.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use super::{
    convert::{self, shown},
    error::Fault,
    model::{CertificateFiles, Warning},
    raw::{Kind, Table, Value},
    suggest::nearest,
};

/// Where something stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Keys and indices, such as `service[2].persistence`.
    pub(super) path: String,
    /// Line, from 1.
    pub(super) line: usize,
}

impl Place {
    /// Returns the place of `key` in the table that stands here.
    fn key(&self, key: &str, line: usize) -> Self {
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        Self { path, line }
    }

    /// Returns the place of one element of the list that stands here.
    fn index(&self, index: usize, line: usize) -> Self {
        Self {
            path: format!("{}[{index}]", self.path),
            line,
        }
    }
}

/// What is expected of a file that the configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    /// One or more certificates, PEM.
    Certificates,
    /// Anything that can be read.
    Any,
}

/// Where the files of a certificate are named.
#[derive(Clone, Debug)]
pub(super) struct CertificatePlaces {
    pub(super) certificate: Place,
    pub(super) key: Place,
    pub(super) password_file: Place,
}

/// What reading a configuration brings to light.
#[derive(Debug, Default)]
pub(super) struct Report {
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Warning>>,
    files: RefCell<Vec<(Place, PathBuf, FileKind)>>,
    certificates: RefCell<Vec<(CertificatePlaces, CertificateFiles)>>,
}

impl Report {
    /// Notes a fault; `message` holds the value and the remedy.
    pub(super) fn fault(&self, place: &Place, message: impl Into<String>) {
        self.add(Fault {
            place: place.path.clone(),
            line: Some(place.line),
            column: None,
            message: message.into(),
        });
    }

    /// Notes a fault.
    pub(super) fn add(&self, fault: Fault) {
        self.faults.borrow_mut().push(fault);
    }

    /// Notes what is legal but deserves a second look.
    pub(super) fn warn(&self, place: &Place, message: impl Into<String>) {
        self.warnings.borrow_mut().push(Warning {
            place: place.path.clone(),
            message: message.into(),
        });
    }

    /// Notes a file that must be there when the configuration is used.
    pub(super) fn file(&self, place: Place, path: &Path, kind: FileKind) {
        self.files.borrow_mut().push((place, path.to_owned(), kind));
    }

    /// Returns the files noted so far.
    pub(super) fn files(&self) -> Vec<(Place, PathBuf, FileKind)> {
        self.files.borrow().clone()
    }

    /// Notes a certificate that clients will be shown.
    pub(super) fn certificate(&self, places: CertificatePlaces, files: &CertificateFiles) {
        self.certificates.borrow_mut().push((places, files.clone()));
    }

    /// Returns the certificates noted so far.
    pub(super) fn certificates(&self) -> Vec<(CertificatePlaces, CertificateFiles)> {
        self.certificates.borrow().clone()
    }

    /// Returns how many faults there are so far.
    pub(super) fn fault_count(&self) -> usize {
        self.faults.borrow().len()
    }

    /// Takes the faults and the warnings out of the report.
    pub(super) fn take(&self) -> (Vec<Fault>, Vec<Warning>) {
        (self.faults.take(), self.warnings.take())
    }
}

/// One table under the reader's finger.
///
/// Every key that the table may have must be asked for before [`Keys::finish`]: what was not asked
/// for is unknown.
pub(super) struct Keys<'a> {
    table: &'a Table,
    place: Place,
    report: &'a Report,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(table: &'a Table, place: Place, report: &'a Report) -> Self {
        Self {
            table,
            place,
            report,
            asked: RefCell::default(),
        }
    }

    /// Returns keys of a table that the file leaves out.
    pub(super) fn empty(&self, key: &str) -> Self {
        static EMPTY: Table = Table {
            line: 1,
            entries: Vec::new(),
            comments: Vec::new(),
            origin: None,
        };
        Self::new(&EMPTY, self.at(key), self.report)
    }

    /// Returns the table as it stands in the file.
    pub(super) fn source(&self) -> &'a Table {
        self.table
    }

    /// Returns the place of the table.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the place of `key`; if it is absent, with the table's line.
    pub(super) fn at(&self, key: &str) -> Place {
        self.place.key(
            key,
            self.table
                .get(key)
                .map_or(self.place.line, |value| value.line),
        )
    }

    /// Notes a fault at `key`.
    pub(super) fn fault(&self, key: &str, message: impl Into<String>) {
        self.report.fault(&self.at(key), message);
    }

    /// Notes a warning at `key`.
    pub(super) fn warn(&self, key: &str, message: impl Into<String>) {
        self.report.warn(&self.at(key), message);
    }

    /// Returns whether the file has `key`.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.raw(key).is_some()
    }

    /// Returns the value of `key` as it stands in the file.
    pub(super) fn raw(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().push(key);
        self.table.get(key)
    }

    /// Returns the value of an optional key; `None` if it is absent or at fault.
    pub(super) fn get<T>(
        &self,
        key: &'static str,
        convert: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        match convert(self.raw(key)?) {
            Ok(value) => Some(value),
            Err(message) => {
                self.fault(key, message);
                None
            }
        }
    }

    /// Returns the value of a key that must be there; `remedy` says what to write.
    pub(super) fn need<T>(
        &self,
        key: &'static str,
        remedy: &str,
        convert: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.fault(key, format!("is missing; {remedy}"));
        }
        self.get(key, convert)
    }

    /// Returns the elements of an optional list; faults are noted at each element.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        convert: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let items = self.items(key)?;
        let mut converted = Vec::with_capacity(items.len());
        for (value, place) in items {
            match convert(value) {
                Ok(item) => converted.push(item),
                Err(message) => self.report.fault(&place, message),
            }
        }
        Some(converted)
    }

    /// Returns the elements of an optional list, each with its place.
    pub(super) fn items(&self, key: &'static str) -> Option<Vec<(&'a Value, Place)>> {
        let value = self.raw(key)?;
        let Kind::List(items) = &value.kind else {
            self.fault(
                key,
                format!("{} is not a list; put it in brackets", shown(value)),
            );
            return None;
        };
        let place = self.at(key);
        Some(
            items
                .iter()
                .enumerate()
                .map(|(i, item)| (item, place.index(i, item.line)))
                .collect(),
        )
    }

    /// Returns the keys of an optional table.
    pub(super) fn table(&self, key: &'static str) -> Option<Self> {
        let value = self.raw(key)?;
        self.keys_of(value, self.at(key))
    }

    /// Returns the keys of each table of an optional list of tables.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Self> {
        let items = self.items(key).unwrap_or_default();
        items
            .into_iter()
            .filter_map(|(value, place)| self.keys_of(value, place))
            .collect()
    }

    /// Returns each `[[key]]` of the file; elements that are no tables become faults.
    pub(super) fn blocks(&self, key: &'static str) -> Vec<(&'a Table, Place)> {
        let Some(value) = self.raw(key) else {
            return Vec::new();
        };
        let items = match &value.kind {
            Kind::List(items) => items.as_slice(),
            _ => {
                let message =
                    format!("stands here once, but there may be several; write [[{key}]]");
                self.fault(key, message);
                // Read all the same: what is in it may be at fault as well, and others refer to it.
                std::slice::from_ref(value)
            }
        };
        let block = |(index, value): (usize, &'a Value)| {
            let place = self.at(key).index(index, value.line);
            if let Kind::Table(table) = &value.kind {
                return Some((table, origin_or(table, place)));
            }
            let message = format!(
                "{} is not a table; write [[{key}]] and its keys",
                shown(value)
            );
            self.report.fault(&place, message);
            None
        };
        items.iter().enumerate().filter_map(block).collect()
    }

    /// Notes a fault for each key of the table that was never asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for entry in self
            .table
            .entries
            .iter()
            .filter(|entry| !asked.contains(&entry.key.as_str()))
        {
            let remedy = match nearest(&entry.key, asked.iter().copied()) {
                Some(known) => format!("did you mean \"{known}\"?"),
                None => format!("remove it; known here: {}", known_keys(&asked)),
            };
            let place = self
                .place
                .key(&convert::key_text(&entry.key), entry.value.line);
            self.report.fault(&place, format!("unknown key; {remedy}"));
        }
    }

    fn keys_of(&self, value: &'a Value, place: Place) -> Option<Self> {
        let message = match &value.kind {
            Kind::Table(table) => {
                return Some(Self::new(table, origin_or(table, place), self.report));
            }
            Kind::List(_) => "is a list, but there is only one; write one table".to_owned(),
            _ => format!(
                "{} is not a table; write key = value in braces or under one header",
                shown(value)
            ),
        };
        self.report.fault(&place, message);
        None
    }
}

/// Something that was read, and where.
#[derive(Debug)]
pub(super) struct Found<'a, T> {
    pub(super) item: T,
    pub(super) place: Place,
    table: &'a Table,
}

impl<'a, T> Found<'a, T> {
    pub(super) fn new(item: T, table: &'a Table, place: Place) -> Self {
        Self { item, place, table }
    }

    /// Returns the place of a key of its table, or of a key within a table of it.
    pub(super) fn at(&self, keys: &[&str]) -> Place {
        let mut place = self.place.clone();
        let mut table = Some(self.table);
        for key in keys {
            let line = table
                .and_then(|table| table.get(key))
                .map_or(place.line, |value| value.line);
            place = place.key(key, line);
            table = table.and_then(|table| table.table(key));
        }
        place
    }
}

fn origin_or(table: &Table, place: Place) -> Place {
    match &table.origin {
        Some(origin) => Place {
            path: origin.clone(),
            line: table.line,
        },
        None => place,
    }
}

fn known_keys(asked: &[&str]) -> String {
    let mut known = asked.to_vec();
    known.sort_unstable();
    known.dedup();
    known.join(", ")
}
