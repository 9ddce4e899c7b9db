//! PFX files, as Windows and OpenSSL write them.

use super::{
    CertificatePart::{Certificate, Key, PasswordFile},
    *,
};

/// How OpenSSL is told to encrypt, and what that is.
const KINDS: [(&str, &str); 3] = [
    // The older choice of Windows Server.
    (
        "-keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1",
        "TripleDES-SHA1",
    ),
    ("-legacy", "3DES for the key, RC2-40 for the certificates"),
    // Also the newer choice of Windows Server.
    (
        "-keypbe AES-256-CBC -certpbe AES-256-CBC -macalg sha256",
        "AES256-SHA256",
    ),
];

/// Makes a.pfx with a chain of three; returns what names it.
fn export(folder: &Folder, options: &str, password: &str) -> CertificateFiles {
    let (chain, key) = chain(&["a.example"]);
    folder.write("a.pem", chain.concat());
    folder.write("a.key", key);
    folder.openssl(&format!(
        "pkcs12 -export -in a.pem -inkey a.key -out a.pfx -passout pass:{password} {options}"
    ));
    CertificateFiles {
        certificate: folder.path("a.pfx"),
        key: None,
        password_file: Some(folder.write("password", format!("{password}\r\nnot this\n"))),
    }
}

#[test]
fn a_pfx_holds_the_chain_and_the_key() {
    for (options, kind) in KINDS {
        let folder = Folder::new();
        let files = export(&folder, options, "Straße-7");
        let server = ServerTls::open(&tls(&[files])).map_err(|error| panic!("{kind}: {error}"));

        let server = server.unwrap();
        assert_eq!(server.certificates()[0].names, ["a.example"], "{kind}");
        let chosen = server.resolver.certificate(None, &[]).unwrap();
        assert_eq!(chosen.cert.len(), 2, "{kind}: without the root");
    }
}

#[test]
fn a_pfx_may_have_no_password() {
    let folder = Folder::new();
    let files = export(&folder, KINDS[2].0, "");
    open(&[CertificateFiles {
        password_file: None,
        ..files.clone()
    }]);
    open(&[files]);
}

#[test]
fn a_wrong_password_is_told_apart_from_a_broken_file() {
    let folder = Folder::new();
    for (options, kind) in KINDS {
        let mut files = export(&folder, options, "right");
        folder.write("password", "wrong\n");
        let (part, message) = fault(files.clone());
        assert_eq!(part, PasswordFile, "{kind}: {message}");
        assert!(message.contains("does not open"), "{kind}: {message}");

        files.password_file = None;
        let (part, message) = fault(files);
        assert_eq!(part, PasswordFile, "{kind}: {message}");
        assert!(message.starts_with("is missing, and"), "{kind}: {message}");
    }

    let mut files = export(&folder, "", "right");
    let whole = fs::read(&files.certificate).unwrap();
    folder.write("a.pfx", &whole[..whole.len() / 2]);
    let (part, message) = fault(files.clone());
    assert_eq!(part, Certificate, "{message}");
    assert!(message.contains("is no PFX that can be read"), "{message}");

    folder.write("a.pfx", &whole);
    files.key = Some(folder.path("a.key"));
    let (part, message) = fault(files.clone());
    assert_eq!(
        (part, message.contains("remove key")),
        (Key, true),
        "{message}"
    );

    files.key = None;
    folder.write("password", b"\xff\xfe");
    let (part, message) = fault(files.clone());
    assert_eq!(part, PasswordFile, "{message}");

    folder.write("password", "right");
    folder.openssl("pkcs12 -export -nokeys -in a.pem -out a.pfx -passout pass:right");
    let (part, message) = fault(files);
    assert_eq!(part, Certificate, "{message}");
    assert!(message.contains("holds no private key"), "{message}");
}

/// No change of a file makes the reader panic; few rounds of hashing keep it quick.
#[test]
fn a_changed_byte_never_panics() {
    let folder = Folder::new();
    for (options, _) in KINDS {
        let options = format!("{options} -iter 1");
        let files = export(&folder, &options, "right");
        let whole = fs::read(&files.certificate).unwrap();
        for at in (0..whole.len()).step_by(7) {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            folder.write("a.pfx", changed);
            let _ = read(&files);
        }
    }
}
