//! What was measured, and whether it is as good as it shall be.

use serde::Serialize;

/// Some values of one measurement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample(Vec<f64>);

impl Sample {
    /// Adds a value.
    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// Returns the value in the middle.
    pub(crate) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Returns the lowest and the highest value.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let value = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        (value(self.0.first()), value(self.0.last()))
    }
}

/// A promise: a figure, and the most that it may be.
#[derive(Clone, Debug, Serialize)]
struct Target {
    name: String,
    unit: &'static str,
    measured: f64,
    bound: f64,
    met: bool,
}

/// The report of one run.
pub(crate) struct Report {
    lines: Vec<String>,
    targets: Vec<Target>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            lines: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// Begins a section.
    pub(crate) fn section(&mut self, title: &str) {
        self.lines.push(format!("\n{title}"));
    }

    /// Tells a figure.
    pub(crate) fn figure(&mut self, what: &str, sample: &Sample, unit: &str) {
        let (low, high) = sample.spread();
        self.lines.push(format!(
            "  {what:<44} {:>9.1} {unit:<6} ({low:.1} to {high:.1})",
            sample.median()
        ));
    }

    /// Tells something in words.
    pub(crate) fn say(&mut self, text: String) {
        self.lines.push(format!("  {text}"));
    }

    /// Compares a figure with the most that it may be.
    pub(crate) fn at_most(&mut self, name: String, measured: f64, bound: f64, unit: &'static str) {
        self.targets.push(Target {
            name,
            unit,
            measured,
            bound,
            met: measured <= bound,
        });
    }

    /// Prints the report; as JSON the targets alone.
    #[expect(clippy::print_stdout, reason = "this is what the benchmark is for")]
    pub(crate) fn print(&self, json: bool) {
        if json {
            let text = serde_json::to_string_pretty(&self.targets);
            println!("{}", text.unwrap_or_default());
            return;
        }
        for line in &self.lines {
            println!("{line}");
        }
        println!("\nTARGETS");
        for target in &self.targets {
            println!(
                "  {:<58} {:>8.2} of at most {:>7.2} {:<5} {}",
                target.name,
                target.measured,
                target.bound,
                target.unit,
                if target.met { "met" } else { "MISSED" }
            );
        }
    }
}
