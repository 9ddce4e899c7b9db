//! House rules that no compiler knows: which part may name what.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// A word that only some files may have.
struct Rule {
    /// Where the rule holds: the start of a path from the top of the checkout.
    within: &'static str,
    /// Files that may: starts of paths.
    except: &'static [&'static str],
    /// What the others may not have in their code.
    words: &'static [&'static str],
    /// The rule, as a sentence.
    because: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        within: "lb-userspace/src/",
        except: &["lb-userspace/src/dataplane"],
        words: &["aya::", "aya_log::", "use aya", "aya_obj::"],
        because: "only the dataplane names aya",
    },
    Rule {
        within: "lb-userspace/src/",
        except: &["lb-userspace/src/config/raw"],
        words: &["toml::"],
        because: "only the raw configuration knows the file format",
    },
    Rule {
        within: "lb-ebpf/src/",
        except: &["lb-ebpf/src/packet.rs"],
        words: &["as *const", "as *mut", ".add(", ".offset(", ".byte_add("],
        because: "only packet.rs does pointer arithmetic on packets",
    },
    Rule {
        within: "tests/",
        except: &[],
        words: &["lb_userspace", "lb_common"],
        because: "the black-box tests know the binary, the wire and the API only",
    },
];

/// Words of unfinished work, which no file may have. Written in halves, so that this one has none.
const UNFINISHED: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
];

/// Kinds of files that are read.
const KINDS: [&str; 4] = ["rs", "toml", "md", "sh"];

/// Folders that are no part of the sources.
const SKIPPED: [&str; 3] = [".git", ".toolchain", "target"];

/// Everything that breaks a rule, one line each: `path:line: why: text`.
///
/// # Errors
///
/// A file cannot be read.
pub(crate) fn findings(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    visit(root, Path::new(""), &mut findings)?;
    findings.sort();
    Ok(findings)
}

fn visit(root: &Path, folder: &Path, findings: &mut Vec<String>) -> Result<()> {
    let absolute = root.join(folder);
    let entries =
        fs::read_dir(&absolute).with_context(|| format!("cannot read {}", absolute.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let path = folder.join(&name);
        if entry.file_type()?.is_dir() {
            if !SKIPPED.iter().any(|skipped| name == *skipped) {
                visit(root, &path, findings)?;
            }
        } else if path
            .extension()
            .is_some_and(|extension| KINDS.iter().any(|kind| extension == *kind))
        {
            let text = fs::read_to_string(root.join(&path))
                .with_context(|| format!("cannot read {}", path.display()))?;
            findings.extend(in_file(&path.to_string_lossy(), &text));
        }
    }
    Ok(())
}

/// What is wrong in one file; `path` is from the top of the checkout.
fn in_file(path: &str, text: &str) -> Vec<String> {
    let rules: Vec<_> = RULES
        .iter()
        .filter(|rule| path.starts_with(rule.within) && path.ends_with(".rs"))
        .filter(|rule| !rule.except.iter().any(|allowed| path.starts_with(allowed)))
        .collect();
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let code = code_of(line);
        let broken = rules
            .iter()
            .filter(|rule| rule.words.iter().any(|word| has_word(code, word)))
            .map(|rule| rule.because);
        let unfinished = UNFINISHED
            .iter()
            .filter(|word| has_word(line, word))
            .map(|_| "unfinished work");
        for why in broken.chain(unfinished) {
            findings.push(format!("{path}:{number}: {why}: {}", line.trim()));
        }
    }
    findings
}

/// A line without its comment. A `//` inside a string ends the code too early, which only makes
/// the rules milder.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether `word` is in `line` and begins there, not in the middle of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(start, _)| {
        !line[..start].ends_with(|before: char| before.is_alphanumeric() || before == '_')
            || word.starts_with('.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    #[test]
    fn the_house_rules_hold_everywhere() {
        let workspace = Workspace::find().expect("the checkout");
        let findings = findings(workspace.root()).expect("the sources are readable");
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }

    #[test]
    fn aya_is_named_by_the_dataplane_only() {
        let line = "use aya::maps::HashMap;\n";
        assert_eq!(in_file("lb-userspace/src/control.rs", line).len(), 1);
        assert!(in_file("lb-userspace/src/dataplane/loader.rs", line).is_empty());
        assert!(in_file("lb-userspace/src/control.rs", "// aya::Pod is not for us\n").is_empty());
        assert!(in_file("lb-userspace/src/control.rs", "let x = papaya::pick();\n").is_empty());
    }

    #[test]
    fn the_file_format_is_known_by_the_raw_configuration_only() {
        let line = "let raw = toml::from_str(text)?;\n";
        assert_eq!(in_file("lb-userspace/src/config/model.rs", line).len(), 1);
        assert!(in_file("lb-userspace/src/config/raw.rs", line).is_empty());
    }

    #[test]
    fn pointers_are_moved_in_one_file_only() {
        let line = "let next = start.add(4);\n";
        assert_eq!(in_file("lb-ebpf/src/parse.rs", line).len(), 1);
        assert!(in_file("lb-ebpf/src/packet.rs", line).is_empty());
        assert!(in_file("lb-ebpf/src/parse.rs", "let n = n.wrapping_add(4);\n").is_empty());
    }

    #[test]
    fn unfinished_work_is_found_in_comments_too() {
        let line = format!("// {}: later\n", UNFINISHED[0]);
        assert_eq!(in_file("README.md", &line).len(), 1);
        assert_eq!(in_file("lb-common/src/lib.rs", &line).len(), 1);
    }
}
