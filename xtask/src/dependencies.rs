//! What the project is made of besides its own code: under which licences, from where, and in which
//! versions. Everything that is asked stands in `Cargo.lock` and in the crates themselves, so nothing
//! is asked of the network.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process;
use crate::workspace::Workspace;

/// Licences that let everybody use, change and pass on, by their names in SPDX.
const LICENCES: [&str; 8] = [
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "NCSA",
    "Unicode-3.0",
    "Zlib",
];

/// Where crates come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The first versions that are good enough, and what the ones before them let happen.
const AT_LEAST: [(&str, &str, &str); 4] = [
    (
        "h2",
        "0.4.20",
        "resets hold a server up, or its guard cuts honest clients off",
    ),
    (
        "hyper",
        "1.12.0",
        "a length beside a coding reaches the next server",
    ),
    (
        "rustls",
        "0.23.18",
        "a client's handshake can make a server panic",
    ),
    (
        "p12-keystore",
        "0.4.0",
        "a file can ask for rounds of hashing without end",
    ),
];

/// What must be there once only: two versions would be two engines, with one of them not looked at.
const ONCE: [&str; 9] = [
    "aws-lc-rs",
    "aya",
    "h2",
    "http",
    "hyper",
    "rustls",
    "rustls-pki-types",
    "rustls-webpki",
    "tokio",
];

/// What must not be there at all.
const NEVER: [(&str, &str); 3] = [
    ("native-tls", "TLS is rustls alone"),
    ("openssl-sys", "TLS is rustls alone"),
    ("ring", "aws-lc-rs is what computes"),
];

/// What `cargo metadata` says.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// None: it is the project's own.
    source: Option<String>,
}

/// Everything that breaks a rule, one line each, and how many packages were looked at.
///
/// # Errors
///
/// Cargo does not say what the packages are.
pub(crate) fn findings(workspace: &Workspace) -> Result<(Vec<String>, usize)> {
    let mut metadata = workspace.cargo("metadata");
    let said = process::output(metadata.args(["--format-version", "1"]))?;
    let all: Metadata =
        serde_json::from_str(&said).context("cargo metadata says what cannot be read")?;
    let mut tree = workspace.cargo("tree");
    let tree = process::output(
        tree.args([
            "--workspace",
            "--target",
            "all",
            "--edges",
            "normal,build,dev",
        ])
        .args(["--prefix", "none"]),
    )?;
    let used = used(&all.packages, &tree);
    Ok((judge(&used), used.len()))
}

/// The packages that anything is built from, each a line of `cargo tree`. The lock file has others, of
/// features that nobody wants.
fn used<'a>(packages: &'a [Package], tree: &str) -> Vec<&'a Package> {
    let lines = tree.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?.strip_prefix('v')?))
    });
    let used: BTreeSet<(&str, &str)> = lines.collect();
    packages
        .iter()
        .filter(|package| used.contains(&(&package.name, &package.version)))
        .collect()
}

fn judge(packages: &[&Package]) -> Vec<String> {
    let mut findings = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        let Package { name, version, .. } = package;
        let mut find = |why: String| findings.push(format!("{name} {version}: {why}"));
        versions.entry(name).or_default().insert(version);
        match &package.source {
            Some(source) if source != REGISTRY => find(format!("it comes from {source}")),
            _ => {}
        }
        match &package.license {
            None => find("it names no licence".to_owned()),
            Some(licence) if !is_allowed(licence) => {
                find(format!("its licence is not on the list: {licence}"));
            }
            Some(_) => {}
        }
        for (_, least, why) in AT_LEAST.iter().filter(|(of, ..)| of == name) {
            if numbers(version) < numbers(least) {
                find(format!("{why}: {least} or later is needed"));
            }
        }
        for (_, why) in NEVER.iter().filter(|(of, _)| of == name) {
            find(format!("it must not be used: {why}"));
        }
    }
    for name in ONCE {
        if let Some(versions) = versions.get(name).filter(|versions| versions.len() > 1) {
            findings.push(format!("{name}: there are several versions: {versions:?}"));
        }
    }
    findings
}

/// The three numbers of a version.
fn numbers(version: &str) -> Vec<u64> {
    let release = version.split(['-', '+']).next().unwrap_or_default();
    release
        .split('.')
        .map(|number| number.parse().unwrap_or(0))
        .collect()
}

/// Whether an expression of SPDX can be met with the licences of the list. What cannot be read
/// cannot be met.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        // The older form of OR.
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words) == Some(true) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>) -> Option<bool> {
    let mut allowed = all_of(words)?;
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all_of(words)?;
    }
    Some(allowed)
}

fn all_of(words: &mut Words<'_>) -> Option<bool> {
    let mut allowed = one_of(words)?;
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one_of(words)?;
    }
    Some(allowed)
}

fn one_of(words: &mut Words<'_>) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let allowed = any_of(words)?;
        return (words.next()? == ")").then_some(allowed);
    }
    // An exception only adds to what is allowed.
    if words.next_if_eq(&"WITH").is_some() {
        words.next()?;
    }
    Some(LICENCES.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            license: Some("MIT OR Apache-2.0".to_owned()),
            source: Some(REGISTRY.to_owned()),
        }
    }

    #[test]
    fn the_dependencies_are_as_they_shall_be() {
        let workspace = Workspace::find().expect("the checkout");
        let (findings, count) = findings(&workspace).expect("cargo knows the packages");

        assert!(findings.is_empty(), "{}", findings.join("\n"));
        assert!(count > 100, "{count}");
    }

    #[test]
    fn a_rule_that_is_broken_is_told() {
        let mut copyleft = package("a", "1.0.0");
        copyleft.license = Some("GPL-3.0-only AND MIT".to_owned());
        let mut nameless = package("b", "1.0.0");
        nameless.license = None;
        let mut elsewhere = package("c", "1.0.0");
        elsewhere.source = Some("git+https://example.com/c".to_owned());
        let old = package("h2", "0.4.9");
        let never = package("ring", "0.17.14");
        let twice = [package("hyper", "1.12.0"), package("hyper", "2.0.0")];
        for (broken, told) in [
            (vec![&copyleft], "a 1.0.0: its licence"),
            (vec![&nameless], "b 1.0.0: it names no licence"),
            (vec![&elsewhere], "c 1.0.0: it comes from git+"),
            (vec![&old], "0.4.20 or later is needed"),
            (vec![&never], "ring 0.17.14: it must not be used"),
            (twice.iter().collect(), "hyper: there are several versions"),
        ] {
            let findings = judge(&broken);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert!(findings[0].contains(told), "{findings:?}");
        }
        let good = [
            package("h2", "0.4.20"),
            package("syn", "2.0.0"),
            package("syn", "3.0.0"),
        ];
        assert_eq!(
            judge(&good.iter().collect::<Vec<_>>()),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_nobody_uses_is_not_judged() {
        let packages = [
            package("own", "0.1.0"),
            package("syn", "2.0.0"),
            package("syn", "3.0.0"),
            package("ring", "0.17.14"),
        ];
        let tree = "own v0.1.0 (/work)\nsyn v2.0.0 (proc-macro)\n\nown v0.1.0 (/work) (*)\n";

        let versions: Vec<&str> = used(&packages, tree)
            .iter()
            .map(|of| of.version.as_str())
            .collect();

        assert_eq!(versions, ["0.1.0", "2.0.0"]);
    }

    #[test]
    fn licences_are_read_as_spdx_means_them() {
        for (expression, allowed) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0-only OR MIT", true),
            ("MIT OR GPL-3.0-only AND MIT", true),
            ("(MIT OR Apache-2.0) AND GPL-3.0-only", false),
            ("(MIT OR GPL-2.0) AND (ISC OR LGPL-2.1)", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
            ("MIT AND", false),
            ("(MIT", false),
            ("MIT MIT", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(expression), allowed, "{expression}");
        }
    }
}
