//! The configuration: from the file to types that cannot be wrong.
//!
//! [`load_runnable`] is what the daemon uses. The way of a file: `raw` (TOML to a tree with lines)
//! -> `site` (presets become pools and services) -> a reader for each table -> `across` (what must
//! agree between tables) -> [`model::Config`]. Faults are gathered on the way and reported at once.

mod across;
mod built;
pub mod clients;
mod convert;
pub mod duration;
mod error;
mod expand;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod health;
mod init;
mod keys;
pub mod model;
mod node;
mod pin;
mod pool;
mod prefix;
mod preset;
mod raw;
mod service;
mod site;
mod suggest;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

pub(crate) use self::files::{quoted_path, read_named};
use self::{
    across::Tables,
    keys::{Found, Keys, Place, Report},
    model::{Config, Service, Vip},
};
pub use self::{
    built::require_built,
    error::{ConfigErrors, Fault, LoadError},
    expand::expand,
    init::{InitOptions, init},
    prefix::PrefixError,
    preset::Preset,
};

/// Longest configuration file, in bytes.
const FILE_BYTES: u64 = 4 << 20;

/// Which stages a configuration goes through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stages {
    /// Everything that the documentation describes is accepted.
    Valid,
    /// What this version cannot do is refused as well.
    Runnable,
}

/// Reads and validates the file at `path`, and the certificate files that it names.
///
/// # Errors
///
/// [`LoadError::Unreadable`] if the file cannot be read, else [`LoadError::Invalid`] with every
/// fault of the file and of the files that it names.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    load_stages(path, Stages::Valid)
}

/// Reads the file as [`load`] does, and refuses what this version cannot do ([`require_built`]).
///
/// # Errors
///
/// As [`load`]; the faults of both stages are reported at once.
pub fn load_runnable(path: &Path) -> Result<Config, LoadError> {
    load_stages(path, Stages::Runnable)
}

/// Validates the text of a configuration file, without looking at the files that it names.
///
/// # Errors
///
/// Every fault of the text.
pub fn parse(text: &str) -> Result<Config, ConfigErrors> {
    parse_stages(text, Stages::Valid, |_| {})
}

/// Returns where the daemon of the file at `path` answers, whatever other faults the file has.
///
/// # Errors
///
/// [`LoadError`] if the file cannot be read or is not TOML.
pub fn admin_socket(path: &Path) -> Result<std::path::PathBuf, LoadError> {
    let bytes = read(path).map_err(|source| LoadError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    socket_in(&String::from_utf8_lossy(&bytes)).map_err(|fault| LoadError::Invalid {
        path: path.to_owned(),
        errors: ConfigErrors::one(fault),
    })
}

fn socket_in(text: &str) -> Result<std::path::PathBuf, Fault> {
    let root = raw::parse(text)?;
    let report = Report::default();
    let place = Place {
        path: String::new(),
        line: 1,
    };
    let keys = Keys::new(&root, place, &report);
    Ok(node::admin(table_or_empty(&keys, "admin")).socket)
}

fn load_stages(path: &Path, stages: Stages) -> Result<Config, LoadError> {
    let bytes = read(path).map_err(|source| LoadError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let parsed = match std::str::from_utf8(&bytes) {
        Ok(text) => parse_stages(text, stages, files::check),
        Err(error) => Err(not_text(&bytes, error.valid_up_to())),
    };
    parsed.map_err(|errors| LoadError::Invalid {
        path: path.to_owned(),
        errors,
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {FILE_BYTES} bytes"),
        ));
    }
    Ok(bytes)
}

fn not_text(bytes: &[u8], valid_up_to: usize) -> ConfigErrors {
    let line = 1 + bytes[..valid_up_to]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count();
    let message = "has bytes that are not UTF-8; save the file as UTF-8 text".to_owned();
    ConfigErrors::one(Fault {
        place: String::new(),
        line: Some(line),
        column: None,
        message,
    })
}

fn parse_stages(
    text: &str,
    stages: Stages,
    check_files: impl FnOnce(&Report),
) -> Result<Config, ConfigErrors> {
    let report = Report::default();
    let root = site::expand(raw::parse(text).map_err(ConfigErrors::one)?, &report);
    let keys = Keys::new(
        &root,
        Place {
            path: String::new(),
            line: 1,
        },
        &report,
    );
    let log = node::log(table_or_empty(&keys, "log"));
    let admin = node::admin(table_or_empty(&keys, "admin"));
    let state = node::state(table_or_empty(&keys, "state"));
    let tables = tables(&keys, &report);
    // Sites have become pools and services; the key is known all the same.
    keys.has("site");
    keys.finish();
    tables.check(&report);
    if stages == Stages::Runnable {
        refuse_unbuilt(&tables, &report);
    }
    check_files(&report);

    let vips = all_vips(&tables);
    let (faults, warnings) = report.take();
    match (ConfigErrors::new(faults), tables.node) {
        (Some(errors), _) => Err(errors),
        (None, None) => Err(ConfigErrors::one(Fault {
            place: "node".to_owned(),
            line: None,
            column: None,
            message: "is missing; write [node] and its interfaces".to_owned(),
        })),
        (None, Some(node)) => Ok(Config {
            node: node.item,
            vips,
            log,
            admin,
            state,
            pools: tables
                .pools
                .into_iter()
                .map(|pool| Arc::new(pool.item))
                .collect(),
            services: tables
                .services
                .into_iter()
                .map(|service| Arc::new(service.item))
                .collect(),
            warnings,
        }),
    }
}

fn tables<'a>(keys: &Keys<'a>, report: &'a Report) -> Tables<'a> {
    let mut tables = Tables {
        node: None,
        vips: Vec::new(),
        pools: Vec::new(),
        services: Vec::new(),
        faulty_pools: Vec::new(),
    };
    let node_keys = keys
        .table("node")
        .or_else(|| (!keys.has("node")).then(|| keys.empty("node")));
    if let Some(node_keys) = node_keys {
        let (table, place) = (node_keys.source(), node_keys.place().clone());
        tables.node = node::node(node_keys).map(|node| Found::new(node, table, place));
    }
    for (table, place) in keys.blocks("vip") {
        let vip = node::vip(Keys::new(table, place.clone(), report));
        tables
            .vips
            .extend(vip.map(|vip| Found::new(vip, table, place)));
    }
    for (table, place) in keys.blocks("pool") {
        match pool::read(Keys::new(table, place.clone(), report), report) {
            Some(pool) => tables.pools.push(Found::new(pool, table, place)),
            None => {
                let name = table.get("name").and_then(|name| convert::name(name).ok());
                tables.faulty_pools.push(name);
            }
        }
    }
    for (table, place) in keys.blocks("service") {
        let service = service::read(Keys::new(table, place.clone(), report), report);
        tables
            .services
            .extend(service.map(|service| Found::new(service, table, place)));
    }
    tables
}

fn table_or_empty<'a>(keys: &Keys<'a>, key: &'static str) -> Keys<'a> {
    keys.table(key).unwrap_or_else(|| keys.empty(key))
}

/// Returns the VIPs of the file, then those that only services name.
fn all_vips(tables: &Tables<'_>) -> Vec<Vip> {
    let mut vips: Vec<Vip> = tables.vips.iter().map(|vip| vip.item.clone()).collect();
    for service in tables.services.iter().map(|service| &service.item) {
        if across::listens(service) && vips.iter().all(|vip| vip.address != service.vip) {
            vips.push(Vip {
                address: service.vip,
                interface: None,
                manage: true,
                announce: true,
            });
        }
    }
    vips
}

fn refuse_unbuilt(tables: &Tables<'_>, report: &Report) {
    for found in &tables.services {
        let place = named(&found.place, &found.item.name);
        built::service_faults(&place, Some(found.place.line), &found.item)
            .into_iter()
            .for_each(|fault| report.add(fault));
    }
    for found in &tables.pools {
        let services = tables
            .services
            .iter()
            .map(|service| -> &Service { &service.item });
        let place = named(&found.place, &found.item.name);
        built::pool_faults(&place, Some(found.place.line), &found.item, services)
            .into_iter()
            .for_each(|fault| report.add(fault));
    }
}

/// Returns the place of a block with its name, unless a preset's place has it already.
fn named(place: &Place, name: &str) -> String {
    if place.path.starts_with("site[") {
        place.path.clone()
    } else {
        format!("{} \"{name}\"", place.path)
    }
}
