//! The real `curl` on a machine of the site.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde_json::Value;

use super::{host::Host, http1, process::Outcome, site::Lab};

/// How long one transfer may take unless a test says otherwise.
const BOUND: Duration = Duration::from_secs(20);

/// A command line of curl that is being written; the same options hold for each of its URLs.
#[derive(Debug)]
pub struct Curl {
    command: Command,
    directory: PathBuf,
    options: Vec<String>,
    transfers: Vec<Vec<String>>,
}

impl Curl {
    /// Begins a command on `host`; bodies go to the site's directory.
    #[must_use]
    pub fn on(lab: &Lab, host: &Host) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut command = host.command("curl");
        // Nothing of the user's own settings.
        command.arg("--disable");
        Self {
            command,
            directory: lab.directory().join(format!("curl{number}")),
            options: Vec::new(),
            transfers: Vec::new(),
        }
        .options(&["--silent", "--show-error"])
        .bound(BOUND)
    }

    /// Adds options as written on a command line.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options
            .extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// Connects to `server` for the host `name`.
    #[must_use]
    pub fn resolve(self, name: &str, server: SocketAddr) -> Self {
        let (address, port) = (server.ip(), server.port());
        let address = if address.is_ipv6() {
            format!("[{address}]")
        } else {
            address.to_string()
        };
        self.options(&["--resolve", &format!("{name}:{port}:{address}")])
    }

    /// Connects from the address `source`, such as one of the campus.
    #[must_use]
    pub fn from(self, source: SocketAddr) -> Self {
        self.options(&["--interface", &source.ip().to_string()])
    }

    /// Trusts the authority in the PEM file `file` and no other.
    #[must_use]
    pub fn trust(self, file: &Path) -> Self {
        let file = file.to_str().expect("the site's directory is text");
        self.options(&["--cacert", file])
    }

    /// Offers HTTP/1.1 only.
    #[must_use]
    pub fn http1(self) -> Self {
        self.options(&["--http1.1"])
    }

    /// Offers HTTP/2 and HTTP/1.1.
    #[must_use]
    pub fn http2(self) -> Self {
        self.options(&["--http2"])
    }

    /// Sends a header line.
    #[must_use]
    pub fn header(self, line: &str) -> Self {
        self.options(&["--header", line])
    }

    /// Lets one transfer take at most `bound`.
    #[must_use]
    pub fn bound(self, bound: Duration) -> Self {
        self.options(&["--max-time", &bound.as_secs_f64().to_string()])
    }

    /// Gives curl variables of its environment, such as [`super::kerberos::Kerberos::user`].
    #[must_use]
    pub fn environment(mut self, variables: &[(String, String)]) -> Self {
        self.command.envs(variables.iter().cloned());
        self
    }

    /// Asks for `url`, after those asked for before and on the same connection where it can.
    #[must_use]
    pub fn get(self, url: &str) -> Self {
        self.transfer(&[url])
    }

    /// Sends `body` to `url` with POST.
    #[must_use]
    pub fn post(self, url: &str, body: &str) -> Self {
        self.transfer(&["--data-binary", body, url])
    }

    /// Asks for a URL with options for it alone; see [`Self::options`] for those of all.
    #[must_use]
    pub fn transfer(mut self, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        self.transfers.push(words);
        self
    }

    /// Runs curl and returns what each URL answered, in their order.
    ///
    /// # Panics
    ///
    /// If curl does not start or its report cannot be read. A transfer that fails is no panic: see
    /// [`Fetched::exit_code`].
    #[must_use]
    #[track_caller]
    pub fn run(mut self) -> Vec<Fetched> {
        fs::create_dir(&self.directory).expect("the site's directory takes another");
        for (number, transfer) in self.transfers.iter().enumerate() {
            if number > 0 {
                self.command.arg("--next");
            }
            self.command
                .args(&self.options)
                .args(["--write-out", "%{json}\\n"])
                .arg("--output")
                .arg(self.directory.join(format!("body{number}")))
                .arg("--dump-header")
                .arg(self.directory.join(format!("head{number}")))
                .args(transfer);
        }
        let outcome = Outcome::of(self.command);
        let reports: Vec<Value> = outcome
            .stdout
            .lines()
            .map(|line| {
                serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("no report of curl: {error}: {line}"))
            })
            .collect();
        assert_eq!(
            reports.len(),
            self.transfers.len(),
            "curl reports not each transfer; it says:\n{}",
            outcome.text()
        );
        let fetched = reports
            .into_iter()
            .enumerate()
            .map(|(number, report)| Fetched::read(&self.directory, number, report))
            .collect();
        // Thousands of these would be left until the site goes.
        let _ = fs::remove_dir_all(&self.directory);
        fetched
    }

    /// Runs curl with its one URL.
    ///
    /// # Panics
    ///
    /// As [`Self::run`], or if there is not one URL.
    #[must_use]
    #[track_caller]
    pub fn one(self) -> Fetched {
        let mut fetched = self.run();
        assert_eq!(fetched.len(), 1, "one URL was expected");
        fetched.remove(0)
    }
}

/// What came of one URL.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The status of the last answer; 0 without one.
    pub status: u16,
    /// The heads of all answers: refusals that curl answered, interim ones, the last one.
    pub heads: Vec<String>,
    /// The body of the last answer.
    pub body: Vec<u8>,
    /// `1.1` or `2`; `0` without an answer.
    pub http_version: String,
    /// How many connections were made for it.
    pub connections: u64,
    /// How long it took.
    pub time: Duration,
    /// How curl ended it, 0 if well; see EXIT CODES in curl(1).
    pub exit_code: i64,
    /// What curl said of an error.
    pub error: Option<String>,
    /// Everything that curl reports, by the names of `--write-out` in curl(1).
    pub report: Value,
}

impl Fetched {
    fn read(directory: &Path, number: usize, report: Value) -> Self {
        // Neither file exists without an answer.
        let heads = fs::read(directory.join(format!("head{number}"))).unwrap_or_default();
        let body = fs::read(directory.join(format!("body{number}"))).unwrap_or_default();
        let count = |name: &str| report[name].as_u64().unwrap_or_default();
        Self {
            status: u16::try_from(count("response_code")).expect("a status has three digits"),
            heads: String::from_utf8_lossy(&heads)
                .split_inclusive("\r\n\r\n")
                .map(str::to_owned)
                .collect(),
            body,
            http_version: report["http_version"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            connections: count("num_connects"),
            time: Duration::from_secs_f64(report["time_total"].as_f64().unwrap_or_default()),
            exit_code: report["exitcode"].as_i64().unwrap_or_default(),
            error: report["errormsg"].as_str().map(str::to_owned),
            report,
        }
    }

    /// Returns the values of the last answer's header lines called `name`.
    #[must_use]
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let head = self.heads.last().map_or("", String::as_str);
        http1::values(head.as_bytes(), name)
    }

    /// Returns the value of the last answer's first header line called `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().copied()
    }

    /// Returns the body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the body as JSON.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON: {error}: {}", self.text()))
    }
}
