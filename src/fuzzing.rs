//! The fuzz targets of the library: each takes bytes and panics when something does not hold that should hold of any
//! bytes. `fuzz/` runs them on inputs that a fuzzer makes, the test below on those that it found worth keeping. The
//! properties stand beside the code they are about.

pub use crate::authorization_server::fuzzing::{basic, form, redirect_uri};
pub use crate::config::fuzzing::config;
pub use crate::gateway::fuzzing::{request, template};
pub use crate::jose::fuzzing::{json, jws, key_set};
pub use crate::net::fuzzing::{forwarded, proxy_protocol};
pub use crate::routing::fuzzing::{host, path};
pub use crate::server::fuzzing::{frames, framing};
pub use crate::token::fuzzing::{bearer, claims};
pub use crate::upstream::fuzzing::answer;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    type Target = fn(&[u8]);

    /// Every target, named as in `fuzz/Cargo.toml` and `fuzz/corpus`.
    const TARGETS: [(&str, Target); 18] = [
        ("answer", answer),
        ("basic", basic),
        ("bearer", bearer),
        ("claims", claims),
        ("config", config),
        ("form", form),
        ("forwarded", forwarded),
        ("frames", frames),
        ("framing", framing),
        ("host", host),
        ("json", json),
        ("jws", jws),
        ("key_set", key_set),
        ("path", path),
        ("proxy_protocol", proxy_protocol),
        ("redirect_uri", redirect_uri),
        ("request", request),
        ("template", template),
    ];

    #[test]
    fn everything_that_a_fuzzer_found_worth_keeping_holds() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"));
        for (name, target) in TARGETS {
            let files: Vec<_> =
                std::fs::read_dir(folder.join(name)).expect(name).map(|file| file.unwrap().path()).collect();
            assert!(!files.is_empty(), "{name} has no corpus");
            for file in files {
                // A panic names the input.
                println!("{}", file.display());
                target(&std::fs::read(&file).unwrap());
            }
        }
    }

    #[test]
    fn every_target_is_built() {
        let manifest: toml::Table = include_str!("../fuzz/Cargo.toml").parse().unwrap();
        let built: Vec<_> =
            manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap()).collect();
        assert_eq!(built, TARGETS.map(|(name, _)| name));
    }
}
