//! SECURITY.md says of each defence where it is and what shows it. Here that is held against what there is.

use std::path::Path;

fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, text),
            false => text.push_str(&String::from_utf8_lossy(&std::fs::read(path).unwrap())),
        }
    }
}

#[test]
fn what_the_threat_model_names_exists() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code = String::new();
    sources(&project.join("src"), &mut code);
    sources(&project.join("tests/it"), &mut code);
    let document = std::fs::read_to_string(project.join("SECURITY.md")).unwrap();
    let mut wrong = Vec::new();
    let mut rows = 0;
    for row in document.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 4) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let named = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let (files, tests) = (named(cells[3]), named(cells[4]));
        if cells[3].trim() == "code" || cells[3].trim() == "---" {
            continue;
        }
        rows += 1;
        if files.is_empty() || tests.is_empty() {
            wrong.push(format!("says too little: {row}"));
        }
        wrong.extend(
            files.into_iter().filter(|file| !project.join(file).exists()).map(|file| format!("no file {file}")),
        );
        let shows = |test: &String| code.contains(&format!("fn {test}(")) || project.join(test).exists();
        wrong.extend(tests.into_iter().filter(|test| !shows(test)).map(|test| format!("no test {test}")));
    }
    assert!(rows > 15, "only {rows} rows are read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
