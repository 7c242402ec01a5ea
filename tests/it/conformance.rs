//! docs/conformance.md says of every case which tests show it, docs/bypass-classes.md the same of every way to bypass a
//! gateway. Here the documents are held against the tests that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The functions marked as tests below a folder.
fn tests_of(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_of(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            let mut marked = false;
            for line in source.lines().map(str::trim) {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    marked = true;
                } else if let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("async fn "))
                    && std::mem::take(&mut marked)
                {
                    found.insert(rest.split('(').next().unwrap().to_owned());
                }
            }
        }
    }
}

/// `AC9` as its family and its number.
fn id(word: &str) -> Option<(String, u32)> {
    let (family, number) = word.split_at(word.find(|c: char| c.is_ascii_digit())?);
    let known = ["A", "AC", "B", "CA", "F", "G", "IN", "J", "L", "M", "P", "R", "RV", "T", "X"];
    Some((family.to_owned(), number.parse().ok().filter(|_| known.contains(&family))?))
}

/// The cases that a test's name begins with: `t1_g11_methods`, `ca1_to_ca14_client_authentication`.
fn ids_in_name(name: &str) -> BTreeSet<(String, u32)> {
    let mut found = BTreeSet::new();
    let mut last: Option<(String, u32)> = None;
    let mut span = false;
    for word in name.split('_') {
        match (id(&word.to_uppercase()).filter(|_| !word.is_empty()), &last) {
            (Some((family, number)), Some((_, first))) if span => {
                found.extend((*first..=number).map(|n| (family.clone(), n)));
                (span, last) = (false, Some((family, number)));
            }
            (Some(case), _) => {
                found.insert(case.clone());
                last = Some(case);
            }
            (None, Some(_)) if word == "to" => span = true,
            _ => break,
        }
    }
    found
}

struct Row {
    ids: Vec<String>,
    state: String,
    shown_by: String,
}

/// The cells of a document's tables.
fn cells(document: &str) -> Vec<Vec<String>> {
    let document = std::fs::read_to_string(project(document)).unwrap();
    let cells = |line: &str| -> Vec<String> {
        // A bar within a cell is escaped.
        let line = line.replace("\\|", "\u{0}");
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
    };
    document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).map(cells).collect()
}

fn rows() -> Vec<Row> {
    let rows = cells("docs/conformance.md").into_iter();
    let rows = rows.filter(|row| row.len() == 5 && row[0] != "id" && !row[0].is_empty());
    rows.map(|row| Row {
        ids: row[0].split(' ').map(str::to_owned).collect(),
        state: row[3].clone(),
        shown_by: row[4].clone(),
    })
    .collect()
}

/// What stands between backticks.
fn named(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The classes that a test's name begins with: `class_04_05_encoded_delimiters`.
fn classes_in_name(name: &str) -> Vec<u32> {
    let Some(rest) = name.strip_prefix("class_") else { return Vec::new() };
    rest.split('_').map_while(|word| word.parse().ok()).collect()
}

#[test]
fn conformance_table() {
    let (mut all, mut black_box) = (BTreeSet::new(), BTreeSet::new());
    tests_of(&project("src"), &mut all);
    tests_of(&project("tests/it"), &mut black_box);
    all.extend(black_box.iter().cloned());
    assert!(black_box.contains("conformance_table") && all.len() > 300, "the tests are not found");

    let mut wrong = Vec::new();
    let mut shown: BTreeMap<(String, u32), BTreeSet<String>> = BTreeMap::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows() {
        let name = row.ids.join(" ");
        let tests = named(&row.shown_by);
        for test in &tests {
            if !all.contains(*test) && !project(test).exists() {
                wrong.push(format!("{name}: there is no test {test}"));
            }
        }
        let state = row.state.split([':', ';']).next().unwrap();
        match state {
            "done" | "part" if tests.is_empty() && !row.state.contains("not tested") => {
                wrong.push(format!("{name} is {state} and no test shows it"))
            }
            "done" | "part" | "later" | "does not arise" => {
                *counts.entry(state.to_owned()).or_default() += row.ids.len()
            }
            other => wrong.push(format!("{name}: what is {other:?}")),
        }
        for case in row.ids.iter().filter_map(|word| id(word)) {
            if shown.insert(case, tests.iter().map(|test| (*test).to_owned()).collect()).is_some() {
                wrong.push(format!("{name} has two rows"));
            }
        }
        println!("{name:<24} {:<6} {}", state, tests.join(" "));
    }
    // The other way round: a test that names a case stands in its row.
    for test in &black_box {
        for case in ids_in_name(test) {
            match shown.get(&case) {
                None => wrong.push(format!("{test}: there is no case {}{}", case.0, case.1)),
                Some(tests) if !tests.contains(test) => {
                    wrong.push(format!("{}{}: the row does not name {test}", case.0, case.1));
                }
                Some(_) => {}
            }
        }
    }
    println!("{counts:?}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn bypass_classes_table() {
    let mut all = BTreeSet::new();
    tests_of(&project("src"), &mut all);
    tests_of(&project("tests/it"), &mut all);
    let mut wrong = Vec::new();
    let mut shown: BTreeMap<u32, String> = BTreeMap::new();
    for row in cells("docs/bypass-classes.md").into_iter().filter(|row| row[0] != "class") {
        let Ok(class) = row[0].parse::<u32>() else {
            wrong.push(format!("{}: not a class", row[0]));
            continue;
        };
        let [_, tried, done, by] = row.as_slice() else {
            wrong.push(format!("{class}: {} cells", row.len()));
            continue;
        };
        // Those of introspection are shown elsewhere.
        let elsewhere = (45..=50).contains(&class) && by.starts_with("see ");
        if !elsewhere && (tried.is_empty() || done.is_empty() || named(by).is_empty()) {
            wrong.push(format!("{class}: says too little"));
        }
        wrong.extend(
            named(by).iter().filter(|test| !all.contains(**test)).map(|test| format!("{class}: no test {test}")),
        );
        if shown.insert(class, by.clone()).is_some() {
            wrong.push(format!("{class} has two rows"));
        }
    }
    wrong.extend((1..=60).filter(|class| !shown.contains_key(class)).map(|class| format!("{class} has no row")));
    wrong.extend(shown.keys().filter(|class| **class > 60).map(|class| format!("what is class {class}")));
    // The other way round: a test of a class stands in its row.
    for test in &all {
        for class in classes_in_name(test) {
            if !shown.get(&class).is_some_and(|by| named(by).contains(&test.as_str())) {
                wrong.push(format!("{class}: the row does not name {test}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
