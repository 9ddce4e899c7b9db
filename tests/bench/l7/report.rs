//! Costs, and how those of vipd compare.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::peers::Peer;

/// What each scenario cost, round by round.
#[derive(Default)]
pub(crate) struct Report(BTreeMap<&'static str, Row>);

#[derive(Default)]
struct Row {
    unit: &'static str,
    costs: BTreeMap<Peer, Vec<f64>>,
}

impl Report {
    /// Adds a cost.
    pub(crate) fn add(&mut self, name: &'static str, unit: &'static str, peer: Peer, cost: f64) {
        let row = self.0.entry(name).or_default();
        row.unit = unit;
        row.costs.entry(peer).or_default().push(cost);
    }

    /// Prints a scenario: the median of each, and of the ratios of vipd to each other one with the
    /// interval that holds nine tenths of them.
    pub(crate) fn print(&self, name: &str) {
        let Some(row) = self.0.get(name) else { return };
        println!("{name} ({})", row.unit);
        for (peer, costs) in &row.costs {
            print!("  {:<8} {:>9.2}", peer.name(), middle(costs));
            if let Some((ratio, low, high)) = row.ratio(*peer) {
                print!("   vipd takes {ratio:.2} times that ({low:.2}-{high:.2})");
            }
            println!();
        }
    }

    /// Returns everything for programs.
    pub(crate) fn json(&self) -> Value {
        let rows = self.0.iter().map(|(name, row)| {
            let peers: serde_json::Map<String, Value> = row
                .costs
                .iter()
                .map(|(peer, costs)| {
                    let ratio = row.ratio(*peer);
                    let value = json!({
                        "cost": middle(costs),
                        "ratio": ratio.map(|ratio| ratio.0),
                        "interval": ratio.map(|ratio| [ratio.1, ratio.2]),
                    });
                    (peer.name().to_owned(), value)
                })
                .collect();
            json!({ "name": name, "unit": row.unit, "peers": peers })
        });
        Value::Array(rows.collect())
    }
}

impl Row {
    fn ratio(&self, to: Peer) -> Option<(f64, f64, f64)> {
        let (ours, theirs) = (self.costs.get(&Peer::Vipd)?, self.costs.get(&to)?);
        if to == Peer::Vipd {
            return None;
        }
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(a, b)| a / b).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |share: f64| ratios[((ratios.len() - 1) as f64 * share).round() as usize];
        Some((at(0.5), at(0.05), at(0.95)))
    }
}

fn middle(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
