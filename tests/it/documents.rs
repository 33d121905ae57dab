//! The documents: what they link to is there.

use std::path::Path;

/// Targets of Markdown links that are no web addresses, without their fragment.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets
        .map(|(target, _)| target.split('#').next().unwrap_or("").to_owned())
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents: Vec<_> = ["README.md", "README.fr.md", "CHANGELOG.md"]
        .map(|name| root.join(name))
        .into();
    let docs = std::fs::read_dir(root.join("docs")).unwrap();
    documents.extend(
        docs.map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "md")),
    );
    let mut checked = 0;
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for link in links(&text) {
            let target = document.parent().unwrap().join(&link);
            assert!(
                target.exists(),
                "{} links to {link}, which is not there",
                document.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} links were found");
    assert_eq!(links("[a](b.md#c) [d](https://e) [f](#g)"), ["b.md"]);
}

/// The table of faults names every case, every test as it is called, which of them are long, and every broken build.
#[test]
fn the_fault_table_is_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let table = read("docs/faults.md");
    let mut cases = std::collections::BTreeSet::new();
    for line in table.lines().filter(|line| line.starts_with("| ")) {
        let numbers = line.split('|').nth(1).unwrap().trim();
        let parse = |text: &str| text.trim().parse::<u32>().ok();
        match numbers.split_once(" to ") {
            Some((first, last)) => cases.extend(parse(first).unwrap_or(1)..=parse(last).unwrap_or(0)),
            None => cases.extend(numbers.split(',').filter_map(parse)),
        }
    }
    assert_eq!(cases, (1..=60).collect());
    let mut tests = 0;
    for (before, rest) in table.match_indices("](../").map(|(at, _)| table.split_at(at)) {
        let name = before.rsplit_once('[').unwrap().1;
        let (file, after) = rest["](../".len()..].split_once(')').unwrap();
        if !name.contains('_') {
            continue;
        }
        let source = read(file);
        let (head, _) = source
            .split_once(&format!("fn {name}("))
            .unwrap_or_else(|| panic!("{file} has no test {name}"));
        let attributes = head.rsplit_once("\n\n").map_or(head, |(_, last)| last);
        assert!(attributes.contains("test"), "{name} is no test: {attributes}");
        assert_eq!(
            attributes.contains("#[ignore"),
            after.starts_with(" (long)"),
            "{name} is long, or is not"
        );
        tests += 1;
    }
    assert!(tests >= 60, "only {tests} tests");
    let broken = read("scripts/broken-builds");
    for rule in broken
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once('|'))
    {
        assert!(
            table.contains(&format!("`{}`", rule.0)),
            "{} is not in the table",
            rule.0
        );
        let test = rule.1.split('|').nth(1).unwrap().trim_end_matches('"');
        assert!(table.contains(test), "{test} is not in the table");
    }
}
