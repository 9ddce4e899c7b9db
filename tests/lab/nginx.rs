//! Real HTTPS health pages: nginx with a certificate of its own.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{
    eventually::eventually,
    host::Host,
    process::{Outcome, Process},
    site::Lab,
};

/// How long nginx may take to open its port.
const START_BOUND: Duration = Duration::from_secs(10);

/// A key and a self-signed certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

impl Certificate {
    /// Puts the files of `next` where its own are, each at once.
    ///
    /// # Panics
    ///
    /// If they cannot be written.
    pub fn replace_by(&self, next: &Self) {
        for (old, new) in [
            (&self.key, &next.key),
            (&self.certificate, &next.certificate),
        ] {
            let beside = old.with_extension("new");
            fs::copy(new, &beside).expect("copied");
            fs::rename(&beside, old).expect("renamed");
        }
    }

    /// Makes a certificate for the common name `name`, with files in `directory`.
    ///
    /// # Panics
    ///
    /// If openssl fails.
    #[must_use]
    pub fn self_signed(directory: &Path, name: &str) -> Self {
        let made = Self {
            certificate: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key")),
        };
        let mut command = Command::new("openssl");
        command
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "30", "-subj", &format!("/CN={name}")])
            .args(["-addext", &format!("subjectAltName=DNS:{name}")])
            .arg("-keyout")
            .arg(&made.key)
            .arg("-out")
            .arg(&made.certificate);
        Outcome::of(command).ok();
        made
    }
}

/// An nginx that serves one page over HTTPS.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    page: PathBuf,
    unavailable: PathBuf,
}

impl Nginx {
    /// Starts nginx on `host`, IPv4 and IPv6, and waits until its TCP `port` is open.
    ///
    /// `path` answers 200 and `body`, everything else 404.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start(lab: &Lab, host: &Host, port: u16, path: &str, body: &str) -> Self {
        Self::start_with(lab, host, port, path, body, "return 404;")
    }

    /// Like [`Self::start`], but every other path answers with the server's name, and the client's
    /// address as the `X-Forwarded-For` of the request says it.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start_greeting(lab: &Lab, host: &Host, port: u16, path: &str, body: &str) -> Self {
        let greeting = format!(
            "default_type text/plain; return 200 \"{} greets $http_x_forwarded_for\\n\";",
            host.name()
        );
        Self::start_with(lab, host, port, path, body, &greeting)
    }

    fn start_with(lab: &Lab, host: &Host, port: u16, path: &str, body: &str, rest: &str) -> Self {
        let directory = lab
            .directory()
            .join(format!("nginx-{}-{port}", host.name()));
        // One that was there before and was dropped, and so killed, is started again.
        fs::create_dir_all(&directory).expect("the site's directory takes another");
        let certificate = Certificate::self_signed(&directory, host.name());
        let page = directory.join("page");
        let unavailable = directory.join("unavailable");
        fs::write(&page, body).expect("the page can be written");
        let configuration = directory.join("nginx.conf");
        fs::write(
            &configuration,
            text(&directory, &certificate, port, path, rest),
        )
        .expect("the configuration can be written");
        let mut command = host.command("nginx");
        command
            .arg("-c")
            .arg(&configuration)
            .arg("-p")
            .arg(&directory)
            .arg("-e")
            .arg("stderr");
        let process = Process::start("nginx", command, &directory.join("log"));
        let server = SocketAddr::new(IpAddr::from(host.v4()), port);
        eventually(
            START_BOUND,
            &format!("nginx is open: {}", process.log()),
            || {
                host.net()
                    .enter(|| TcpStream::connect_timeout(&server, Duration::from_secs(1)))
                    .is_ok()
            },
        );
        Self {
            process,
            page,
            unavailable,
        }
    }

    /// Stands still from here on, as a server that hangs does: the kernel goes on accepting
    /// connections for it.
    pub fn freeze(&mut self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// Goes on after [`Self::freeze`].
    pub fn thaw(&mut self) {
        self.process.signal(libc::SIGCONT);
    }

    /// Answers with `body` from here on.
    ///
    /// # Panics
    ///
    /// If the page cannot be written.
    pub fn set_body(&self, body: &str) {
        // Renamed into place, so that nobody reads half a page.
        let new = self.page.with_extension("new");
        fs::write(&new, body).expect("the page can be written");
        fs::rename(&new, &self.page).expect("the page can be replaced");
    }

    /// Answers 503 from here on, or the page again.
    ///
    /// # Panics
    ///
    /// If the mark cannot be written.
    pub fn set_available(&self, available: bool) {
        if !available {
            fs::write(&self.unavailable, "").expect("the mark can be written");
        } else if self.unavailable.exists() {
            fs::remove_file(&self.unavailable).expect("the mark can be removed");
        }
    }
}

fn text(directory: &Path, certificate: &Certificate, port: u16, path: &str, rest: &str) -> String {
    let directory = directory.display();
    // One process in the foreground: what is killed is all there is.
    format!(
        "daemon off;
master_process off;
pid {directory}/pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{
    listen {port} ssl;
    listen [::]:{port} ssl;
    ssl_certificate {};
    ssl_certificate_key {};
    root {directory};
    location = {path} {{
      if (-f {directory}/unavailable) {{ return 503; }}
      default_type text/html;
      try_files /page =404;
    }}
    location / {{ {rest} }}
  }}
}}
",
        certificate.certificate.display(),
        certificate.key.display()
    )
}
