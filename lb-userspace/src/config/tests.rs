//! Configurations as people write them: what they mean, and what is said about their faults.

mod faults;
mod files;
mod meaning;
mod presets;
mod properties;

use super::{ConfigErrors, model::Config};

/// A whole site in plain tables.
const PLAIN: &str = include_str!("tests/files/plain.toml");
/// The same products from presets.
const PRESETS: &str = include_str!("tests/files/presets.toml");
/// The smallest configuration that forwards.
const SMALL: &str = r#"
[node]
interfaces = ["eth0"]

[[pool]]
name = "web"
backends = ["10.0.0.11"]

[[service]]
name = "dns"
vip = "10.0.0.1"
port = 53
protocol = "udp"
forwarding = "snat"
pool = "web"
"#;

fn valid(text: &str) -> Config {
    super::parse(text).unwrap_or_else(|errors| panic!("the configuration has {errors}"))
}

/// Returns the fault lines of `text` as a person sees them.
fn faults(result: Result<Config, ConfigErrors>) -> Vec<String> {
    match result {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}
