//! What the project is built from, held against `deny.toml`: what of it can be known without `cargo deny` and without a
//! network.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::support::Wrong;

#[test]
fn licences_bans_and_sources_are_as_agreed() {
    let policy: toml::Table = include_str!("../../deny.toml").parse().unwrap();
    let list = |table: &str, key: &str| policy[table][key].as_array().unwrap().clone();
    let crates = |key: &str| -> Vec<String> {
        list("bans", key).iter().map(|entry| entry["crate"].as_str().unwrap().to_owned()).collect()
    };
    let allowed: Vec<String> =
        list("licenses", "allow").iter().map(|licence| licence.as_str().unwrap().to_owned()).collect();
    let (denied, twice) = (crates("deny"), crates("skip"));

    let mut wrong = Wrong::default();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Package { name, version, from, licence } in packages() {
        wrong.ok(&name, satisfies(&licence, &allowed), format!("the licence {licence:?}"));
        wrong.ok(&name, !denied.contains(&name), "is banned");
        // A registry other than crates.io, a repository or a folder is named.
        wrong.ok(&name, from.is_empty() || name == "tollgate", format!("comes from {from}"));
        if !twice.iter().any(|skip| skip.split_once('@').is_some_and(|(own, old)| own == name && is_of(&version, old)))
        {
            versions.entry(name).or_default().insert(version);
        }
    }
    assert!(versions.len() > 150, "{} crates are too few to be all", versions.len());
    for (name, versions) in versions {
        wrong.ok(&name, versions.len() == 1, format!("stands there as {versions:?}"));
    }
    wrong.done();
}

struct Package {
    name: String,
    version: String,
    /// Empty for crates.io.
    from: String,
    licence: String,
}

/// Everything that is built for this machine, for the tests too.
fn packages() -> Vec<Package> {
    let args = ["tree", "--locked", "--offline", "-e", "normal,build,dev", "--prefix", "none", "--format", "{p}|{l}"];
    let output = Command::new(env!("CARGO")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let package = |line: &str| {
        let (package, licence) = line.trim_end_matches(" (*)").split_once('|').unwrap();
        let mut words = package.split(' ').map(str::to_owned);
        let (name, version) = (words.next().unwrap(), words.next().unwrap().trim_start_matches('v').to_owned());
        let from: Vec<String> = words.filter(|word| word != "(proc-macro)").collect();
        Package { name, version, from: from.join(" "), licence: licence.to_owned() }
    };
    text.lines().filter(|line| !line.is_empty()).map(package).collect()
}

/// Whether 1.2.3 is a version of `1.2` or `1`.
fn is_of(version: &str, old: &str) -> bool {
    version.strip_prefix(old).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether an SPDX expression can be met with the allowed licences. `/` is an old way to write OR.
fn satisfies(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = any_of(&mut words, allowed);
    met && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut met = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= all_of(words, allowed);
    }
    met
}

fn all_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut met = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= one(words, allowed);
    }
    met
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    match words.next() {
        Some("(") => {
            let met = any_of(words, allowed);
            words.next() == Some(")") && met
        }
        Some(licence) => {
            // An exception only adds to what a licence permits, but none is agreed to.
            let excepted = words.next_if_eq(&"WITH").is_some() && words.next().is_some();
            !excepted && allowed.iter().any(|own| own == licence)
        }
        None => false,
    }
}

#[test]
fn licence_expressions() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("", false),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0 OR MIT", true),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("ISC AND GPL-3.0", false),
        ("MIT OR ISC AND GPL-3.0", true),
        ("(MIT OR ISC) AND GPL-3.0", false),
        ("MIT WITH some-exception", false),
        ("MIT) OR (ISC", false),
    ] {
        assert_eq!(satisfies(expression, &allowed), met, "{expression}");
    }
}
