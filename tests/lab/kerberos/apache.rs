//! One Apache that signs users on by Kerberos.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{PORTAL, Realm};
use crate::lab::{
    authority::Authority, eventually::eventually, host::Host, nginx::Certificate, process::Process,
    site::Lab,
};

/// How long Apache may take to open its port.
const START_BOUND: Duration = Duration::from_secs(10);

/// A server.
#[derive(Debug)]
pub(super) struct Apache {
    host: Host,
    address: SocketAddr,
    directory: PathBuf,
    settings: PathBuf,
    process: Process,
}

impl Apache {
    /// Starts a server on `host`, IPv4 and IPv6, and waits until its TCP `port` is open.
    pub(super) fn start(
        lab: &Lab,
        host: &Host,
        port: u16,
        authority: &Authority,
        realm: &Realm,
    ) -> Self {
        let directory = lab
            .directory()
            .join(format!("apache-{}-{port}", host.name()));
        fs::create_dir_all(directory.join("pages")).expect("the site's directory takes another");
        // It serves as nobody, and keeps here which tokens it has seen.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))
            .expect("the directory is ours");
        fs::write(directory.join("pages/index.html"), "welcome\n")
            .expect("the page can be written");
        let certificate = authority.certificate(&[PORTAL]);
        let text = text(&directory, host, port, &certificate, realm);
        fs::write(directory.join("apache.conf"), text).expect("the configuration can be written");
        let settings = realm.settings();
        let process = run(host, &directory, &settings);
        let apache = Self {
            host: host.clone(),
            address: SocketAddr::new(host.v4().into(), port),
            directory,
            settings,
            process,
        };
        apache.await_start();
        apache
    }

    pub(super) fn restart(&mut self) {
        self.process.kill9();
        self.process = run(&self.host, &self.directory, &self.settings);
        self.await_start();
    }

    pub(super) fn log(&self) -> String {
        self.process.log()
    }

    fn await_start(&self) {
        let is_open = || {
            self.host
                .net()
                .enter(|| TcpStream::connect_timeout(&self.address, Duration::from_secs(1)))
                .is_ok()
        };
        let what = format!("Apache is open at {}; {}", self.address, self.log());
        eventually(START_BOUND, &what, is_open);
    }
}

fn run(host: &Host, directory: &Path, settings: &Path) -> Process {
    let mut command = host.command("apache2");
    command
        .env("KRB5_CONFIG", settings)
        .env("KRB5RCACHEDIR", directory)
        // One process in the foreground: what is killed is all there is.
        .arg("-X")
        .arg("-d")
        .arg(directory)
        .arg("-f")
        .arg(directory.join("apache.conf"));
    Process::start("apache2", command, &directory.join("log"))
}

fn text(
    directory: &Path,
    host: &Host,
    port: u16,
    certificate: &Certificate,
    realm: &Realm,
) -> String {
    let directory = directory.display();
    let modules = [
        "mpm_event",
        "authn_core",
        "authz_core",
        "authz_user",
        "auth_gssapi",
        "dir",
        "headers",
        "ssl",
    ]
    .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
    .concat();
    format!(
        "{modules}
ServerRoot {directory}
ServerName {PORTAL}
DefaultRuntimeDir {directory}
PidFile {directory}/pid
Mutex file:{directory} default
User nobody
Group nogroup
Listen {port}
ErrorLog /dev/stderr
LogFormat \"%{{X-Forwarded-For}}i %{{remote}}p %k %u \\\"%r\\\" %>s\" short
CustomLog /dev/stdout short

KeepAlive On
KeepAliveTimeout 300
MaxKeepAliveRequests 0
LimitRequestFieldSize 131072
ThreadsPerChild 32
MaxRequestWorkers 32
AsyncRequestWorkerFactor 32

SSLEngine on
SSLCertificateFile {}
SSLCertificateKeyFile {}

DocumentRoot {directory}/pages
DirectoryIndex index.html
Header always set X-Backend {}
Header always set X-Connection \"expr=%{{REMOTE_ADDR}}:%{{REMOTE_PORT}}\"
Header always set X-User \"expr=%{{REMOTE_USER}}\" \"expr=-n %{{REMOTE_USER}}\"
<Location />
  AuthType GSSAPI
  AuthName laboratory
  GssapiConnectionBound On
  GssapiAllowedMech krb5
  GssapiCredStore keytab:{}
  Require valid-user
</Location>
<Location /healthcheck>
  AuthType None
  Require all granted
</Location>
",
        certificate.certificate.display(),
        certificate.key.display(),
        host.name(),
        realm.service_keytab().display(),
    )
}
