//! The figures: what was measured of whom, how the two compare, what is aimed at.

use anyhow::Result;
use serde_json::{Map, Value, json};

/// How a figure is judged.
#[derive(Clone, Copy)]
enum Judged {
    /// The more the better: the ratio is ours by theirs, and at least this.
    Rate(f64),
    /// The less the better: the ratio is theirs by ours, and at least this.
    Time(f64),
    /// Ours alone, and at most this.
    AtMost(f64),
    /// Stands beside one that is judged; the less the better.
    Beside,
}

/// Every figure, without the file that it is of.
const KINDS: [(&str, Judged); 12] = [
    ("decode_1t", Judged::Rate(1.0)),
    ("decode_2t", Judged::Rate(1.0)),
    ("prefill256_1t", Judged::Rate(1.0)),
    ("prefill256_2t", Judged::Rate(1.0)),
    ("prefill2048_2t", Judged::Rate(1.0)),
    ("users8_total_tok_s", Judged::Rate(1.0)),
    ("users8_ttft", Judged::Time(1.0)),
    ("users8_ttft_first", Judged::Beside),
    ("users8_ttft_later", Judged::Beside),
    ("ttft_turn2_over_turn1", Judged::AtMost(0.1)),
    ("rss_over_weights", Judged::AtMost(1.1)),
    ("idle_cpu_percent", Judged::AtMost(1.0)),
];

/// In the order in which they were first measured.
#[derive(Default)]
pub(super) struct Figures {
    rows: Vec<Row>,
    failures: Vec<String>,
}

#[derive(Default)]
struct Row {
    figure: String,
    ours: Vec<f64>,
    /// What the other engine did in each of the ways in which it was run.
    theirs: Vec<(&'static str, Vec<f64>)>,
}

impl Figures {
    pub(super) fn ours(&mut self, figure: &str, samples: &[f64]) {
        self.row(figure).ours.extend_from_slice(samples);
    }

    pub(super) fn theirs(&mut self, figure: &str, variant: &'static str, samples: &[f64]) {
        let theirs = &mut self.row(figure).theirs;
        match theirs.iter_mut().find(|(name, _)| *name == variant) {
            Some((_, all)) => all.extend_from_slice(samples),
            None => theirs.push((variant, samples.to_vec())),
        }
    }

    /// A measurement that fails is said and counted, and the others go on.
    pub(super) fn attempt(&mut self, what: &str, measure: impl FnOnce(&mut Self) -> Result<()>) {
        println!("  {what}");
        if let Err(error) = measure(self) {
            eprintln!("not measured: {what}: {error:#}");
            self.failures.push(format!("{what}: {error:#}"));
        }
    }

    pub(super) fn missing(&self) -> usize {
        self.failures.len()
    }

    pub(super) fn table(&self) -> String {
        let columns = ["figure", "ours", "theirs", "ratio", "aim"];
        let [figure, ours, theirs, ratio, aim] = columns;
        let mut table = format!("{figure:<32} {ours:>10} {theirs:>10} {ratio:>7}  {aim}\n");
        for row in &self.rows {
            let shown = |value: Option<f64>| value.map(short).unwrap_or_else(|| "-".into());
            let (ours, theirs) = (shown(row.own()), shown(row.other().map(|(_, value)| value)));
            let ratio = shown(row.ratio());
            let verdict = row.verdict();
            let line = format!("{:<32} {ours:>10} {theirs:>10} {ratio:>7}  {verdict}", row.figure);
            table += line.trim_end();
            table.push('\n');
        }
        table
    }

    /// `{"machine": …, "q4_1.decode_1t": {"ours": …, "theirs": …, "ratio": …, "aim": …, …}, …, "failures": […]}`
    pub(super) fn report(&self, machine: Value) -> Value {
        let mut report = Map::new();
        report.insert("machine".into(), machine);
        report.extend(self.rows.iter().map(|row| (row.figure.clone(), row.json())));
        report.insert("failures".into(), json!(self.failures));
        Value::Object(report)
    }

    fn row(&mut self, figure: &str) -> &mut Row {
        let at = self.rows.iter().position(|row| row.figure == figure).unwrap_or_else(|| {
            self.rows.push(Row { figure: figure.to_owned(), ..Row::default() });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }
}

impl Row {
    fn judged(&self) -> Judged {
        let name = self.figure.split_once('.').map_or("", |(_, name)| name);
        KINDS.iter().find(|(kind, _)| *kind == name).map_or(Judged::Beside, |(_, judged)| *judged)
    }

    fn own(&self) -> Option<f64> {
        median(&self.ours)
    }

    /// The way in which the other engine did best, and how it did.
    fn other(&self) -> Option<(&'static str, f64)> {
        let medians = self.theirs.iter().filter_map(|(name, samples)| Some((*name, median(samples)?)));
        match self.judged() {
            Judged::Rate(_) => medians.max_by(|a, b| a.1.total_cmp(&b.1)),
            _ => medians.min_by(|a, b| a.1.total_cmp(&b.1)),
        }
    }

    /// Above 1 where ours is better.
    fn ratio(&self) -> Option<f64> {
        let (ours, (_, theirs)) = (self.own()?, self.other()?);
        match self.judged() {
            Judged::Rate(_) => Some(ours / theirs),
            _ => Some(theirs / ours),
        }
    }

    fn verdict(&self) -> String {
        let (aim, met) = match self.judged() {
            Judged::Beside => return String::new(),
            Judged::Rate(aim) | Judged::Time(aim) => {
                (format!(">= {aim}"), self.ratio().map(|ratio| ratio >= aim))
            }
            Judged::AtMost(aim) => (format!("<= {aim}"), self.own().map(|ours| ours <= aim)),
        };
        aim + match met {
            Some(true) => "",
            Some(false) => "  missed",
            None => "  not measured",
        }
    }

    fn json(&self) -> Value {
        let mut row = json!({ "ours": self.own() });
        if let Some((variant, theirs)) = self.other() {
            row["theirs"] = json!(theirs);
            row["ratio"] = json!(self.ratio());
            row["theirs_with"] = json!(variant);
        }
        if let Judged::Rate(aim) | Judged::Time(aim) | Judged::AtMost(aim) = self.judged() {
            row["aim"] = json!(aim);
        }
        row["ours_samples"] = json!(self.ours);
        for (variant, samples) in &self.theirs {
            row["theirs_samples"][*variant] = json!(samples);
        }
        row
    }
}

/// `None` of nothing.
fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Three digits or more.
fn short(value: f64) -> String {
    let decimals = if value >= 100.0 { 0 } else { 2 };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        figures.ours("q8_0.decode_1t", &[90.0, 100.0, 500.0]);
        figures.theirs("q8_0.decode_1t", "a", &[40.0, 60.0]);
        figures.theirs("q8_0.decode_1t", "b", &[200.0]);
        figures.theirs("q8_0.decode_1t", "a", &[1000.0]);
        figures.ours("q8_0.users8_ttft", &[0.5]);
        figures.theirs("q8_0.users8_ttft", "a", &[2.0]);
        figures.ours("q8_0.idle_cpu_percent", &[0.25, 0.75]);
        figures
    }

    #[test]
    fn the_other_engine_is_judged_by_its_best_way() {
        let report = figures().report(json!({}));
        let check = |figure: &str, key: &str, expected: Value| assert_eq!(report[figure][key], expected);
        check("q8_0.decode_1t", "ours", json!(100.0));
        check("q8_0.decode_1t", "theirs", json!(200.0));
        check("q8_0.decode_1t", "theirs_with", json!("b"));
        check("q8_0.decode_1t", "ratio", json!(0.5));
        check("q8_0.users8_ttft", "ratio", json!(4.0));
        check("q8_0.idle_cpu_percent", "ours", json!(0.5));
        check("q8_0.idle_cpu_percent", "theirs", Value::Null);
    }

    #[test]
    fn what_misses_its_aim_says_so() {
        let mut figures = figures();
        figures.theirs("q8_0.prefill256_1t", "a", &[1.0]);
        let table = figures.table();
        let line = |name: &str| table.lines().find(|line| line.contains(name)).unwrap();
        assert!(line("decode_1t").ends_with(">= 1  missed"), "{table}");
        assert!(line("users8_ttft").ends_with(">= 1"), "{table}");
        assert!(line("idle_cpu_percent").ends_with("<= 1"), "{table}");
        assert!(line("prefill256_1t").ends_with(">= 1  not measured"), "{table}");
    }
}
