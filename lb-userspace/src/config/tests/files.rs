//! Files on disk: the configuration itself, and what it names.

use std::fs;

use super::{
    super::{LoadError, load, load_runnable},
    PLAIN, SMALL,
};

#[test]
fn a_missing_file_says_how_to_make_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("vipd.toml");

    let error = load(&path).expect_err("nothing there");

    let LoadError::Unreadable { .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        error.to_string(),
        format!(
            "cannot read {}; name the file with --config, or write one with `vipd init`",
            path.display()
        )
    );
}

#[test]
fn certificate_files_are_looked_into_when_the_file_is_loaded() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("vipd.toml");
    let wrong = directory.path().join("key.pem");
    fs::write(&wrong, "-----BEGIN PRIVATE KEY-----\n").expect("written");
    let ca = |path: &str| {
        SMALL.replace(
            "backends",
            &format!("health = {{ type = \"https\", verify = \"ca\", ca = \"{path}\" }}\nbackends"),
        )
    };

    fs::write(&path, ca("/nonexistent/ca.pem")).expect("written");
    let missing = load(&path).expect_err("no such file").to_string();
    assert_eq!(
        missing,
        format!(
            "{} has 1 fault\n  pool[0].health.ca (line 7): cannot read \"/nonexistent/ca.pem\" (No such file or directory (os error 2)); check the path and its permissions",
            path.display()
        )
    );

    fs::write(&path, ca(wrong.to_str().expect("UTF-8"))).expect("written");
    let not_one = load(&path)
        .expect_err("a key is no certificate")
        .to_string();
    assert!(not_one.contains("holds no certificate"), "{not_one}");

    fs::write(&wrong, "-----BEGIN CERTIFICATE-----\n").expect("written");
    load(&path).expect("a certificate");
}

#[test]
fn the_certificates_of_services_are_read_when_the_file_is_loaded() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("vipd.toml");
    let make = |names: &[&str], not_after| {
        let names: Vec<_> = names.iter().map(|name| String::from(*name)).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.not_after = rcgen::date_time_ymd(not_after, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        fs::write(directory.path().join("c.pem"), certificate).expect("written");
        fs::write(directory.path().join("c.key"), key.serialize_pem()).expect("written");
    };
    let configure = |table: &str| {
        let table = table.replace("DIR", directory.path().to_str().expect("UTF-8"));
        let service = format!(
            "port = 443\nprotocol = \"tcp\"\nforwarding = \"http\"\n\
             tls = {{ certificates = [{table}] }}"
        );
        let old = "port = 53\nprotocol = \"udp\"\nforwarding = \"snat\"";
        fs::write(&path, SMALL.replace(old, &service)).expect("written");
        load(&path)
    };
    let pair = "{ certificate = \"DIR/c.pem\", key = \"DIR/c.key\" }";

    make(&["a.example"], 2500);
    let config = configure(pair).expect("no fault");
    assert_eq!(config.warnings, []);

    for (table, place, words) in [
        ("{ certificate = \"DIR/c.pem\" }", "key", "is missing"),
        (
            "{ certificate = \"DIR/c.key\", key = \"DIR/c.key\" }",
            "certificate",
            "no certificate",
        ),
        (
            "{ certificate = \"DIR/c.pem\", key = \"DIR/none\" }",
            "key",
            "cannot read",
        ),
        (
            "{ certificate = \"DIR/c.pem\", password_file = \"DIR/c.key\" }",
            "password_file",
            "is PEM",
        ),
    ] {
        let error = configure(table).expect_err(table);
        let [fault] = error.faults() else {
            panic!("{error}")
        };
        assert_eq!(
            fault.place,
            format!("service[0].tls.certificates[0].{place}")
        );
        assert_eq!(fault.line, Some(15));
        assert!(fault.message.contains(words), "{fault}");
    }

    make(&["a.example"], 2001);
    let config = configure(pair).expect("expired, but used");
    let [warning] = &config.warnings[..] else {
        panic!("{:?}", config.warnings)
    };
    assert_eq!(warning.place, "service[0].tls.certificates[0].certificate");
    assert!(
        warning.message.contains("expired at 2001-01-01"),
        "{}",
        warning.message
    );
}

#[test]
fn what_is_not_built_is_reported_with_all_other_faults_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("vipd.toml");
    let text = PLAIN
        .replace("port = 80\n", "port = 0\n")
        .replace("[[pool]]\n", "[[pool]]\nalgorithm = \"round-robin\"\n");
    fs::write(&path, text).expect("written");

    let error = load_runnable(&path).expect_err("faults of both stages");

    let shown: Vec<String> = error.faults().iter().map(ToString::to_string).collect();
    assert!(
        shown
            .iter()
            .any(|fault| fault.contains("algorithm = \"round-robin\" is not built yet")),
        "{error}"
    );
    assert!(
        shown
            .iter()
            .any(|fault| fault.starts_with("service[1].port (line 25): 0 is out of range")),
        "{error}"
    );
    assert!(
        shown
            .iter()
            .any(|fault| fault.contains("tls.certificates[0].certificate")),
        "{error}"
    );
}

#[test]
fn bytes_that_are_no_text_are_one_fault_with_its_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("vipd.toml");
    fs::write(&path, b"[node]\ninterfaces = [\"\xff\"]\n").expect("written");

    let error = load(&path).expect_err("not UTF-8");

    assert_eq!(error.faults().len(), 1);
    assert_eq!(error.faults()[0].line, Some(2));
}

#[test]
fn a_file_without_end_is_refused() {
    let error = load(std::path::Path::new("/dev/zero")).expect_err("too long");
    let LoadError::Unreadable { source, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::FileTooLarge);
}

#[test]
fn programs_read_faults_as_json() {
    let errors = super::super::parse(&SMALL.replace("53", "0")).expect_err("port 0");

    let json = serde_json::to_value(&errors).expect("JSON");

    let message = "0 is out of range; choose 1 to 65535";
    assert_eq!(
        json,
        serde_json::json!([{ "place": "service[0].port", "line": 12, "message": message }])
    );
}
