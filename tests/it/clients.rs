//! Clients that others wrote, driven against the running gateway by the scripts of `tests/clients`.

use std::path::{Path, PathBuf};

use crate::support::public::{Public, installed, place};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn run(program: &Path, script: &Path) {
    let scene = Public::start();
    let done = scene.run(program, script);
    assert_eq!(done.code, Some(0), "{}\n{}", done.out, done.err);
}

fn python(script: &str) {
    if let Some(program) = installed(place("python/bin/python")) {
        run(&program, &project().join("tests/clients").join(script));
    }
}

#[test]
fn s2_10_authlib() {
    python("authlib_client.py");
}

#[test]
fn s2_10_requests_oauthlib() {
    python("requests_oauthlib_client.py");
}

#[test]
fn s2_10_openid_client() {
    let (Some(program), Some(modules)) = (installed("node"), installed(place("node/node_modules"))) else { return };
    // Modules are looked for beside the script.
    let script = modules.with_file_name(format!("openid_client.{}.mjs", std::process::id()));
    std::fs::copy(project().join("tests/clients/openid_client.mjs"), &script).unwrap();
    let removed = Removed(script);
    run(&program, &removed.0);
}

#[test]
fn s2_10_the_oauth2_crate() {
    let (Some(program), Some(_)) =
        (installed(place("oauth2/debug/oauth2_client")), installed(place("python/bin/python")))
    else {
        return;
    };
    run(&program, &project().join("tests/clients"));
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
