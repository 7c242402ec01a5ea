//! The metadata document (RFC 8414) and the JWK set (RFC 7517 section 5). Only what is on is listed.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value, json};

use super::error::Error;
use super::keys::JWKS_MAX_AGE;
use super::server::AuthorizationServer;
use super::{AuthMethod, Grant};
use crate::jose::Algorithm;

const METADATA_MAX_AGE: Duration = Duration::from_secs(3600);

impl AuthorizationServer {
    pub(super) fn metadata_endpoint(&self, method: &Method) -> Response<Bytes> {
        self.public_document(method, METADATA_MAX_AGE, &self.metadata())
    }

    pub(super) fn jwks_endpoint(&self, method: &Method) -> Response<Bytes> {
        self.public_document(method, JWKS_MAX_AGE, &self.public_keys().current().jwks)
    }

    /// A document anybody may read from anywhere, and keep for a while.
    fn public_document(&self, method: &Method, max_age: Duration, body: &Value) -> Response<Bytes> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Error::method_not_allowed("GET, HEAD").response(self.settings().issuer.as_str());
        }
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        if let Ok(value) = HeaderValue::try_from(format!("public, max-age={}", max_age.as_secs())) {
            headers.insert(header::CACHE_CONTROL, value);
        }
        response
    }

    fn metadata(&self) -> Value {
        let settings = self.settings();
        let url = |name: &str| format!("{}{}/{name}", settings.issuer.origin(), settings.path);
        let granted = Grant::ALL.into_iter().filter(|grant| self.clients().any_has(*grant));
        let grants: Vec<_> = granted.map(Grant::name).collect();
        let methods: Vec<_> = [
            (AuthMethod::ClientSecretBasic, "client_secret_basic"),
            (AuthMethod::ClientSecretPost, "client_secret_post"),
            (AuthMethod::PrivateKeyJwt, "private_key_jwt"),
            (AuthMethod::None, "none"),
        ]
        .into_iter()
        .filter(|(method, _)| self.clients().iter().any(|client| client.auth_methods.contains(method)))
        .map(|(_, name)| name)
        .collect();
        let mut scopes: Vec<_> = self.clients().iter().flat_map(|client| client.scopes.iter()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let mut metadata = json!({
            "issuer": settings.issuer.as_str(),
            "authorization_endpoint": url("authorize"),
            "token_endpoint": url("token"),
            "revocation_endpoint": url("revoke"),
            "introspection_endpoint": url("introspect"),
            "jwks_uri": url("jwks"),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": true,
        });
        let confidential: Vec<_> = methods.iter().copied().filter(|method| *method != "none").collect();
        let algorithms =
            if methods.contains(&"private_key_jwt") { Algorithm::ALL.map(Algorithm::name).to_vec() } else { vec![] };
        // RFC 8414 section 3.2: what has no element is left out.
        for (name, values) in [
            ("grant_types_supported", grants),
            ("token_endpoint_auth_methods_supported", methods.clone()),
            ("revocation_endpoint_auth_methods_supported", methods),
            ("introspection_endpoint_auth_methods_supported", confidential),
            ("token_endpoint_auth_signing_alg_values_supported", algorithms.clone()),
            ("revocation_endpoint_auth_signing_alg_values_supported", algorithms.clone()),
            ("introspection_endpoint_auth_signing_alg_values_supported", algorithms),
            ("scopes_supported", scopes),
        ] {
            if !values.is_empty() {
                metadata[name] = json!(values);
            }
        }
        metadata
    }
}
