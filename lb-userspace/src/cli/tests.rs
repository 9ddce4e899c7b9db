use clap::{CommandFactory, error::ErrorKind};

use super::*;

fn parse(line: &str) -> Result<Arguments, ErrorKind> {
    let words = std::iter::once("vipd").chain(line.split_whitespace());
    Arguments::try_parse_from(words).map_err(|error| error.kind())
}

fn parsed(line: &str) -> Arguments {
    parse(line).unwrap_or_else(|kind| panic!("vipd {line}: {kind:?}"))
}

#[test]
fn the_definition_is_sound() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_line_of_the_documentation_is_understood() {
    for line in [
        "run --config /x",
        "--config /x run",
        "check --config /x",
        "check --live --socket /x --json",
        "config expand --config /x",
        "init parallels-ras --vip 10.0.0.1 --backend 10.0.0.2 --backend 10.0.0.3",
        "init parallels-ras --vip 10.0.0.1 --backend 10.0.0.2 10.0.0.3",
        "init appsanywhere --vip 10.0.0.1 --backend 10.0.0.2 --fqdn a.b --certificate c --key k",
        "status",
        "status --json --watch --socket /x",
        "drain gw1",
        "drain ras/gw1 --wait --timeout 8h --reason x",
        "halt gw1 --reason x",
        "enable gw1",
        "block 10.1.2.3 --reason x",
        "block 10.1.0.0/16 2001:db8::/32 --service s",
        "block --file /x --json",
        "allow 10.1.2.3 --service s --reason x",
        "forget 10.1.2.3 --service s",
        "clients --json",
        "reload",
        "explain 10.1.2.3",
        "explain fd00::1 --json",
        "flows",
        "flows --client 10.1.2.3 --service s --backend ras/gw1 --limit 10",
        "detach",
    ] {
        parsed(line);
    }
}

#[test]
fn wrong_usage_is_refused() {
    for (line, kind) in [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("stop", ErrorKind::InvalidSubcommand),
        ("drain", ErrorKind::MissingRequiredArgument),
        (
            "drain gw1 --wait --timeout soon",
            ErrorKind::ValueValidation,
        ),
        ("drain gw1 --timeout 1h", ErrorKind::MissingRequiredArgument),
        ("explain gw1", ErrorKind::ValueValidation),
        ("block", ErrorKind::MissingRequiredArgument),
        ("block 10.1.2.3/8", ErrorKind::ValueValidation),
        ("init nothing --vip 10.0.0.1", ErrorKind::InvalidValue),
        ("status --colour", ErrorKind::UnknownArgument),
    ] {
        assert_eq!(parse(line).err(), Some(kind), "vipd {line}");
    }
}

#[test]
fn a_drain_waits_eight_hours_unless_it_is_told_otherwise() {
    let timeout = |line| match parsed(line).command {
        Command::Drain(arguments) => arguments.timeout,
        other => panic!("{other:?}"),
    };

    assert_eq!(timeout("drain gw1 --wait"), Duration::from_secs(8 * 3600));
    assert_eq!(
        timeout("drain gw1 --wait --timeout 90s"),
        Duration::from_secs(90)
    );
}

#[test]
fn the_socket_is_found_in_a_configuration_with_faults_elsewhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("vipd.toml");
    std::fs::write(
        &file,
        "[node]\nnonsense = 1\n[admin]\nsocket = \"/x/y.sock\"\n",
    )
    .expect("written");
    let place = Place {
        config: Some(file),
        socket: None,
    };

    let client = place.client().map_err(|failure| failure.to_string());

    assert_eq!(client.expect("found").socket(), Path::new("/x/y.sock"));
}

#[test]
fn a_named_configuration_must_be_there_and_a_named_socket_wins() {
    let missing = Some(PathBuf::from("/no/such/file"));
    let place = Place {
        config: missing.clone(),
        socket: None,
    };
    assert!(matches!(place.client(), Err(Failure::Usage(_))));

    let place = Place {
        config: missing,
        socket: Some("/x.sock".into()),
    };
    assert!(place.client().is_ok());
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    assert!(matches!(Failure::from(closed), Failure::ClosedPipe));
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    assert!(matches!(Failure::from(full), Failure::Failed(_)));
}
