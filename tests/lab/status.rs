//! What `vipd status --json`, `explain` and `flows` say: the only place that knows their fields.

use std::net::SocketAddr;

use serde_json::Value;

/// `vipd status --json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Status(Value);

impl Status {
    /// Reads the output of the command.
    ///
    /// # Errors
    ///
    /// If it is no JSON object.
    pub fn parse(text: &str) -> Result<Self, String> {
        match serde_json::from_str(text) {
            Ok(value @ Value::Object(_)) => Ok(Self(value)),
            Ok(other) => Err(format!("not an object: {other}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Returns whether the data path is attached and every backend has been probed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        boolean(&self.0["ready"])
    }

    /// Returns the daemon's process id.
    #[must_use]
    pub fn pid(&self) -> u64 {
        number(&self.0["pid"])
    }

    /// Returns whether the daemon took over a data path that was at work.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        boolean(&self.0["adopted"])
    }

    /// Returns the generation of the configuration in force: 1 at start.
    #[must_use]
    pub fn generation(&self) -> u64 {
        number(&self.0["configuration"]["generation"])
    }

    /// Returns mode (`native`, `generic`, `detached`) and reason of `interface`.
    ///
    /// # Panics
    ///
    /// If the status does not show the interface.
    #[must_use]
    #[track_caller]
    pub fn interface(&self, interface: &str) -> (&str, &str) {
        let found = named(&self.0["interfaces"], interface);
        (text(&found["mode"]), text(&found["why"]))
    }

    /// Returns the backend called `name`.
    ///
    /// # Panics
    ///
    /// If the status does not show it.
    #[must_use]
    #[track_caller]
    pub fn backend(&self, name: &str) -> Backend<'_> {
        Backend(named(&self.0["backends"], name))
    }

    /// Returns every backend of every pool.
    pub fn backends(&self) -> impl Iterator<Item = Backend<'_>> {
        list(&self.0["backends"]).iter().map(Backend)
    }

    /// Returns the service called `name`.
    ///
    /// # Panics
    ///
    /// If the status does not show it.
    #[must_use]
    #[track_caller]
    pub fn service(&self, name: &str) -> Service<'_> {
        Service(named(&self.0["services"], name))
    }

    /// Returns the names of the services, in order.
    #[must_use]
    pub fn service_names(&self) -> Vec<&str> {
        list(&self.0["services"])
            .iter()
            .map(|service| text(&service["name"]))
            .collect()
    }

    /// Returns ports in use and all ports of the endpoint towards `backend`.
    ///
    /// # Panics
    ///
    /// If the status does not show the endpoint.
    #[must_use]
    #[track_caller]
    pub fn endpoint_ports(&self, backend: SocketAddr) -> (u64, u64) {
        let endpoint = self.endpoint(backend);
        (
            number(&endpoint["ports_in_use"]),
            number(&endpoint["ports_total"]),
        )
    }

    /// Returns how full the ports of the endpoint towards `backend` are: `ok`, `high` or `full`.
    ///
    /// # Panics
    ///
    /// If the status does not show the endpoint.
    #[must_use]
    #[track_caller]
    pub fn endpoint_fill(&self, backend: SocketAddr) -> &str {
        text(&self.endpoint(backend)["fill"])
    }

    #[track_caller]
    fn endpoint(&self, backend: SocketAddr) -> &Value {
        list(&self.0["endpoints"])
            .iter()
            .find(|endpoint| text(&endpoint["backend"]) == backend.to_string())
            .unwrap_or_else(|| panic!("no endpoint of {backend} in {}", self.0["endpoints"]))
    }

    /// Returns how full flow table and affinity table are, as [`Self::endpoint_fill`].
    #[must_use]
    pub fn fills(&self) -> (&str, &str) {
        let fill = |table: &str| text(&self.0[table]["fill"]);
        (fill("flows"), fill("affinity"))
    }

    /// Returns ports in use of all endpoints together.
    #[must_use]
    pub fn ports_in_use(&self) -> u64 {
        list(&self.0["endpoints"])
            .iter()
            .map(|endpoint| number(&endpoint["ports_in_use"]))
            .sum()
    }

    /// Returns how many clients are remembered.
    #[must_use]
    pub fn remembered(&self) -> u64 {
        number(&self.0["affinity"]["used"])
    }

    /// Returns how many flows are alive.
    #[must_use]
    pub fn flows(&self) -> u64 {
        number(&self.0["flows"]["used"])
    }

    /// Returns how many packets were dropped for `reason`.
    #[must_use]
    pub fn drops_of(&self, reason: &str) -> u64 {
        self.drops()
            .iter()
            .find(|(name, _)| name == reason)
            .map_or(0, |(_, packets)| *packets)
    }

    /// Returns the dropped packets of each reason that has any.
    #[must_use]
    pub fn drops(&self) -> Vec<(String, u64)> {
        list(&self.0["drops"])
            .iter()
            .map(|drops| (text(&drops["reason"]).to_owned(), number(&drops["packets"])))
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }

    /// Returns all dropped packets.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops().iter().map(|(_, packets)| packets).sum()
    }
}

/// A backend in the status.
#[derive(Clone, Copy, Debug)]
pub struct Backend<'a>(&'a Value);

impl<'a> Backend<'a> {
    /// Returns whether the pool's check finds it up.
    #[must_use]
    pub fn is_up(self) -> bool {
        match text(&self.0["health"]) {
            "up" => true,
            "down" => false,
            other => panic!("health is {other:?}"),
        }
    }

    /// Returns why it is up or down.
    #[must_use]
    pub fn health_reason(self) -> &'a str {
        text(&self.0["health_reason"])
    }

    /// Returns `active`, `drain` or `halt`.
    #[must_use]
    pub fn admin_state(self) -> &'a str {
        text(&self.0["admin_state"])
    }

    /// Returns the reason given for the admin state at run time.
    #[must_use]
    pub fn admin_reason(self) -> Option<&'a str> {
        self.0["admin_change"]["reason"].as_str()
    }

    /// Returns whether its next hop is known.
    #[must_use]
    pub fn is_reachable(self) -> bool {
        boolean(&self.0["reachable"])
    }

    /// Returns how it is reached, or why it is not.
    #[must_use]
    pub fn reachable_reason(self) -> &'a str {
        text(&self.0["reachable_reason"])
    }

    /// Returns the MAC address that frames for it go to.
    #[must_use]
    pub fn next_hop_mac(self) -> Option<&'a str> {
        self.0["next_hop"]["mac"].as_str()
    }

    /// Returns whether new clients come to it.
    #[must_use]
    pub fn is_eligible(self) -> bool {
        boolean(&self.0["eligible"])
    }

    /// Returns the flows that are alive.
    #[must_use]
    pub fn flows(self) -> u64 {
        number(&self.0["flows"])
    }

    /// Returns the clients that belong to it.
    #[must_use]
    pub fn clients(self) -> u64 {
        number(&self.0["clients"])
    }

    /// Returns the clients' packets that it answered itself with port unreachable.
    #[must_use]
    pub fn unreachable(self) -> u64 {
        number(&self.0["unreachable"])
    }

    /// Returns the packets from clients and to clients.
    #[must_use]
    pub fn packets(self) -> (u64, u64) {
        packets(self.0)
    }
}

/// A service in the status.
#[derive(Clone, Copy, Debug)]
pub struct Service<'a>(&'a Value);

impl<'a> Service<'a> {
    /// Returns `snat`, `monitor` and so on.
    #[must_use]
    pub fn forwarding(self) -> &'a str {
        text(&self.0["forwarding"])
    }

    /// Returns how many backends take new clients.
    #[must_use]
    pub fn eligible(self) -> u64 {
        number(&self.0["eligible"])
    }

    /// Returns the packets from clients and to clients.
    #[must_use]
    pub fn packets(self) -> (u64, u64) {
        packets(self.0)
    }

    /// Returns what the proxy counts under `key`, such as `requests`, `retries` or `connections_open`.
    #[must_use]
    #[track_caller]
    pub fn proxy(self, key: &str) -> u64 {
        number(&self.0["proxy"][key])
    }

    /// Returns how often the proxy has failed for `reason`.
    ///
    /// # Panics
    ///
    /// If there is no such reason.
    #[must_use]
    #[track_caller]
    pub fn failures(self, reason: &str) -> u64 {
        let failures = list(&self.0["proxy"]["failures"]);
        let found = failures.iter().find(|failure| failure["reason"] == reason);
        let found = found.unwrap_or_else(|| panic!("nothing fails for {reason}: {}", self.0));
        number(&found["count"])
    }

    /// Returns how many clients were served and not remembered because the affinity table was full.
    #[must_use]
    pub fn affinity_full(self) -> u64 {
        number(&self.0["traffic"]["affinity_full"])
    }
}

/// One service of `vipd explain CLIENT --json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The service.
    pub service: String,
    /// The backend that the client's next new flow meets.
    pub backend: Option<String>,
    /// Why: `affinity`, `source_hash` and so on.
    pub because: String,
    /// Sources that the backend sees for the client's live flows.
    pub snat: Vec<SocketAddr>,
}

/// Reads the output of `vipd explain CLIENT --json`.
///
/// # Panics
///
/// If it is not what the command promises.
#[must_use]
#[track_caller]
pub fn explanations(output: &str) -> Vec<Explanation> {
    let value: Value = serde_json::from_str(output)
        .unwrap_or_else(|error| panic!("explain prints no JSON: {error}: {output}"));
    list(&value["services"])
        .iter()
        .map(|service| Explanation {
            service: text(&service["service"]).to_owned(),
            backend: service["backend"].as_str().map(str::to_owned),
            because: text(&service["because"]).to_owned(),
            snat: list(&service["flows"])
                .iter()
                .map(|flow| address(&flow["snat"]))
                .collect(),
        })
        .collect()
}

/// One flow of `vipd flows --json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client.
    pub client: SocketAddr,
    /// What the client talks to.
    pub vip: SocketAddr,
    /// What the backend sees.
    pub snat: SocketAddr,
    /// The backend's address and port.
    pub endpoint: SocketAddr,
    /// The backend's name.
    pub backend: Option<String>,
    /// Whether the backend has answered.
    pub replied: bool,
}

/// Reads the output of `vipd flows --json`.
///
/// # Panics
///
/// If it is not what the command promises.
#[must_use]
#[track_caller]
pub fn flows(output: &str) -> Vec<Flow> {
    let value: Value = serde_json::from_str(output)
        .unwrap_or_else(|error| panic!("flows prints no JSON: {error}: {output}"));
    list(&value["flows"])
        .iter()
        .map(|flow| Flow {
            client: address(&flow["client"]),
            vip: address(&flow["vip"]),
            snat: address(&flow["snat"]),
            endpoint: address(&flow["endpoint"]),
            backend: flow["backend"].as_str().map(str::to_owned),
            replied: boolean(&flow["replied"]),
        })
        .collect()
}

/// What `vipd check --live --json` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Nothing was found.
    pub consistent: bool,
    /// The fault and the map of each finding.
    pub findings: Vec<(String, String)>,
    /// Flows that were looked at.
    pub flows: u64,
    /// Clients that were looked at.
    pub clients: u64,
}

/// Reads the output of `vipd check --live --json`.
///
/// # Panics
///
/// If it is not what the command promises.
#[must_use]
#[track_caller]
pub fn audit(output: &str) -> Audit {
    let value: Value = serde_json::from_str(output)
        .unwrap_or_else(|error| panic!("check --live prints no JSON: {error}: {output}"));
    Audit {
        consistent: boolean(&value["consistent"]),
        findings: list(&value["findings"])
            .iter()
            .map(|of| (text(&of["fault"]).to_owned(), text(&of["place"]).to_owned()))
            .collect(),
        flows: number(&value["flows"]),
        clients: number(&value["clients"]),
    }
}

fn packets(value: &Value) -> (u64, u64) {
    let traffic = &value["traffic"];
    (
        number(&traffic["packets_in"]),
        number(&traffic["packets_out"]),
    )
}

#[track_caller]
fn named<'a>(values: &'a Value, name: &str) -> &'a Value {
    list(values)
        .iter()
        .find(|value| value["name"] == name)
        .unwrap_or_else(|| panic!("nothing is called {name} in {values}"))
}

#[track_caller]
fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"))
}

#[track_caller]
fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

#[track_caller]
fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn boolean(value: &Value) -> bool {
    value
        .as_bool()
        .unwrap_or_else(|| panic!("{value} is neither true nor false"))
}

#[track_caller]
fn address(value: &Value) -> SocketAddr {
    text(value)
        .parse()
        .unwrap_or_else(|_| panic!("{value} is no address with a port"))
}
