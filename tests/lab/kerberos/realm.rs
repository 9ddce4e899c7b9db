//! The realm: a KDC of MIT Kerberos with its files in the site's directory, and users' tickets.

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{PORTAL, REALM};
use crate::lab::{
    eventually::eventually,
    host::Host,
    process::{Outcome, Process},
    site::Lab,
};

/// A user whose tickets are as large as those of people in thousands of groups.
pub(super) const LARGE_USER: &str = "large";

/// The KDC's port (RFC 4120 section 7.2.2).
const PORT: u16 = 88;

/// How long the KDC may take to open its port.
const START_BOUND: Duration = Duration::from_secs(10);

/// What makes tickets large: each indicator is a line of the configuration, whose reader takes
/// 2048 bytes of a line.
const INDICATORS: usize = 21;
/// See [`INDICATORS`].
const INDICATOR_LENGTH: usize = 1700;

/// A realm whose KDC runs.
#[derive(Debug)]
pub(super) struct Realm {
    directory: PathBuf,
    _kdc: Process,
}

/// Returns the name of user `number`, without the realm.
pub(super) fn user(number: usize) -> String {
    format!("user{number}")
}

impl Realm {
    /// Starts a KDC on `host` with users 1 to `users`, all of them with tickets.
    pub(super) fn start(lab: &Lab, host: &Host, users: usize) -> Self {
        let directory = lab.directory().join("kerberos");
        fs::create_dir(&directory).expect("the site's directory takes another");
        let server = SocketAddr::new(host.v4().into(), PORT);
        let write = |name: &str, text: &str| {
            fs::write(directory.join(name), text).expect("the configuration can be written");
        };
        let names: Vec<String> = (1..=users).map(user).collect();
        write("krb5.conf", &client_text(server));
        write("kdc.conf", &kdc_text(&directory, server));
        write("principals", &principals_text(&directory, &names));
        let run = |program: &str| {
            let mut command = host.command(program);
            set_environment(&mut command, &directory);
            command
        };

        let mut create = run("kdb5_util");
        create.args(["-r", REALM, "create", "-s", "-P", "of the laboratory"]);
        Outcome::of(create).ok();
        let mut add = run("sh");
        let script = r#"exec kadmin.local -r "$0" < "$1""#;
        add.args(["-c", script, REALM])
            .arg(directory.join("principals"));
        // Its exit code says nothing of the commands; tickets below do.
        let added = Outcome::of(add).text();

        let mut command = run("krb5kdc");
        command.arg("-n");
        let kdc = Process::start("krb5kdc", command, &directory.join("kdc.log"));
        let is_open = || {
            host.net()
                .enter(|| TcpStream::connect_timeout(&server, Duration::from_secs(1)))
                .is_ok()
        };
        let what = format!("the KDC is open: {added}{}", kdc.log());
        eventually(START_BOUND, &what, is_open);
        let realm = Self {
            directory,
            _kdc: kdc,
        };
        // The servers run as nobody, and the key is worth nothing outside.
        fs::set_permissions(realm.service_keytab(), fs::Permissions::from_mode(0o644))
            .unwrap_or_else(|error| panic!("there is no keytab: {error}: {added}"));
        for name in names.iter().map(String::as_str).chain([LARGE_USER]) {
            let mut command = host.command("kinit");
            command
                .envs(realm.environment(name))
                .arg("-k")
                .arg("-t")
                .arg(realm.directory.join("users.keytab"))
                .arg(name);
            Outcome::of(command).ok();
        }
        realm
    }

    pub(super) fn settings(&self) -> PathBuf {
        self.directory.join("krb5.conf")
    }

    pub(super) fn service_keytab(&self) -> PathBuf {
        self.directory.join("service.keytab")
    }

    /// Returns the environment of the user called `name`.
    pub(super) fn environment(&self, name: &str) -> Vec<(String, String)> {
        let cache = self.directory.join(format!("{name}.cache"));
        vec![
            (
                "KRB5_CONFIG".to_owned(),
                self.settings().display().to_string(),
            ),
            ("KRB5CCNAME".to_owned(), format!("FILE:{}", cache.display())),
        ]
    }
}

fn set_environment(command: &mut Command, directory: &Path) {
    command
        .env("KRB5_CONFIG", directory.join("krb5.conf"))
        .env("KRB5_KDC_PROFILE", directory.join("kdc.conf"));
}

fn client_text(server: SocketAddr) -> String {
    // Names are taken as users write them: the balancer's address belongs to none of the servers.
    format!(
        "[libdefaults]
  default_realm = {REALM}
  dns_lookup_kdc = false
  dns_lookup_realm = false
  dns_canonicalize_hostname = false
  rdns = false
  udp_preference_limit = 1
  spake_preauth_groups = edwards25519
[realms]
  {REALM} = {{
    kdc = {server}
  }}
[domain_realm]
  .lab.example = {REALM}
"
    )
}

fn kdc_text(directory: &Path, server: SocketAddr) -> String {
    let directory = directory.display();
    // Tickets got by SPAKE (RFC 9588) carry these, users' and servers' alike; here they are ballast.
    let indicators = (0..INDICATORS).fold(String::new(), |mut text, number| {
        let ballast = "x".repeat(INDICATOR_LENGTH);
        let _ = writeln!(text, "    spake_preauth_indicator = {number}{ballast}");
        text
    });
    format!(
        "[kdcdefaults]
  kdc_listen = {server}
  kdc_tcp_listen = {server}
[libdefaults]
  spake_preauth_groups = edwards25519
[realms]
  {REALM} = {{
    database_name = {directory}/principal
    key_stash_file = {directory}/stash
    acl_file = {directory}/acl
{indicators}  }}
[logging]
  kdc = STDERR
  admin_server = FILE:{directory}/kadmin.log
  default = FILE:{directory}/kadmin.log
"
    )
}

/// The commands that make the principals, as kadmin(1) reads them.
fn principals_text(directory: &Path, users: &[String]) -> String {
    let directory = directory.display();
    let mut text = format!(
        "addprinc -randkey HTTP/{PORTAL}
ktadd -k {directory}/service.keytab HTTP/{PORTAL}
addprinc -randkey +requires_preauth {LARGE_USER}
ktadd -k {directory}/users.keytab {LARGE_USER}
"
    );
    for user in users {
        let _ = writeln!(text, "addprinc -randkey {user}");
        let _ = writeln!(text, "ktadd -k {directory}/users.keytab {user}");
    }
    text
}
