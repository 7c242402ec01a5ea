//! The soak, for as long as it takes to see that every part of it works.

use std::process::Command;

use crate::support::checker::{project, run};
use crate::support::public::installed;

#[test]
fn a_short_soak_keeps_what_is_promised() {
    if installed("h2load").is_none() || installed("nginx").is_none() {
        return;
    }
    let soak =
        run(Command::new(project("tests/soak")).args(["--seconds", "15", "--binary", env!("CARGO_BIN_EXE_tollgate")]));
    assert_eq!(soak.code, Some(0), "{soak:?}");
    println!("{}", soak.out);
}
