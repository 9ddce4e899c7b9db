//! Real DTLS: GnuTLS's echo server and command-line client.
//!
//! The server serves any number of sessions, one after the other: while one is open, a second
//! handshake with the same server waits.

use std::{
    fs::{self, File},
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdin, Stdio},
    time::Duration,
};

use super::{
    eventually::{eventually, holds_within},
    host::Host,
    nginx::Certificate,
    process::Process,
    site::Lab,
};

/// How long a server may take to open its port, and a client to shake hands.
const BOUND: Duration = Duration::from_secs(10);

/// A DTLS server that echoes; its certificate bears the name of its machine.
#[derive(Debug)]
pub struct DtlsServer {
    process: Process,
}

impl DtlsServer {
    /// Starts a server on UDP `port` of `host`, IPv4 and IPv6.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start(lab: &Lab, host: &Host, port: u16) -> Self {
        let directory = lab.directory().join(format!("dtls-{}-{port}", host.name()));
        fs::create_dir(&directory).expect("the site's directory takes another");
        let certificate = Certificate::self_signed(&directory, host.name());
        let mut command = host.command("gnutls-serv");
        command
            .args([
                "--udp",
                "--echo",
                "--disable-client-cert",
                "--port",
                &port.to_string(),
            ])
            .arg("--x509certfile")
            .arg(&certificate.certificate)
            .arg("--x509keyfile")
            .arg(&certificate.key);
        let process = Process::start("gnutls-serv", command, &directory.join("log"));
        eventually(BOUND, "the DTLS server opens its port", || {
            let sockets = host.run("ss --no-header --listening --udp --numeric").ok();
            sockets.matches(&format!(":{port} ")).count() >= 2
        });
        Self { process }
    }

    /// Returns what the server wrote.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

/// A DTLS session of a client, established.
#[derive(Debug)]
pub struct DtlsSession {
    client: Child,
    input: Option<ChildStdin>,
    output: PathBuf,
}

impl DtlsSession {
    /// Shakes hands with `server` from `host`.
    ///
    /// # Panics
    ///
    /// If the handshake does not succeed; the message holds what the client said.
    #[must_use]
    #[track_caller]
    pub fn open(lab: &Lab, host: &Host, server: SocketAddr) -> Self {
        Self::try_open(lab, host, server).unwrap_or_else(|transcript| {
            panic!("no DTLS session with {server} within {BOUND:?}:\n{transcript}")
        })
    }

    /// Shakes hands with `server` from `host`.
    ///
    /// # Errors
    ///
    /// What the client said, if the handshake does not succeed.
    ///
    /// # Panics
    ///
    /// If the client cannot be started.
    pub fn try_open(lab: &Lab, host: &Host, server: SocketAddr) -> Result<Self, String> {
        let output = tempfile::Builder::new()
            .prefix("dtls-session-")
            .tempfile_in(lab.directory())
            .expect("the site's directory takes files")
            .into_temp_path()
            .keep()
            .expect("the file stays with the site");
        let file = File::create(&output).expect("the file is ours");
        let mut client = host
            // The client fills a block before it writes to a file; stdbuf makes it write lines.
            .command("stdbuf")
            .args(["-o0", "gnutls-cli", "--udp", "--insecure"])
            .args([
                "--port",
                &server.port().to_string(),
                &server.ip().to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(file.try_clone().expect("a descriptor can be duplicated"))
            .stderr(file)
            .spawn()
            .expect("gnutls-cli (package gnutls-bin) starts");
        let input = client.stdin.take();
        let session = Self {
            client,
            input,
            output,
        };
        let established = holds_within(BOUND, || {
            session.transcript().contains("- Simple Client Mode:")
        });
        if established {
            Ok(session)
        } else {
            Err(session.transcript())
        }
    }

    /// Returns the common name of the server's certificate: the gateway that answered.
    ///
    /// # Panics
    ///
    /// If the client printed none.
    #[must_use]
    #[track_caller]
    pub fn peer(&self) -> String {
        let transcript = self.transcript();
        transcript
            .split_once("subject `CN=")
            .and_then(|(_, rest)| rest.split_once('\''))
            .map(|(name, _)| name.to_owned())
            .unwrap_or_else(|| panic!("the client prints no certificate:\n{transcript}"))
    }

    /// Sends the line `text` and waits for its echo.
    ///
    /// # Panics
    ///
    /// If it does not come back.
    #[track_caller]
    pub fn echo(&mut self, text: &str) {
        assert!(
            self.try_echo(text),
            "{text:?} did not come back within {BOUND:?}:\n{}",
            self.transcript()
        );
    }

    /// Sends the line `text` and returns whether its echo came back in time.
    ///
    /// # Panics
    ///
    /// If the same line has been sent before.
    #[track_caller]
    pub fn try_echo(&mut self, text: &str) -> bool {
        let came_back = |session: &Self| session.transcript().lines().any(|line| line == text);
        assert!(!came_back(self), "{text:?} has been sent before");
        let input = self.input.as_mut().expect("the session is open");
        // A client that has given up reads no more.
        writeln!(input, "{text}").is_ok() && holds_within(BOUND, || came_back(self))
    }

    fn transcript(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }
}

impl Drop for DtlsSession {
    fn drop(&mut self) {
        // At the end of its input the client closes the session, and the server is free again.
        drop(self.input.take());
        if !holds_within(BOUND, || matches!(self.client.try_wait(), Ok(Some(_)))) {
            // Both can only fail if the client is gone, which is what is wanted.
            let _ = self.client.kill();
            let _ = self.client.wait();
        }
    }
}
