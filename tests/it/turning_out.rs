//! `POST /revoke` on the operators' listener: ending a token, or everything that a user or a client has.

use serde_json::{Value, json};

use crate::support::server::{self, encode, log_in, refresh, tokens};
use crate::support::{Req, Response, Site, Wrong, field, send};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const OFFLINE: (&str, &str) = ("scope", "orders:read offline_access");

fn of_format(format: &str) -> Site {
    server::builder().embedded().start_with(|config| {
        let lines = format!("signing_algorithm = \"ES256\"\naccess_token_format = \"{format}\"");
        config.replace("signing_algorithm = \"ES256\"", &lines)
    })
}

fn revoke(site: &Site, form: &[(&str, &str)]) -> Response {
    send(site.gateway.admin(), &Req::post("/revoke").host("localhost").form(&encode(form)))
}

fn ended(answer: &Response) -> (u16, Value) {
    (answer.status, answer.json())
}

fn at_gateway(site: &Site, token: &str) -> u16 {
    site.get("/orders/7", Some(token)).status
}

#[test]
fn a_token_ends_whoever_it_belongs_to() {
    let mut wrong = Wrong::default();
    for format in ["jwt", "opaque"] {
        let site = of_format(format);
        let (access, refresh_token) = tokens(&log_in(&site, "billing", &[OFFLINE]));
        let (other, _) = tokens(&log_in(&site, "billing", &[OFFLINE]));
        wrong.eq((format, "before"), at_gateway(&site, &access), 200);
        let one = json!({"grants": 0, "access_tokens": 1, "sessions": 0});
        wrong.eq((format, "access token"), ended(&revoke(&site, &[("token", &access)])), (200, one));
        wrong.eq((format, "at once"), at_gateway(&site, &access), 401);
        let none = json!({"grants": 0, "access_tokens": 0, "sessions": 0});
        for nothing in [access.as_str(), "unknown", "a.b.c"] {
            wrong.eq((format, nothing), ended(&revoke(&site, &[("token", nothing)])), (200, none.clone()));
        }
        let (next, refresh_token) = tokens(&refresh(&site, "billing", &refresh_token));
        let one = json!({"grants": 1, "access_tokens": 0, "sessions": 0});
        wrong.eq((format, "refresh token"), ended(&revoke(&site, &[("token", &refresh_token)])), (200, one));
        wrong.eq((format, "its access token"), at_gateway(&site, &next), 401);
        wrong.eq((format, "itself"), refresh(&site, "billing", &refresh_token).status, 400);
        wrong.eq((format, "another grant"), at_gateway(&site, &other), 200);
        let event = site.gateway.wait_log("by an operator", |line| {
            field(line, "event") == Some("revocation") && field(line, "reason") == Some("by an operator")
        });
        wrong.eq(
            (format, "audit"),
            (field(&event, "client"), field(&event, "target")),
            (Some("billing"), Some("audit")),
        );
    }
    wrong.done();
}

#[test]
fn a_user_or_a_client_is_turned_out() {
    let mut wrong = Wrong::default();
    for format in ["jwt", "opaque"] {
        let held_by = |site: &Site, user: &str, client: &str| {
            // The other client has a refresh token whatever it asks for.
            let scope = if client == "billing" { OFFLINE } else { ("scope", "orders:read") };
            let form = [("grant_type", "password"), ("username", user), ("password", server::PASSWORD), scope];
            tokens(&server::ask(site, client, &encode(&form))).0
        };
        for (case, form, left, grants) in [
            ("a user", &[("subject", "alice")][..], [401, 401, 200], 2),
            ("a client", &[("client", "billing")], [401, 200, 401], 2),
            ("one by the other", &[("subject", "alice"), ("client", "billing")], [401, 200, 200], 1),
            ("nobody", &[("subject", "eve")], [200, 200, 200], 0),
            ("nobody's client", &[("client", "none")], [200, 200, 200], 0),
        ] {
            let site = of_format(format);
            let held = [("alice", "billing"), ("alice", "always"), ("carol", "billing")];
            let held = held.map(|(user, client)| held_by(&site, user, client));
            let expected = json!({"grants": grants, "access_tokens": 0, "sessions": 0});
            wrong.eq((format, case), ended(&revoke(&site, form)), (200, expected));
            wrong.eq((format, case, "left"), held.map(|token| at_gateway(&site, &token)), left);
            // Whoever is still welcome may come again.
            wrong.eq((format, case, "again"), at_gateway(&site, &held_by(&site, "alice", "billing")), 200);
        }
    }
    wrong.done();
}

/// JWTs that came without a refresh token: no list has them.
#[test]
fn j31_tokens_that_nobody_keeps_end_by_the_name_of_their_user_or_client() {
    const MORE: &str = r#"
[authorization_server.clients.machine]
secret = { env = "CLIENT_SECRET" }
grants = ["client_credentials"]
scopes = ["orders:read"]
default_scopes = ["orders:read"]
[authorization_server.clients.resource-server]
secret = { env = "CLIENT_SECRET" }
grants = ["client_credentials"]
scopes = ["orders:read"]
introspect = true
"#;
    let mut site = server::builder().embedded().more(MORE).start();
    let held_by = |site: &Site, user: &str, client: &str| {
        let form = match user {
            "" => encode(&[("grant_type", "client_credentials")]),
            user => server::password_form(user, server::PASSWORD, &[]),
        };
        let (access, refresh) = tokens(&server::ask(site, client, &form));
        assert_eq!(refresh, "");
        access
    };
    let is_active = |site: &Site, token: &str| {
        let request = Req::post("/oauth2/introspect").host(server::HOST).form(&encode(&[("token", token)]));
        let credentials = server::basic("resource-server", server::SECRET);
        site.send(&request.header("Authorization", &credentials)).json()["active"].as_bool()
    };
    let mut wrong = Wrong::default();
    let (mut dead, mut living) = (Vec::new(), Vec::new());
    for (case, form, ended) in [
        ("a user", &[("subject", "alice")][..], [true, true, false, false]),
        ("a client", &[("client", "billing")], [true, false, true, false]),
        ("one by the other", &[("subject", "alice"), ("client", "billing")], [true, false, false, false]),
        ("a client for itself", &[("client", "machine")], [false, false, false, true]),
        ("the same by its subject", &[("subject", "client:machine")], [false, false, false, true]),
        ("nobody", &[("subject", "eve")], [false; 4]),
    ] {
        let issue = || {
            let holders = [("alice", "billing"), ("alice", "short"), ("carol", "billing"), ("", "machine")];
            holders.map(|(user, client)| held_by(&site, user, client))
        };
        let held = issue();
        // A connection for each worker and more, all of which know the tokens.
        let mut connections: Vec<_> = (0..6).map(|_| site.connect()).collect();
        let mut statuses = |token: &String| -> Vec<u16> {
            let ask = Req::get("/orders/7").bearer(token);
            connections.iter_mut().map(|conn| conn.send(&ask).status).collect()
        };
        for token in &held {
            wrong.eq((case, "before"), statuses(token), vec![200; 6]);
        }
        wrong.eq(case, revoke(&site, form).status, 200);
        for (token, ended) in held.iter().zip(ended) {
            wrong.eq((case, "after", ended), statuses(token), vec![if ended { 401 } else { 200 }; 6]);
            wrong.eq((case, "introspection", ended), is_active(&site, token), Some(!ended));
        }
        // Within the same second, mostly.
        for token in issue() {
            wrong.eq((case, "again"), statuses(&token), vec![200; 6]);
            wrong.eq((case, "again, by introspection"), is_active(&site, &token), Some(true));
        }
        let (ended, left): (Vec<_>, Vec<_>) = held.into_iter().zip(ended).partition(|(_, ended)| *ended);
        dead.extend(ended);
        living = left;
    }
    let answer = site.get("/orders/7", Some(&dead[0].0));
    wrong.eq("B11", answer.challenge_param("error").as_deref(), Some("invalid_token"));
    wrong.eq("reason", field(&site.gateway.access_log(&answer.request_id()), "reason"), Some("revoked"));
    site.gateway.kill();
    site.gateway.start_again();
    for (token, _) in &dead {
        wrong.eq("dead after a kill", (at_gateway(&site, token), is_active(&site, token)), (401, Some(false)));
    }
    for (token, _) in &living {
        wrong.eq("living after a kill", (at_gateway(&site, token), is_active(&site, token)), (200, Some(true)));
    }
    wrong.done();
}

#[test]
fn what_operators_may_ask_and_how() {
    let site = server::builder()
        .env("TOLLGATE_ADMIN_TOKEN", TOKEN)
        .start_with(|config| config.replacen("[admin]\n", "[admin]\ntoken = { env = \"TOLLGATE_ADMIN_TOKEN\" }\n", 1));
    let admin = site.gateway.admin();
    let post = |body: &str| Req::post("/revoke").host("localhost").form(body);
    let mut wrong = Wrong::default();
    for (case, request, status) in [
        ("no token", post("subject=alice"), 401),
        ("another", post("subject=alice").bearer("wrong"), 401),
        ("as a browser would", post("subject=alice").header("Authorization", "Basic OjAxMjM="), 401),
        ("nobody named", post("").bearer(TOKEN), 400),
        ("an empty name", post("subject=").bearer(TOKEN), 400),
        ("twice", post("subject=alice&subject=bob").bearer(TOKEN), 400),
        ("both", post("token=x&subject=alice").bearer(TOKEN), 400),
        ("unknown", post("user=alice").bearer(TOKEN), 400),
        ("in the query", Req::post("/revoke?subject=alice").host("localhost").form("").bearer(TOKEN), 400),
        (
            "JSON",
            Req::post("/revoke").host("localhost").header("Content-Type", "application/json").body("{}").bearer(TOKEN),
            415,
        ),
        ("too large", post(&format!("token={}", "x".repeat(100_000))).bearer(TOKEN), 413),
        ("GET", Req::get("/revoke").host("localhost").bearer(TOKEN), 405),
        ("good", post("subject=alice").bearer(TOKEN), 200),
    ] {
        wrong.eq(case, send(admin, &request).status, status);
    }
    let open = Site::open();
    wrong.eq("no authorization server", revoke(&open, &[("subject", "alice")]).status, 404);
    let from_elsewhere =
        Req::post("/revoke").host("localhost").form("subject=alice").header("Origin", "https://x.test");
    wrong.eq("a page of another site", send(open.gateway.admin(), &from_elsewhere).status, 403);
    wrong.done();
}
