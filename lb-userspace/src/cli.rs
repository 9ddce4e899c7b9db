//! The command line.
//!
//! Exit codes: 0 done, 1 it failed, 2 wrong usage or configuration. Tables are for people;
//! `--json` prints what the admin socket answers.

mod ask;
mod clients;
mod file;
mod output;
mod show;
mod table;
mod wait;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    admin::api::ClientsAction,
    admin::client::{Client, ClientError},
    app,
    config::{
        self, InitOptions, LoadError, Preset, duration,
        model::{AdminState, Prefix},
    },
    control::chain,
};

use self::output::Output;

/// Where the configuration is unless `--config` says otherwise.
const CONFIGURATION: &str = "/etc/vipd/vipd.toml";
/// Where the daemon answers unless the configuration says otherwise.
const SOCKET: &str = "/run/vipd/vipd.sock";

/// A load balancer for application delivery, with its UDP path in XDP.
#[derive(Debug, Parser)]
#[command(name = "vipd", version, propagate_version = true)]
struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

/// Which daemon and which file are meant.
#[derive(Debug, Args)]
struct Place {
    /// The configuration file
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The admin socket of the running daemon [default: as in the configuration file]
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon; it takes over a data path that is at work
    Run,
    /// Check a configuration file, every fault at once; or, with --live, the kernel's state
    Check {
        /// Ask the running daemon whether the kernel's state agrees with its own
        #[arg(long)]
        live: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look into a configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write a first configuration to standard output
    Init(InitArguments),
    /// Show services, backends, flows and drops; exits 0 when everything is in place
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Show it again every second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Give a backend no new clients; those that belong to it stay
    Drain(LeaveArguments),
    /// Take a backend out; its clients move now
    Halt(LeaveArguments),
    /// Put a backend into service
    Enable {
        /// BACKEND, or POOL/BACKEND
        backend: String,
        /// Why, for the log and the status
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse clients, and end their flows; the longest prefix that covers a client decides
    Block(ClientsArguments),
    /// Let clients in that a shorter prefix, or the service's allow list, keeps out
    Allow(ClientsArguments),
    /// Forget what was said of prefixes with `block` or `allow`
    Forget(ClientsArguments),
    /// List which clients are blocked and allowed, by whom and why
    Clients {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Apply the changed configuration file
    Reload {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say which backend a client meets on each service, and why
    Explain {
        /// Address of the client
        client: IpAddr,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List live flows
    Flows(FlowsArguments),
    /// Stop the daemon, if one runs, and remove data path, addresses and reserved ports
    Detach,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the configuration with presets written out, and why each setting is there
    Expand,
}

#[derive(Debug, Args)]
struct InitArguments {
    /// What the site is
    #[arg(value_parser = Preset::ALL.map(Preset::name))]
    preset: String,
    /// The address that clients connect to
    #[arg(long, value_name = "ADDRESS")]
    vip: Option<String>,
    /// A server: ADDRESS or NAME=ADDRESS; may be given several times
    #[arg(long = "backend", value_name = "ADDRESS", num_args = 1..)]
    backends: Vec<String>,
    /// The name that users open
    #[arg(long, value_name = "NAME")]
    fqdn: Option<String>,
    /// Certificate chain, PEM
    #[arg(long, value_name = "FILE")]
    certificate: Option<String>,
    /// Private key, PEM
    #[arg(long, value_name = "FILE")]
    key: Option<String>,
    /// The interface that clients' packets arrive on
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Write to this file, which must not exist, instead of standard output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct LeaveArguments {
    /// BACKEND, or POOL/BACKEND
    backend: String,
    /// Why, for the log and the status
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Return when its last flow and client have gone
    #[arg(long)]
    wait: bool,
    /// Longest time to wait, such as 30m or 8h
    #[arg(long, value_name = "TIME", default_value = "8h", value_parser = time, requires = "wait")]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ClientsArguments {
    /// Addresses or prefixes, such as 10.1.2.3 or 2001:db8::/32
    #[arg(value_name = "PREFIX", required_unless_present = "file")]
    prefixes: Vec<Prefix>,
    /// Take prefixes from this file as well: one a line, `#` begins a remark
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// On this service only [default: every service that XDP forwards]
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Why, for the log and `vipd clients`
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct FlowsArguments {
    /// Flows of this client only
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Flows of this service only
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Flows of this backend only: BACKEND, or POOL/BACKEND
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// At most this many
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "write a number with ms, s, m, h or d".to_owned())
}

/// How a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The configuration, or what was asked for, is wrong: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// It did not work: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Said already: exit code 1.
    #[error("")]
    Told,
    /// Nobody reads any more: exit code 0.
    #[error("nobody reads the output")]
    ClosedPipe,
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Failed(format!("cannot write: {error}")),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::Usage(chain(&error))
    }
}

/// Runs the command that the arguments of the process ask for.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) | Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Usage(message)) => {
            output::error(&message);
            ExitCode::from(2)
        }
        Err(Failure::Failed(message)) => {
            output::error(&message);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { place, command } = arguments;
    let out = &mut Output::stdout();
    match command {
        Command::Run => run_daemon(place.file()),
        Command::Check { live: true, json } => ask::audit(out, &place.client()?, json),
        Command::Check { live: false, json } => file::check(out, place.file(), json),
        Command::Config(ConfigCommand::Expand) => file::expand(out, place.file()),
        Command::Init(arguments) => {
            let path = arguments.output.clone();
            file::init(out, &arguments.into(), path.as_deref())
        }
        Command::Status { json, watch } => ask::status(out, &place.client()?, json, watch),
        Command::Drain(arguments) => {
            ask::take_out(out, &place.client()?, AdminState::Drain, &arguments)
        }
        Command::Halt(arguments) => {
            ask::take_out(out, &place.client()?, AdminState::Halt, &arguments)
        }
        Command::Enable {
            backend,
            reason,
            json,
        } => ask::enable(out, &place.client()?, backend, reason, json),
        Command::Block(arguments) => {
            clients::change(out, &place.client()?, ClientsAction::Block, arguments)
        }
        Command::Allow(arguments) => {
            clients::change(out, &place.client()?, ClientsAction::Allow, arguments)
        }
        Command::Forget(arguments) => {
            clients::change(out, &place.client()?, ClientsAction::Forget, arguments)
        }
        Command::Clients { json } => clients::list(out, &place.client()?, json),
        Command::Reload { json } => ask::reload(out, &place.client()?, json),
        Command::Explain { client, json } => ask::explain(out, &place.client()?, client, json),
        Command::Flows(arguments) => ask::flows(out, &place.client()?, arguments),
        Command::Detach => ask::detach(out, &place),
    }
}

fn run_daemon(file: &Path) -> Result<(), Failure> {
    let config = config::load_runnable(file)?;
    match app::run(config, file) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Failed(format!("{error:#}"))),
    }
}

impl Place {
    fn file(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(CONFIGURATION))
    }

    /// Returns a client of the daemon that is meant: by its socket, or by its configuration,
    /// which may have faults elsewhere.
    fn client(&self) -> Result<Client, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(Client::new(socket));
        }
        match (config::admin_socket(self.file()), &self.config) {
            (Ok(socket), _) => Ok(Client::new(socket)),
            // Nobody named a file, and there may be none on this machine.
            (Err(_), None) => Ok(Client::new(SOCKET)),
            (Err(error), Some(_)) => Err(error.into()),
        }
    }
}

impl From<InitArguments> for InitOptions {
    fn from(arguments: InitArguments) -> Self {
        Self {
            preset: arguments.preset,
            vip: arguments.vip,
            backends: arguments.backends,
            fqdn: arguments.fqdn,
            certificate: arguments.certificate,
            key: arguments.key,
            interface: arguments.interface,
        }
    }
}

#[cfg(test)]
mod tests;
