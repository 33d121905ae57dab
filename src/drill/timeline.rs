//! The run in slices of time: pure geometry for the page. Positions are thousandths of the length of the run.

use std::collections::BTreeMap;
use std::time::Duration;

use super::verdict::FaultDone;

/// One slice.
pub const SLICE: Duration = Duration::from_millis(100);
/// As many columns as a wide screen can show apart.
const COLUMNS: usize = 500;
/// Times without success that are worth a mark.
const MARKED_GAP: Duration = Duration::from_millis(300);

/// How many successes fell into each slice of a run that took `length`.
pub fn slices(successes: &[Duration], length: Duration) -> Vec<u32> {
    let mut slices = vec![0; (length.as_millis() / SLICE.as_millis()) as usize + 1];
    for time in successes {
        if let Some(slice) = slices.get_mut((time.as_millis() / SLICE.as_millis()) as usize) {
            *slice += 1;
        }
    }
    slices
}

/// A stretch of time.
#[derive(Clone, Debug, PartialEq)]
pub struct Stretch {
    /// Where it begins.
    pub x: f64,
    /// How long it is; never too short to be seen.
    pub width: f64,
    /// What it is.
    pub class: &'static str,
    /// For who points at it.
    pub title: String,
}

/// Turns times into positions.
#[derive(Clone, Copy, Debug)]
pub struct Scale(Duration);

impl Scale {
    /// Of a run that took `length`.
    pub fn new(length: Duration) -> Scale {
        Scale(length.max(Duration::from_millis(1)))
    }

    /// Where `time` is.
    pub fn x(self, time: Duration) -> f64 {
        let x = 1000.0 * time.as_secs_f64() / self.0.as_secs_f64();
        (x.min(1000.0) * 10.0).round() / 10.0
    }

    /// From one time to another.
    pub fn stretch(self, from: Duration, to: Duration, class: &'static str, title: String) -> Stretch {
        let x = self.x(from);
        Stretch {
            x,
            width: ((self.x(to) - x).max(1.5) * 10.0).round() / 10.0,
            class,
            title,
        }
    }

    /// Round times for the axis, with their labels.
    pub fn ticks(self) -> Vec<(f64, String)> {
        let steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
        let seconds = self.0.as_secs();
        let step = steps.into_iter().find(|step| seconds / step <= 8).unwrap_or(7200);
        (0..=seconds / step)
            .map(|n| (self.x(Duration::from_secs(n * step)), minutes(n * step)))
            .collect()
    }
}

/// `m:ss`.
pub fn minutes(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Outline of the successes per slice as a path in a box of 1000 x 100, and the highest value.
pub fn outline(slices: &[u32]) -> (String, u32) {
    // The last slice is not a whole one.
    let slices = &slices[..slices.len().saturating_sub(1)];
    let together = slices.len().div_ceil(COLUMNS).max(1);
    let columns: Vec<f64> = slices
        .chunks(together)
        .map(|chunk| f64::from(chunk.iter().sum::<u32>()) / chunk.len() as f64)
        .collect();
    let top = columns.iter().fold(1.0, |top: f64, column| top.max(*column));
    let width = 1000.0 / columns.len().max(1) as f64;
    let mut path = String::from("M0 100");
    for (n, column) in columns.iter().enumerate() {
        let (left, right) = (n as f64 * width, (n + 1) as f64 * width);
        let y = 100.0 - 100.0 * column / top;
        path.push_str(&format!("L{left:.1} {y:.1}L{right:.1} {y:.1}"));
    }
    path.push_str("L1000 100Z");
    (path, top.ceil() as u32)
}

/// Times without any success that are long enough to be marked.
pub fn gaps(slices: &[u32], scale: Scale) -> Vec<Stretch> {
    let mut gaps = Vec::new();
    let first = slices.iter().position(|n| *n > 0).unwrap_or(slices.len());
    let last = slices.iter().rposition(|n| *n > 0).unwrap_or(0);
    let mut from = None;
    for n in first..=last {
        match (slices.get(n), from) {
            (Some(0), None) => from = Some(n),
            (Some(1..), Some(began)) => {
                let length = SLICE * (n - began) as u32;
                if length >= MARKED_GAP {
                    let title = format!("about {:.1} s without a write", length.as_secs_f64());
                    let time = |n: usize| SLICE * n as u32;
                    gaps.push(scale.stretch(time(began), time(n), "gap", title));
                }
                from = None;
            }
            _ => {}
        }
    }
    gaps
}

/// When each part did not run, by its name.
pub fn broken(faults: &[FaultDone], scale: Scale) -> BTreeMap<String, Vec<Stretch>> {
    let mut lanes: BTreeMap<String, Vec<Stretch>> = BTreeMap::new();
    for fault in faults {
        let mut open: BTreeMap<&str, (Duration, &str)> = BTreeMap::new();
        let mut end = |target: &str, from, to, action: &str| {
            let (class, word) = match action {
                "freeze" => ("frozen", "frozen"),
                "stop" => ("stopped", "stopped"),
                "wipe" => ("dead", "wiped"),
                _ => ("dead", "crashed"),
            };
            let title = format!("{target} {word} at {}", minutes(Duration::as_secs(&from)));
            let lane = lanes.entry(target.to_owned()).or_default();
            lane.push(scale.stretch(from, to, class, title));
        };
        for deed in &fault.deeds {
            if let Some((from, action)) = open.remove(deed.target.as_str()) {
                end(&deed.target, from, deed.at, action);
            }
            if !matches!(deed.action.as_str(), "start" | "thaw") {
                open.insert(&deed.target, (deed.at, &deed.action));
            }
        }
        for (target, (from, action)) in open {
            end(target, from, fault.mended, action);
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn successes_in_slices() {
        let times = [0, 50, 99, 100, 750, 1050].map(Duration::from_millis);
        assert_eq!(slices(&times, s(1)), [3, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1]);
        let found = gaps(&slices(&times, s(1)), Scale::new(s(1)));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].x, found[0].width), (200.0, 500.0));
        assert!(gaps(&[], Scale::new(s(0))).is_empty());
    }

    #[test]
    fn the_outline_stays_in_its_box() {
        let (path, top) = outline(&vec![7; 10_000]);
        assert_eq!(top, 7);
        assert!(path.starts_with("M0 100L0.0 0.0L2.0 0.0"), "{}", &path[..40]);
        assert_eq!(outline(&[]).1, 1);
    }

    #[test]
    fn ticks_are_few_and_round() {
        assert_eq!(Scale::new(s(4)).ticks().len(), 5);
        let ticks = Scale::new(s(300)).ticks();
        assert!((4..=9).contains(&ticks.len()), "{ticks:?}");
        assert_eq!(ticks[1], (200.0, "1:00".to_owned()));
    }
}
