//! `[[site]]`: a product in one block, which becomes a pool and services before anything is read.

use std::collections::HashMap;

use super::{
    convert, health,
    keys::{Keys, Place, Report},
    pool,
    preset::{Preset, Site, SiteCertificate},
    raw::{Entry, Kind, Table, Value},
};

/// Longest name of a site, in bytes: the services' names add their own part to it.
const NAME_BYTES: usize = 50;

/// Returns the file with the pools and services that its sites stand for, and without the sites.
///
/// A site at fault becomes nothing; its faults are noted at its own keys.
pub(super) fn expand(mut root: Table, report: &Report) -> Table {
    let sites = read_all(&root, report);
    root.entries.retain(|entry| entry.key != "site");
    for site in sites {
        append(&mut root, "pool", site.pool());
        for service in site.services() {
            append(&mut root, "service", service);
        }
    }
    root
}

fn append(root: &mut Table, key: &str, table: Table) {
    let value = Value {
        line: table.line,
        kind: Kind::Table(table),
    };
    match root.entries.iter_mut().find(|entry| entry.key == key) {
        Some(Entry {
            value: Value {
                kind: Kind::List(items),
                ..
            },
            ..
        }) => items.push(value),
        // A single table is a fault that its reader reports.
        Some(_) => {}
        None => {
            let value = Value {
                line: value.line,
                kind: Kind::List(vec![value]),
            };
            root.entries.push(Entry {
                key: key.to_owned(),
                value,
                comment: None,
            });
        }
    }
}

fn read_all(root: &Table, report: &Report) -> Vec<Site> {
    let keys = Keys::new(
        root,
        Place {
            path: String::new(),
            line: 1,
        },
        report,
    );
    let mut names = Names::default();
    let blocks = keys.blocks("site");
    blocks
        .into_iter()
        .filter_map(|(table, place)| read(Keys::new(table, place, report), &mut names, report))
        .collect()
}

fn read(keys: Keys<'_>, names: &mut Names, report: &Report) -> Option<Site> {
    let words = Preset::ALL.map(|preset| (preset.name(), preset));
    let remedy = format!(
        "choose {}",
        convert::or_list(words.iter().map(|(word, _)| *word))
    );
    let before = report.fault_count();
    let preset = keys.need("preset", &remedy, convert::one_of(&words));
    let name = keys.get("name", site_name);
    let vip = keys.get("vip", convert::outside_address);
    pool::backends(&keys, report);
    let backends = keys.items("backends").unwrap_or_default();
    refuse_ports(&backends, report);
    let fqdn = keys.get("fqdn", convert::host);
    let certificate = keys.get("certificate", convert::path);
    let key = keys.get("key", convert::path);
    let password_file = keys.get("password_file", convert::path);
    let udp = keys.get("udp", convert::boolean);
    let bridge = keys
        .get(
            "mode",
            convert::one_of(&[("passthrough", false), ("bridge", true)]),
        )
        .unwrap_or(false);
    health::check_trust(&keys);
    if let Some(preset) = preset {
        check_keys(&keys, preset, bridge);
    }
    let place = keys.place().clone();
    if bridge && udp != Some(false) {
        keys.warn(
            "mode",
            "\"bridge\" ends TLS on TCP only; UDP 443 stays a service of its own \
         that passes DTLS through to the gateways",
        );
    }
    let trust = preset
        .map(|preset| trust(&keys, preset))
        .unwrap_or_default();
    let name = preset.and_then(|preset| names.claim(&keys, preset, name, &place));
    keys.finish();
    if report.fault_count() > before {
        return None;
    }
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    Some(Site {
        preset: preset?,
        name: name?,
        place: place.path,
        line: place.line,
        vip: vip.map(|vip| vip.to_string()).unwrap_or_default(),
        backends: backends
            .into_iter()
            .map(|(value, _)| value.clone())
            .collect(),
        fqdn,
        certificate: certificate.map(|certificate| SiteCertificate {
            certificate: text(certificate),
            key: key.map(text),
            password_file: password_file.map(text),
        }),
        trust,
        udp: udp.unwrap_or(true),
    })
}

/// Products have several ports, which one of a backend would replace all at once.
fn refuse_ports(backends: &[(&Value, Place)], report: &Report) {
    for (value, place) in backends {
        let Kind::Table(table) = &value.kind else {
            continue;
        };
        if let Some(port) = table.get("port") {
            let place = Place {
                path: format!("{}.port", place.path),
                line: port.line,
            };
            report.fault(
                &place,
                "is fixed by the preset; remove it, or write out the preset \
             with `vipd config expand`",
            );
        }
    }
}

/// Notes keys that the product needs and lacks, and keys that mean nothing to it.
fn check_keys(keys: &Keys<'_>, preset: Preset, bridge: bool) {
    let ras = preset == Preset::ParallelsRas;
    let ends_tls = preset.is_web() || (ras && bridge);
    let name = preset.name();
    let check = |key: &'static str, wanted: Wanted, remedy: &str| match wanted {
        Wanted::Yes if !keys.has(key) => keys.fault(key, format!("is missing; {remedy}")),
        Wanted::No if keys.has(key) => keys.fault(key, format!("has no meaning here; {remedy}")),
        Wanted::Yes | Wanted::Maybe | Wanted::No => {}
    };
    let either = |yes| if yes { Wanted::Yes } else { Wanted::No };
    if preset.is_forwarded() {
        check(
            "vip",
            Wanted::Yes,
            "write the address that clients connect to",
        );
    } else {
        check(
            "vip",
            Wanted::No,
            &format!(
                "{name} is only watched, since its clients choose a server themselves: remove it"
            ),
        );
    }
    check(
        "fqdn",
        if preset.is_web() {
            Wanted::Yes
        } else {
            Wanted::Maybe
        },
        "write the name that users open, such as \"portal.uni.edu\"",
    );
    let remedy = match (ends_tls, ras) {
        (true, _) => "name the file with the certificate chain (PEM), or a PFX",
        (false, true) => {
            "TLS passes through to the gateways: remove it, or write mode = \"bridge\""
        }
        (false, false) => "remove it",
    };
    check("certificate", either(ends_tls), remedy);
    for key in ["key", "password_file"] {
        check(
            key,
            if ends_tls { Wanted::Maybe } else { Wanted::No },
            remedy,
        );
    }
    for key in ["udp", "mode"] {
        check(
            key,
            if ras { Wanted::Maybe } else { Wanted::No },
            "only parallels-ras has it: remove it",
        );
    }
    for key in ["verify", "ca", "pins"] {
        check(
            key,
            if preset.is_forwarded() {
                Wanted::Maybe
            } else {
                Wanted::No
            },
            "the paging service speaks plain HTTP: remove it",
        );
    }
}

enum Wanted {
    Yes,
    Maybe,
    No,
}

/// Returns `verify`, `ca` and `pins` for the derived tables, as they stand in the site.
fn trust(keys: &Keys<'_>, preset: Preset) -> Vec<(&'static str, Kind)> {
    if !preset.is_forwarded() {
        return Vec::new();
    }
    // RAS gateways come with certificates that they signed themselves.
    let default = if preset == Preset::ParallelsRas {
        "none"
    } else {
        "system"
    };
    let mut trust = vec![(
        "verify",
        keys.raw("verify")
            .map_or(default.into(), |value| value.kind.clone()),
    )];
    for key in ["ca", "pins"] {
        trust.extend(keys.raw(key).map(|value| (key, value.kind.clone())));
    }
    trust
}

fn site_name(value: &Value) -> Result<String, String> {
    let name = convert::name(value)?;
    match name.len() {
        length if length > NAME_BYTES => Err(format!(
            "\"{name}\" has {length} bytes; the name of a site has at most {NAME_BYTES}"
        )),
        _ => Ok(name),
    }
}

/// Names of sites so far, and where they were given.
#[derive(Default)]
struct Names {
    taken: HashMap<String, String>,
}

impl Names {
    /// Returns the given name, or the preset's with a number if it is taken.
    fn claim(
        &mut self,
        keys: &Keys<'_>,
        preset: Preset,
        given: Option<String>,
        place: &Place,
    ) -> Option<String> {
        if let Some(name) = given {
            if let Some(first) = self.taken.get(&name) {
                keys.fault(
                    "name",
                    format!("\"{name}\" is also the name of {first}; choose another"),
                );
                return None;
            }
            self.taken.insert(name.clone(), place.path.clone());
            return Some(name);
        }
        let numbered = (2..).map(|number| format!("{}-{number}", preset.name()));
        let mut names = std::iter::once(preset.name().to_owned()).chain(numbered);
        let name = names.find(|name| !self.taken.contains_key(name))?;
        self.taken.insert(name.clone(), place.path.clone());
        Some(name)
    }
}
