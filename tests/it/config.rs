//! Every diagnostic of the configuration, as a person sees it: each `tests/config/*.toml` is loaded and what it has to say is
//! compared with the `.expected` file beside it. `UPDATE_EXPECTED=1` writes those files anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use tollgate::config::{self, Diagnostics};

fn toml_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of the fixtures")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

/// Files that others name.
fn is_included(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains("users"))
}

#[test]
fn every_diagnostic_reads_as_expected() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut wrong = String::new();
    for path in toml_files("tests/config").iter().filter(|path| !is_included(path)) {
        let said = match config::load(path) {
            Ok((_, warnings)) if warnings.is_empty() => "ok\n".to_owned(),
            Ok((_, warnings)) => format!("ok\n\n{}\n", Diagnostics(warnings)),
            Err(problems) => format!("{problems}\n"),
        };
        let expected_path = path.with_extension("expected");
        if update {
            std::fs::write(&expected_path, &said).expect("a writable folder");
            continue;
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if said != expected {
            write!(wrong, "=== {}\n--- expected\n{expected}\n--- said\n{said}\n", path.display()).expect("a string");
        }
    }
    assert!(wrong.is_empty(), "{wrong}\nUPDATE_EXPECTED=1 accepts what is said now");
}
