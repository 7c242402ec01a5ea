//! Client certificates: where they are required nobody comes in without one, and a file of authorities that cannot be used
//! keeps the gateway from starting.

use std::net::TcpStream;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};
use rustls::version::{TLS12, TLS13};

use crate::support::command::{check, run_in};
use crate::support::site::OPEN;
use crate::support::tls::{Authority, Identity, handshake};
use crate::support::{Conn, Req, Site, Wrong};

struct Scene {
    authority: Authority,
    site: Site,
}

/// Listeners `main`, where certificates are required, `optional`, and `free`, where none are asked for.
fn scene() -> Scene {
    let authority = Authority::new();
    let identity = authority.identity(&["api.test"]);
    let tls = |client_auth: &str| {
        format!("tls = {{ certificates = [{{ cert = \"api.crt\", key = \"api.key\" }}]{client_auth} }}")
    };
    let with = |require: bool| tls(&format!(", client_auth = {{ ca = \"ca.crt\", require = {require} }}"));
    let others = format!(
        "[listeners.optional]\naddress = \"127.0.0.1:0\"\n{}\n[listeners.free]\naddress = \"127.0.0.1:0\"\n{}\n",
        with(false),
        tls("")
    );
    let site = Site::builder()
        .file("api.crt", &identity.cert)
        .file("api.key", &identity.key)
        .file("ca.crt", authority.pem())
        .listener(&with(true))
        .more(&others)
        .more(OPEN)
        .start();
    Scene { authority, site }
}

/// The status of a request; with TLS 1.3 the refusal of a certificate comes after the handshake.
fn ask(conn: std::io::Result<crate::support::tls::Agreed>) -> u16 {
    conn.and_then(|mut agreed| agreed.conn.try_send(&Req::get("/public/x"))).map_or(0, |answer| answer.status)
}

#[test]
fn class_34_required_means_required() {
    let scene = scene();
    let authority = &scene.authority;
    let impostor = Authority::new();
    let of_year = |from: i32, until: i32| {
        move |params: &mut CertificateParams| {
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        }
    };
    let for_servers = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let for_authorities = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let alone = CertificateParams::new(vec!["partner".to_owned()]).unwrap().self_signed(&key).unwrap();
    let certificates: [(&str, Option<Identity>, u16, u16); 8] = [
        ("none", None, 0, 200),
        ("of the authority", Some(authority.identity(&["partner"])), 200, 200),
        ("of another authority of the same name", Some(impostor.identity(&["partner"])), 0, 0),
        ("of itself", Some(Identity { cert: alone.pem(), key: key.serialize_pem() }), 0, 0),
        ("expired", Some(authority.identity_with(&["partner"], of_year(2020, 2021))), 0, 0),
        ("not valid yet", Some(authority.identity_with(&["partner"], of_year(4000, 4001))), 0, 0),
        ("of a server", Some(authority.identity_with(&["partner"], for_servers)), 0, 0),
        ("of an authority", Some(authority.identity_with(&["partner"], for_authorities)), 0, 0),
    ];
    let mut wrong = Wrong::default();
    let mut served = 0;
    for (case, identity, required, optional) in &certificates {
        for (version, name) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
            let client = authority.client().versions(&[version]);
            let client = identity.iter().fold(client, |client, identity| client.identity(identity));
            for (listener, expected) in [("main", *required), ("optional", *optional)] {
                let got = ask(client.connect(scene.site.gateway.address(listener), "api.test"));
                wrong.eq((case, name, listener), got, expected);
                served += usize::from(expected == 200);
            }
        }
    }
    wrong.eq("forwarded", scene.site.upstream.count(), served);
    let metrics = scene.site.gateway.metrics();
    let failed = metrics.sum("tollgate_tls_handshakes_total", &[("listener", "main"), ("result", "failure")]);
    wrong.eq("counted", failed, 14.0);
    wrong.eq(
        "in the clear",
        Conn::open(scene.site.gateway.address("main")).try_send(&Req::get("/public/x")).is_err(),
        true,
    );
    wrong.done();
}

#[test]
fn class_34_a_session_of_another_listener_opens_nothing() {
    let scene = scene();
    let mut wrong = Wrong::default();
    for (version, name) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let client = scene.authority.client().versions(&[version]);
        let config = Arc::new(client.config());
        let call = |listener: &str| {
            let socket = TcpStream::connect(scene.site.gateway.address(listener)).unwrap();
            let agreed = handshake(&config, socket, "api.test");
            let resumed = agreed.as_ref().is_ok_and(|agreed| agreed.resumed);
            (ask(agreed), resumed)
        };
        wrong.eq((name, "free"), call("free"), (200, false));
        wrong.eq((name, "free again"), call("free"), (200, true));
        wrong.eq((name, "required"), call("main"), (0, false));
        wrong.eq((name, "optional"), call("optional"), (200, false));
        wrong.eq((name, "optional again"), call("optional"), (200, true));
        wrong.eq((name, "required"), call("main"), (0, false));

        // One that was opened with a certificate is resumed with it.
        let known = client.identity(&scene.authority.identity(&["partner"]));
        let config = Arc::new(known.config());
        let resumed = [(); 2].map(|()| {
            let socket = TcpStream::connect(scene.site.gateway.address("main")).unwrap();
            let agreed = handshake(&config, socket, "api.test");
            let resumed = agreed.as_ref().is_ok_and(|agreed| agreed.resumed);
            (ask(agreed), resumed)
        });
        wrong.eq((name, "with a certificate"), resumed, [(200, false), (200, true)]);
    }
    wrong.done();
}

#[test]
fn class_34_a_file_of_authorities_that_cannot_be_used_starts_nothing() {
    let authority = Authority::new();
    let identity = authority.identity(&["api.test"]);
    let good = authority.pem();
    let damaged = good.replacen("MII", "AAA", 1);
    let half = good[..good.len() / 2].to_owned();
    let files: [(&str, Option<String>); 8] = [
        ("missing", None),
        ("empty", Some(String::new())),
        ("blank", Some("\n\n".to_owned())),
        ("no PEM", Some("no certificate".to_owned())),
        ("a key", Some(identity.key.clone())),
        ("damaged", Some(damaged.clone())),
        ("cut off", Some(half)),
        ("a good one and a damaged one", Some(good + &damaged)),
    ];
    let mut wrong = Wrong::default();
    for place in ["listener", "admin"] {
        for require in [true, false] {
            let tls = format!(
                "tls = {{ certificates = [{{ cert = \"api.crt\", key = \"api.key\" }}], \
                 client_auth = {{ ca = \"clients-ca.crt\", require = {require} }} }}"
            );
            let config = if place == "listener" {
                Site::builder().listener(&tls).more(OPEN).config()
            } else {
                Site::builder().more(OPEN).config().replace("[admin]\n", &format!("[admin]\n{tls}\n"))
            };
            for (case, content) in &files {
                let jwks = crate::support::Mint::new().jwks();
                let mut others = vec![("jwks.json", &*jwks), ("api.crt", &identity.cert), ("api.key", &identity.key)];
                others.extend(content.as_deref().map(|content| ("clients-ca.crt", content)));
                let checked = check(&config, &others, &[]);
                let told = checked.out.contains("clients-ca.crt");
                wrong.ok((place, require, case, "check"), checked.code == Some(1) && told, &checked);
                let dir = crate::support::command::files(&config, &others);
                let ran = run_in(dir.path(), &["run", "-c", "tollgate.toml"], "");
                let told = ran.all().contains("clients-ca.crt") && !ran.all().contains("listener.ready");
                wrong.ok((place, require, case, "run"), ran.code == Some(1) && told, &ran);
            }
        }
    }
    wrong.done();
}
