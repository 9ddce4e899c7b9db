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

    /// Returns the quartiles: half of the values lie between them.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let value = |place: usize| self.0.get(place).copied().unwrap_or(f64::NAN);
        (value(self.0.len() / 4), value(self.0.len() * 3 / 4))
    }
}

/// Measurements, each with one of its baseline that was taken just before: on a machine whose speed
/// changes from one moment to the next, the two still belong together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    /// Adds a measurement and its baseline.
    pub(crate) fn add(&mut self, baseline: f64, measured: f64) {
        self.0.push((baseline, measured));
    }

    /// Returns how many times its baseline each measurement is.
    pub(crate) fn ratios(&self) -> Sample {
        self.collect(self.0.len(), |baseline, measured| measured / baseline)
    }

    /// Returns by how much each measurement is above its baseline, in the quarter of them that had
    /// the fastest baselines: a duration says something only of a machine that is at rest.
    pub(crate) fn differences_at_rest(&self) -> Sample {
        self.collect(self.at_rest(), |baseline, measured| measured - baseline)
    }

    /// Returns the measurements of the same quarter.
    pub(crate) fn measured_at_rest(&self) -> Sample {
        self.collect(self.at_rest(), |_, measured| measured)
    }

    fn at_rest(&self) -> usize {
        self.0.len().div_ceil(4)
    }

    /// Returns `value` of the pairs with the `count` fastest baselines.
    fn collect(&self, count: usize, value: impl Fn(f64, f64) -> f64) -> Sample {
        let mut pairs = self.0.clone();
        pairs.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut sample = Sample::default();
        for (baseline, measured) in pairs.into_iter().take(count) {
            sample.add(value(baseline, measured));
        }
        sample
    }
}

/// A promise: a figure, and the most that it may be.
#[derive(Clone, Debug, Serialize)]
struct Target {
    name: String,
    unit: &'static str,
    measured: f64,
    /// The quartiles.
    spread: (f64, f64),
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

    /// Compares the median of a figure with the most that it may be.
    pub(crate) fn at_most(
        &mut self,
        name: String,
        sample: &Sample,
        bound: f64,
        unit: &'static str,
    ) {
        let measured = sample.median();
        self.targets.push(Target {
            name,
            unit,
            measured,
            spread: sample.spread(),
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
                "  {:<66} {:>7.2} of at most {:>6.2} {:<3} ({:.2} to {:.2}) {}",
                target.name,
                target.measured,
                target.bound,
                target.unit,
                target.spread.0,
                target.spread.1,
                if target.met { "met" } else { "MISSED" }
            );
        }
    }
}
