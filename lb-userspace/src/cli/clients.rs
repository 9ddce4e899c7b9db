//! `vipd block`, `vipd allow`, `vipd forget` and `vipd clients`.

use std::{fs, path::Path};

use super::{ClientsArguments, Failure, ask::runtime, output::Output, show};
use crate::{
    admin::{
        api::{self, ClientsAction},
        client::Client,
    },
    config::model::Prefix,
};

/// `vipd block`, `vipd allow` and `vipd forget`.
pub(super) fn change(
    out: &mut Output,
    client: &Client,
    action: ClientsAction,
    arguments: ClientsArguments,
) -> Result<(), Failure> {
    let mut prefixes = arguments.prefixes;
    if let Some(path) = &arguments.file {
        prefixes.extend(from_file(path)?);
    }
    if prefixes.is_empty() {
        return Err(Failure::Usage("there is no prefix in the file".to_owned()));
    }
    let wanted = api::ChangeClients {
        action,
        prefixes,
        service: arguments.service,
        reason: arguments.reason,
    };
    let changed = runtime()?.block_on(client.change_clients(&wanted))?;
    if arguments.json {
        out.json(&changed)?;
    } else {
        out.text(&show::clients_changed(&changed))?;
    }
    Ok(())
}

/// `vipd clients`.
pub(super) fn list(out: &mut Output, client: &Client, json: bool) -> Result<(), Failure> {
    let clients = runtime()?.block_on(client.clients())?;
    if json {
        out.json(&clients)?;
    } else {
        out.text(&show::clients(&clients))?;
    }
    Ok(())
}

fn from_file(path: &Path) -> Result<Vec<Prefix>, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))?;
    prefixes(&text)
        .map_err(|faults| Failure::Usage(format!("{}:\n  {}", path.display(), faults.join("\n  "))))
}

/// Reads one prefix a line; every fault at once.
fn prefixes(text: &str) -> Result<Vec<Prefix>, Vec<String>> {
    let mut prefixes = Vec::new();
    let mut faults = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.parse() {
            _ if line.is_empty() => {}
            Ok(prefix) => prefixes.push(prefix),
            Err(error) => faults.push(format!("line {number}: {error}")),
        }
    }
    if faults.is_empty() {
        Ok(prefixes)
    } else {
        Err(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_prefix_a_line_and_remarks() {
        let read = prefixes("# scanners\n10.1.2.3 # since May\n\n 2001:db8::/32\r\n");

        let shown: Vec<String> = read
            .expect("no fault")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(shown, ["10.1.2.3/32", "2001:db8::/32"]);
    }

    #[test]
    fn every_faulty_line_is_named() {
        let faults = prefixes("10.0.0.0/8\n10.1.2.3/8\ncampus\n").expect_err("two faults");

        assert_eq!(
            faults,
            [
                "line 2: \"10.1.2.3/8\" has bits set after the first 8; write \"10.0.0.0/8\"",
                "line 3: \"campus\" is not a prefix; write one such as \"10.0.0.0/8\" or \"2001:db8::/32\"",
            ]
        );
    }
}
