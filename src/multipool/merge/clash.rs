//! Which of two sides gives way where both have changed the same rows. Pure: the caller reads and performs.
//!
//! Operations that share a row, directly or through others, are one *clash* and are decided together, so that an
//! operation gives way as a whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::open::KeyOps;
use crate::multipool::SideId;
use crate::multipool::conflicts::Rule;
use crate::multipool::journal::{Entry, Kind};

/// When an operation was made, comparable between sides: never two machines' wall clocks alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    /// The epoch its side stored.
    pub epoch: i64,
    /// That side's hybrid logical clock, in microseconds.
    pub clock: i64,
}

/// What is known about the two sides of a merge.
pub(super) struct Sides<'a> {
    pub other: SideId,
    /// Operations that changed each key on the leader, and are not known to be on the other side.
    pub on_lead: &'a KeyOps,
    /// What is open on the other side.
    pub on_other: &'a [Entry],
    /// The leader's operations that may give way: foreign writes, while both sides are active.
    pub may_yield: &'a BTreeSet<Uuid>,
    pub rules: &'a BTreeMap<String, Rule>,
    pub versions: &'a HashMap<Uuid, Version>,
}

/// Why a side was kept, as `kambana.conflict` stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub rule: String,
    /// A person has to decide.
    pub ask: bool,
}

/// Operations that give way, each with the reason.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub on_lead: BTreeMap<Uuid, Reason>,
    pub on_other: BTreeMap<Uuid, Reason>,
}

#[derive(Default)]
struct Clash {
    on_lead: BTreeSet<Uuid>,
    on_other: BTreeSet<Uuid>,
    tables: BTreeSet<String>,
}

/// Decides every clash.
pub(super) fn decide(sides: &Sides<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for clash in clashes(sides) {
        let (other_wins, reason) = judge(sides, &clash);
        let (losers, lost) = match other_wins {
            true => (&clash.on_lead, &mut verdict.on_lead),
            false => (&clash.on_other, &mut verdict.on_other),
        };
        lost.extend(losers.iter().map(|op| (*op, reason.clone())));
    }
    verdict
}

/// Whether the other side's writes win this clash, and why.
fn judge(sides: &Sides<'_>, clash: &Clash) -> (bool, Reason) {
    let because = |rule: &str, ask| Reason {
        rule: rule.to_owned(),
        ask,
    };
    let mut rules: Vec<Rule> = clash
        .tables
        .iter()
        .map(|table| sides.rules.get(table).copied().unwrap_or_default())
        .collect();
    rules.dedup();
    let rule = match rules[..] {
        [rule] => rule,
        // Rows of several tables, and their rules do not agree.
        _ => Rule::Ask,
    };
    if !clash.on_lead.is_subset(sides.may_yield) {
        return (false, because("pool", rule == Rule::Ask));
    }
    let newest = |ops: &BTreeSet<Uuid>| {
        let version = |op: &Uuid| sides.versions.get(op).copied().unwrap_or_default();
        ops.iter().map(version).max().unwrap_or_default()
    };
    let truncates = |of: &BTreeSet<Uuid>, truncating: &BTreeSet<Uuid>| !of.is_disjoint(truncating);
    let on_lead = sides.on_lead.iter().filter(|((_, key), _)| key.is_empty());
    let on_lead = truncates(
        &clash.on_lead,
        &on_lead.flat_map(|(_, ops)| ops).copied().collect(),
    );
    let on_other = sides.on_other.iter().filter(|e| e.kind == Kind::Truncate);
    let on_other = truncates(&clash.on_other, &on_other.map(|e| e.op).collect());
    match rule {
        Rule::Ask => (false, because("ask", true)),
        // A truncate keeps no image of rows that it has not seen: rows outlive it.
        Rule::Newest if on_lead != on_other => (on_lead, because("newest", false)),
        Rule::Side(side) => (side == sides.other, because(&side.to_string(), false)),
        Rule::Newest => (
            newest(&clash.on_other) > newest(&clash.on_lead),
            because("newest", false),
        ),
    }
}

/// The groups of operations that are connected by rows and of which both sides have some.
fn clashes(sides: &Sides<'_>) -> Vec<Clash> {
    let mut groups = Groups::default();
    let truncated: BTreeSet<&str> = sides
        .on_other
        .iter()
        .filter(|e| e.kind == Kind::Truncate)
        .map(|e| e.table.as_str())
        .chain(
            sides
                .on_lead
                .keys()
                .filter(|(_, key)| key.is_empty())
                .map(|(table, _)| table.as_str()),
        )
        .collect();
    // A truncate concerns every row of its table.
    let place = |table: &str, key: &str| match truncated.contains(table) {
        true => (table.to_owned(), String::new()),
        false => (table.to_owned(), key.to_owned()),
    };
    let shared: BTreeSet<Uuid> = sides.on_lead.values().flatten().copied().collect();
    for ((table, key), ops) in sides.on_lead {
        for op in ops {
            groups.join(place(table, key), Node::Lead(*op));
        }
    }
    for entry in sides.on_other.iter().filter(|e| !shared.contains(&e.op)) {
        for key in entry.keys() {
            groups.join(place(&entry.table, key), Node::Other(entry.op));
        }
    }
    let mut found: BTreeMap<usize, Clash> = BTreeMap::new();
    for (node, group) in groups.members() {
        let clash = found.entry(group).or_default();
        match node {
            Node::Lead(op) => clash.on_lead.insert(op),
            Node::Other(op) => clash.on_other.insert(op),
        };
    }
    for ((table, _), group) in groups.places() {
        found.entry(group).or_default().tables.insert(table);
    }
    found
        .into_values()
        .filter(|clash| !clash.on_lead.is_empty() && !clash.on_other.is_empty())
        .collect()
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Lead(Uuid),
    Other(Uuid),
}

/// Operations grouped by the rows they share (union-find).
#[derive(Default)]
struct Groups {
    parents: Vec<usize>,
    by_place: BTreeMap<(String, String), usize>,
    by_node: BTreeMap<Node, usize>,
}

impl Groups {
    fn join(&mut self, place: (String, String), node: Node) {
        let fresh = self.parents.len();
        self.parents.extend([fresh, fresh + 1]);
        let place = *self.by_place.entry(place).or_insert(fresh);
        let node = *self.by_node.entry(node).or_insert(fresh + 1);
        let (x, y) = (self.root(place), self.root(node));
        self.parents[x] = y;
    }

    fn root(&self, mut at: usize) -> usize {
        while self.parents[at] != at {
            at = self.parents[at];
        }
        at
    }

    fn members(&self) -> impl Iterator<Item = (Node, usize)> {
        self.by_node.iter().map(|(node, at)| (*node, self.root(*at)))
    }

    fn places(&self) -> impl Iterator<Item = ((String, String), usize)> {
        self.by_place
            .iter()
            .map(|(place, at)| (place.clone(), self.root(*at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn entry(n: u128, key: &str) -> Entry {
        Entry {
            lane: 0,
            batch: 1,
            op: op(n),
            table: "t".into(),
            kind: if key.is_empty() {
                Kind::Truncate
            } else {
                Kind::Update
            },
            key: key.into(),
            old_key: None,
            image: None,
        }
    }

    /// Decides with the leader's keys and the other side's, each as (operation, key), and one rule.
    fn decided(lead: &[(u128, &str)], other: &[(u128, &str)], rule: Rule, yields: &[u128]) -> Verdict {
        let mut on_lead = KeyOps::new();
        for (n, key) in lead {
            let ops = on_lead.entry(("t".into(), (*key).into())).or_default();
            ops.push(op(*n));
        }
        let on_other: Vec<Entry> = other.iter().map(|(n, key)| entry(*n, key)).collect();
        // A higher operation is a newer one.
        let all = lead.iter().chain(other).map(|(n, _)| *n);
        let versions = all
            .map(|n| {
                let clock = n as i64;
                (op(n), Version { epoch: 1, clock })
            })
            .collect();
        decide(&Sides {
            other: SideId::from_index(1).unwrap(),
            on_lead: &on_lead,
            on_other: &on_other,
            may_yield: &yields.iter().map(|n| op(*n)).collect(),
            rules: &BTreeMap::from([("t".to_owned(), rule)]),
            versions: &versions,
        })
    }

    fn losers(lost: &BTreeMap<Uuid, Reason>) -> Vec<u128> {
        lost.keys().map(|op| op.as_u128()).collect()
    }

    #[test]
    fn an_operation_gives_way_as_a_whole_and_takes_its_neighbours_along() {
        let other = [(1, "(1)"), (1, "(2)"), (2, "(3)"), (3, "(4)"), (4, "(1)")];
        let verdict = decided(&[(9, "(2)"), (3, "(4)")], &other, Rule::Newest, &[]);
        assert_eq!(
            losers(&verdict.on_other),
            [1, 4],
            "2 is open on one side only, 3 is the same operation; 4 changed a row of 1"
        );
        assert!(verdict.on_lead.is_empty());
        let truncated = decided(&[(9, "")], &other, Rule::Newest, &[]);
        assert_eq!(losers(&truncated.on_other), [1, 2, 3, 4]);
        let truncates = decided(&[(3, "(7)")], &[(5, "")], Rule::Newest, &[3]);
        assert_eq!(losers(&truncates.on_other), [5], "rows outlive a newer truncate");
        let truncates = decided(&[(3, "")], &[(5, "")], Rule::Newest, &[3]);
        assert_eq!(
            losers(&truncates.on_lead),
            [3],
            "of two truncates the newer counts"
        );
    }

    #[test]
    fn the_rule_of_the_table_decides_between_foreign_writes() {
        let clash = |rule, yields: &[u128]| decided(&[(5, "(1)")], &[(6, "(1)")], rule, yields);
        let [a, b] = [0, 1].map(|n| SideId::from_index(n).unwrap());
        let reason = |rule: &str, ask| Reason {
            rule: rule.into(),
            ask,
        };
        assert_eq!(losers(&clash(Rule::Newest, &[5]).on_lead), [5]);
        assert_eq!(losers(&clash(Rule::Side(b), &[5]).on_lead), [5]);
        assert_eq!(clash(Rule::Side(a), &[5]).on_other[&op(6)], reason("a", false));
        assert_eq!(clash(Rule::Ask, &[5]).on_other[&op(6)], reason("ask", true));
        // What the pool wrote on its leader stays there.
        assert_eq!(clash(Rule::Side(b), &[]).on_other[&op(6)], reason("pool", false));
        let older = decided(&[(7, "(1)")], &[(6, "(1)")], Rule::Newest, &[7]);
        assert_eq!(losers(&older.on_other), [6]);
    }
}
