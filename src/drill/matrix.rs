//! Many drills in one table: which fault, on which part, how often, with which worst gap and which losses. Made from the
//! JSON of the runs, never by hand.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What many runs of one kind of fault on one part came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cell {
    faults: u64,
    worst_gap_ms: u64,
    slow: u64,
    failed: u64,
    unhealed: u64,
}

/// What all runs came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    runs: u64,
    broken: Vec<u64>,
    minutes: f64,
    acknowledged: u64,
    reads: u64,
    wrong: BTreeMap<String, u64>,
    /// Programs and machines that took part.
    versions: BTreeSet<String>,
    /// By kind of fault, then by part.
    cells: BTreeMap<String, BTreeMap<String, Cell>>,
    parts: BTreeSet<String>,
}

impl Matrix {
    /// Adds the JSON of one drill.
    ///
    /// # Errors
    /// It is not one.
    pub fn add(&mut self, report: &Value) -> Result<(), String> {
        let number = |value: &Value, what: &str| {
            value
                .as_u64()
                .ok_or(format!("not the JSON of a drill: no {what}"))
        };
        let verdict = &report["verdict"];
        self.acknowledged += number(&verdict["acknowledged"], "acknowledged")?;
        self.reads += number(&verdict["reads"], "reads")?;
        self.minutes += number(&report["length_ms"], "length_ms")? as f64 / 60_000.0;
        self.runs += 1;
        if report["fine"] != true {
            self.broken.push(number(&report["seed"], "seed")?);
        }
        for (wrong, count) in verdict["wrong"].as_object().into_iter().flatten() {
            *self.wrong.entry(wrong.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        let machine = &report["machine"];
        let postgresql = machine["postgresql"].as_object().into_iter().flatten();
        let postgresql: BTreeSet<&str> = postgresql.filter_map(|(_, version)| version.as_str()).collect();
        self.versions.insert(format!(
            "Kambana {} (commit {}), PostgreSQL {}, {} cores, {}",
            report["kambana"].as_str().unwrap_or("?"),
            report["commit"].as_str().unwrap_or("not named"),
            postgresql.into_iter().collect::<Vec<_>>().join(" and "),
            machine["cores"],
            machine["system"].as_str().unwrap_or("?"),
        ));
        for fault in report["faults"].as_array().into_iter().flatten() {
            self.add_fault(fault);
        }
        Ok(())
    }

    fn add_fault(&mut self, fault: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let deeds = fault["deeds"].as_array();
        let targets: BTreeSet<String> = deeds
            .into_iter()
            .flatten()
            .map(|deed| text(&deed["target"]))
            .collect();
        let part = targets.into_iter().collect::<Vec<_>>().join("+");
        self.parts.insert(part.clone());
        let row = self.cells.entry(text(&fault["kind"])).or_default();
        let cell = row.entry(part).or_default();
        let gap = fault["gap_ms"].as_u64().unwrap_or(0);
        cell.faults += 1;
        cell.worst_gap_ms = cell.worst_gap_ms.max(gap);
        cell.slow += u64::from(fault["budget_ms"].as_u64().is_some_and(|budget| gap > budget));
        if fault["may_fail"] != true {
            cell.failed += fault["failed"].as_u64().unwrap_or(0);
        }
        cell.unhealed += u64::from(fault["healed_ms"].is_null());
    }

    /// Whether every run kept every promise.
    pub fn is_fine(&self) -> bool {
        self.runs > 0 && self.broken.is_empty()
    }

    /// As Markdown.
    pub fn to_markdown(&self) -> String {
        let count = |wrong: &str| self.wrong.get(wrong).copied().unwrap_or(0);
        let faults: u64 = self
            .cells
            .values()
            .flat_map(|row| row.values())
            .map(|cell| cell.faults)
            .sum();
        let mut text = String::new();
        for version in &self.versions {
            text.push_str(&format!("{version}\n"));
        }
        text.push_str(&format!(
            "\n{} runs, {:.0} minutes, {faults} faults: acknowledged {}, lost {}, doubled {}, different {}, untrue answers {}, \
             stale reads {} of {}, not final {}, failed requests {}, not healed {}\n",
            self.runs,
            self.minutes,
            self.acknowledged,
            count("lost"),
            count("doubled"),
            count("different"),
            count("untrue"),
            count("stale"),
            self.reads,
            count("open"),
            count("failed"),
            count("unhealed"),
        ));
        if !self.broken.is_empty() {
            let seeds: Vec<String> = self.broken.iter().map(u64::to_string).collect();
            text.push_str(&format!("a promise was broken with seed {}\n", seeds.join(", ")));
        }
        text.push_str(&format!(
            "\n| fault | {} |\n|---|",
            self.parts.iter().cloned().collect::<Vec<_>>().join(" | ")
        ));
        text.push_str(&"---|".repeat(self.parts.len()));
        text.push('\n');
        for (kind, row) in &self.cells {
            let cells = self
                .parts
                .iter()
                .map(|part| row.get(part).map(shown).unwrap_or_default());
            text.push_str(&format!(
                "| {kind} | {} |\n",
                cells.collect::<Vec<_>>().join(" | ")
            ));
        }
        text.push_str("\nA cell: how often, and the worst time without an acknowledged write.\n");
        text
    }
}

fn shown(cell: &Cell) -> String {
    let mut text = format!("{} × {:.1} s", cell.faults, cell.worst_gap_ms as f64 / 1000.0);
    for (count, what) in [
        (cell.slow, "over budget"),
        (cell.failed, "failed requests"),
        (cell.unhealed, "NOT HEALED"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(seed: u64, fine: bool, gap: u64) -> Value {
        let deed = |target: &str| json!({"at_ms": 1, "action": "crash", "target": target});
        json!({
            "kambana": "0.1.0", "commit": "abc", "seed": seed, "fine": fine, "length_ms": 60_000,
            "machine": {"cores": 2, "system": "linux", "postgresql": {"a": "15.1", "b": "15.1"}},
            "verdict": {"acknowledged": 10, "reads": 5, "wrong": if fine { json!({}) } else { json!({"lost": 2}) }},
            "faults": [
                {"kind": "crash-side", "deeds": [deed("a"), deed("a")], "gap_ms": gap, "budget_ms": 1000, "healed_ms": 9,
                 "may_fail": false, "failed": 0},
                {"kind": "crash-both-sides", "deeds": [deed("b"), deed("a")], "gap_ms": 5000, "budget_ms": null,
                 "healed_ms": 9, "may_fail": true, "failed": 7},
            ],
        })
    }

    #[test]
    fn runs_add_up() {
        let mut matrix = Matrix::default();
        assert!(!matrix.is_fine(), "no run proves nothing");
        matrix.add(&report(1, true, 300)).unwrap();
        assert!(matrix.is_fine());
        matrix.add(&report(2, false, 1500)).unwrap();
        assert!(!matrix.is_fine());
        let text = matrix.to_markdown();
        assert!(
            text.contains("2 runs, 2 minutes, 4 faults: acknowledged 20, lost 2, doubled 0"),
            "{text}"
        );
        assert!(text.contains("| fault | a | a+b |\n|---|---|---|\n"), "{text}");
        assert!(
            text.contains("| crash-side | 2 × 1.5 s, 1 over budget |  |"),
            "{text}"
        );
        assert!(text.contains("| crash-both-sides |  | 2 × 5.0 s |"), "{text}");
        assert!(text.contains("broken with seed 2"), "{text}");
        assert!(matrix.add(&json!({})).is_err());
    }
}
