//! Clients that act for themselves or sign for who they are; revocation, introspection, metadata.

use super::*;

#[tokio::test]
async fn opaque_tokens_resolve_to_the_claims_of_a_jwt() {
    let bench = Bench::with(|settings| settings.access_token_format = AccessTokenFormat::Opaque).await;
    let answer = bench.login("read").await;
    let token = answer.text("access_token");
    assert!(token.starts_with(OPAQUE_PREFIX) && !token.contains('.'));
    let found = bench.store.opaque_token(&token).await.unwrap().unwrap();
    assert_eq!((&found.claims["sub"], found.expires), (&json!("alice"), START + 3600));
    bench.clock.advance(3600);
    assert!(bench.store.opaque_token(&token).await.unwrap().is_none());
}

#[tokio::test]
async fn m_metadata_and_jwks() {
    let bench = Bench::with(|settings| settings.issuer = BaseUrl::parse("https://api.example/as").unwrap()).await;
    for path in [
        "/.well-known/oauth-authorization-server/as",
        "/.well-known/openid-configuration/as",
        "/as/.well-known/openid-configuration",
    ] {
        let metadata = bench.send(path, Request::builder(), "").await;
        assert_eq!(metadata.text("issuer"), "https://api.example/as", "M1 M2 {path}");
        assert_eq!(metadata.text("token_endpoint"), "https://api.example/oauth2/token");
        assert_eq!(metadata.header("access-control-allow-origin"), "*", "M5");
        let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        assert!(!metadata.json().as_object().unwrap().values().any(empty), "M3");
    }
    assert_eq!(bench.server.endpoint("/.well-known/oauth-authorization-server"), None);
    let jwks = bench.send("/oauth2/jwks", Request::builder(), "").await;
    assert_eq!((jwks.header("cache-control"), jwks.status.as_u16()), ("public, max-age=300", 200), "J1");
    assert_eq!(bench.post("/oauth2/jwks", None, "").await.status.as_u16(), 405);
}

#[tokio::test]
async fn client_credentials() {
    let bench = Bench::new().await;
    const ASK: &str = "grant_type=client_credentials&scope=read+offline_access";
    let answer = bench.post("/oauth2/token", Some(&basic("robot", "x")), ASK).await;
    assert_eq!((answer.text("scope").as_str(), &answer.json()["refresh_token"]), ("read", &Value::Null), "6749 4.4.3");
    let claims = answer.claims();
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("client:robot"), &json!("robot")), "BCP 4.15");
    assert!(claims.get("auth_time").is_none() && claims.get("roles").is_none());
    let public = bench.post("/oauth2/token", None, &format!("client_id=publicrobot&{ASK}")).await;
    assert_eq!(public.error(), "unauthorized_client");
    let other = bench.post("/oauth2/token", Some(&basic("app", "s3cret")), ASK).await;
    assert_eq!(other.error(), "unauthorized_client", "T4");
}

#[tokio::test]
async fn ca15_to_ca20_private_key_jwt() {
    let bench = Bench::new().await;
    let stranger = SigningKey::generate(Algorithm::Es256).unwrap();
    const TOKEN_URL: &str = "https://api.example/oauth2/token";
    let claims = |jti: &str| json!({ "iss": "signer", "sub": "signer", "aud": "https://api.example", "exp": START + 60, "iat": START, "jti": jti });
    let but = |jti: &str, name: &str, value: Value| {
        let mut claims = claims(jti);
        claims[name] = value;
        SIGNER.sign("JWT", &claims).unwrap()
    };
    let ask = async |assertion: &str, more: &str| {
        let body = format!(
            "grant_type=client_credentials&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer\
             &client_assertion={assertion}{more}"
        );
        bench.post("/oauth2/token", None, &body).await
    };
    let good = SIGNER.sign("JWT", &claims("1")).unwrap();
    assert_eq!(ask(&good, "").await.status.as_u16(), 200, "S4-8");
    assert_eq!(ask(&good, "").await.error(), "invalid_client", "CA16: replay");
    // Signed by somebody else, under the kid of the client's key.
    let header = |jws: &str| jws.split('.').next().unwrap().to_owned();
    let theirs = stranger.sign("JWT", &claims("15")).unwrap();
    let forged = theirs.replacen(&header(&theirs), &header(&good), 1);
    for (ids, assertion, status) in [
        ("CA18", SIGNER.sign("client-authentication+jwt", &claims("2")).unwrap(), 200),
        ("CA17", but("3", "aud", json!([TOKEN_URL])), 200),
        ("CA17", but("4", "aud", json!(TOKEN_URL)), 200),
        ("CA17", but("5", "aud", json!([TOKEN_URL, "https://api.example"])), 401),
        ("CA17", but("6", "aud", json!("https://other.example")), 401),
        ("CA16", but("7", "exp", json!(START)), 401),
        ("CA16", but("8", "exp", json!(START + 4000)), 401),
        ("CA16", but("9", "exp", json!("9999999999")), 401),
        ("CA16", but("10", "exp", Value::Null), 401),
        ("CA16", but("11", "nbf", json!(START + 60)), 401),
        ("CA16", but("12", "iss", json!("app")), 401),
        ("CA16", but("", "iat", json!(START)), 401),
        ("CA18", SIGNER.sign("at+jwt", &claims("13")).unwrap(), 401),
        ("CA16", stranger.sign("JWT", &claims("14")).unwrap(), 401),
        ("CA16", forged, 401),
        ("CA19", bench.login("read").await.text("access_token"), 401),
    ] {
        assert_eq!(ask(&assertion, "").await.status.as_u16(), status, "{ids} {}", part(&assertion, 1));
    }
    let assertion = SIGNER.sign("JWT", &claims("20")).unwrap();
    assert_eq!(ask(&assertion, "&client_id=app").await.error(), "invalid_client", "CA20");
    assert_eq!(ask(&assertion, "&client_secret=x").await.error(), "invalid_request", "CA7");
    let form = format!("grant_type=password&client_id=signer&client_assertion={assertion}");
    assert_eq!(bench.post("/oauth2/token", None, &form).await.error(), "invalid_request", "CA15");
    let form = format!("{form}&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:saml2-bearer");
    assert_eq!(bench.post("/oauth2/token", None, &form).await.error(), "invalid_request", "CA15");
    assert_eq!(bench.post("/oauth2/token", Some(&basic("signer", "x")), "").await.error(), "invalid_client", "CA14");
    let id_alone = bench.post("/oauth2/token", None, "client_id=signer&grant_type=client_credentials").await;
    assert_eq!(id_alone.error(), "invalid_client", "CA9");
}

async fn introspect(bench: &Bench, client: &str, token: &str) -> Answer {
    bench.post("/oauth2/introspect", Some(&basic(client, "x")), &format!("token={token}")).await
}

#[tokio::test]
async fn rv_and_in_for_both_formats() {
    for format in [AccessTokenFormat::Jwt, AccessTokenFormat::Opaque] {
        let mut bench = Bench::with(|settings| settings.access_token_format = format).await;
        let app = basic("app", "s3cret");
        let revoke = async |bench: &Bench, body: &str| bench.post("/oauth2/revoke", Some(&app), body).await;
        let active = async |bench: &Bench, token: &str| introspect(bench, "api", token).await.json()["active"] == true;
        let inactive = json!({ "active": false });

        let first = bench.login("read+offline_access").await;
        let (access, refresh) = (first.text("access_token"), first.text("refresh_token"));
        let facts = introspect(&bench, "api", &access).await;
        assert_eq!(facts.header("cache-control"), "no-store", "IN4");
        let jti = facts.json()["jti"].clone();
        assert_eq!(
            facts.json(),
            json!({
                "active": true, "scope": "read offline_access", "client_id": "app", "username": "alice", "sub": "alice",
                "token_type": "Bearer", "exp": START + 3600, "iat": START, "auth_time": START, "amr": ["pwd"],
                "aud": "https://api.example", "iss": "https://api.example", "jti": jti, "roles": ["clerk"],
                "tenant": "acme",
            }),
            "IN4 IN7 IN8 IN9"
        );
        assert_eq!(introspect(&bench, "otherapi", &access).await.json(), inactive, "IN7");
        assert_eq!(introspect(&bench, "robot", &access).await.json(), inactive, "IN1");
        assert_eq!(introspect(&bench, "api", &refresh).await.json(), inactive, "IN6");
        for token in ["nosuch", "a.b.c", "%00"] {
            let answer = introspect(&bench, "api", token).await;
            assert!(answer.json() == inactive || answer.status.as_u16() == 400, "IN3 IN11 {token}");
        }
        assert_eq!(bench.post("/oauth2/introspect", None, "client_id=cli&token=x").await.status.as_u16(), 401, "IN1");
        assert_eq!(bench.post("/oauth2/introspect", None, "token=x").await.status.as_u16(), 401, "IN1");
        assert_eq!(introspect(&bench, "api", "").await.error(), "invalid_request", "IN2");
        let get = bench.send("/oauth2/introspect", Request::builder(), "").await;
        assert_eq!((get.status.as_u16(), get.header("allow")), (405, "POST"), "IN1");
        bench
            .reload(|settings| {
                settings.access_token_format = format;
                let UserSource::File(users) = &mut settings.users[0];
                users[0].disabled = true;
            })
            .await;
        assert!(!active(&bench, &access).await, "P11: disabled");
        let other = bench.token("grant_type=password&username=root&password=everything").await.text("access_token");
        bench.clock.advance(1);
        bench
            .reload(|settings| {
                settings.access_token_format = format;
                let UserSource::File(users) = &mut settings.users[0];
                users[3].password = UserPassword::Hash(cheap_hash("changed"));
            })
            .await;
        assert!(!active(&bench, &other).await, "P11: another password");
        assert!(active(&bench, &access).await, "P11: somebody else's");
        let facts_of_new = bench.token("grant_type=password&username=root&password=changed").await.text("access_token");
        assert!(active(&bench, &facts_of_new).await, "P11: issued since");
        bench.reload(|settings| settings.access_token_format = format).await;

        assert_eq!(bench.send("/oauth2/revoke", Request::builder(), "").await.status.as_u16(), 405, "RV1");
        assert_eq!(revoke(&bench, "").await.error(), "invalid_request", "RV1");
        assert_eq!(revoke(&bench, "token=a&token=a").await.error(), "invalid_request", "RV1");
        assert_eq!(revoke(&bench, "token=nosuch&token_type_hint=foo").await.status.as_u16(), 200, "RV3 RV6");
        for token in [&access, &refresh] {
            let foreign = bench.post("/oauth2/revoke", Some(&basic("api", "x")), &format!("token={token}")).await;
            assert_eq!((foreign.status.as_u16(), foreign.error().as_str()), (400, "invalid_grant"), "RV4");
        }
        assert!(active(&bench, &access).await, "RV4");
        let done = revoke(&bench, &format!("token={access}&token_type_hint=refresh_token")).await;
        assert_eq!(
            (done.status.as_u16(), done.body.len(), done.header("cache-control")),
            (200, 0, "no-store"),
            "RV2 RV6"
        );
        assert!(bench.server.revocations().is_revoked(jti.as_str().unwrap()), "RV8");
        assert!(!active(&bench, &access).await, "RV8");
        assert_eq!(revoke(&bench, &format!("token={access}")).await.status.as_u16(), 200, "RV3");
        let unauthenticated = bench.post("/oauth2/revoke", Some(&basic("app", "no")), &format!("token={access}")).await;
        assert_eq!(unauthenticated.error(), "invalid_client", "RV5");

        let second = bench.refresh(&refresh).await;
        assert_eq!(second.status.as_u16(), 200, "RV7: the refresh token stays");
        assert!(active(&bench, &second.text("access_token")).await);
        revoke(&bench, &format!("token={}", second.text("refresh_token"))).await;
        assert!(!active(&bench, &second.text("access_token")).await, "RV7");
        assert_eq!(bench.refresh(&second.text("refresh_token")).await.error(), "invalid_grant", "RV7");

        let public = "client_id=cli&grant_type=password&username=alice&password=wonderland";
        let token = bench.post("/oauth2/token", None, public).await.text("access_token");
        bench.post("/oauth2/revoke", None, &format!("client_id=cli&token={token}")).await;
        assert!(!active(&bench, &token).await, "RV10");

        let own = bench
            .post(
                "/oauth2/token",
                Some(&basic("api", "x")),
                "grant_type=password&username=alice&password=wonderland\
                &scope=read+offline_access",
            )
            .await;
        let facts = introspect(&bench, "api", &own.text("refresh_token")).await.json();
        assert_eq!((&facts["active"], &facts["token_type"]), (&json!(true), &Value::Null), "IN6");
        let access = own.text("access_token");
        bench.clock.advance(3600);
        assert!(!active(&bench, &access).await, "IN3: expired");
    }
}

#[tokio::test]
async fn m3_m4_metadata_lists_what_is_on() {
    let metadata = async |bench: &Bench| {
        bench.send("/.well-known/oauth-authorization-server", Request::builder(), "").await.json()
    };
    let all = metadata(&Bench::new().await).await;
    assert_eq!(all["grant_types_supported"].as_array().unwrap().len(), 4);
    assert_eq!(all["response_modes_supported"], json!(["query"]));
    assert_eq!(all["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(all["authorization_response_iss_parameter_supported"], true);
    assert_eq!(all["revocation_endpoint"], "https://api.example/oauth2/revoke");
    assert!(all["token_endpoint_auth_signing_alg_values_supported"].as_array().unwrap().contains(&json!("ES256")));
    let few = Bench::with(|settings| {
        settings.clients.truncate(1);
        settings.clients[0].grants = vec![Grant::AuthorizationCode];
    });
    let few = metadata(&few.await).await;
    assert_eq!(few["grant_types_supported"], json!(["authorization_code"]));
    assert!(few.get("token_endpoint_auth_signing_alg_values_supported").is_none());
}
