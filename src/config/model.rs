//! The TOML file, key by key, and nothing else: no defaults, no meaning. `compile` gives it both.
//! The comments here become the descriptions of the JSON Schema.

use schemars::JsonSchema;
use toml::de::DeValue;

use super::diagnostic::Span;
use super::reader::{List, Map, Read, Reader, table, words};
use super::value::{Date, Interval, Object, SecretText, Share, Size, Workers};

table! {
    /// The configuration of tollgate.
    #[schemars(title = "tollgate")]
    File, "a table" {
        /// What clients call us, and what serves them.
        server: Server,
        /// The sockets that take requests, by name.
        listeners: Map<Listener>,
        /// The operators' listener.
        admin: Admin,
        log: Log,
        /// What is told to other machines.
        telemetry: Telemetry,
        /// Where codes, refresh tokens, sessions, revocations and signing keys live.
        store: Store,
        /// Who issues the tokens that are accepted, by name. `self` is the embedded authorization server.
        issuers: Map<Issuer>,
        /// The embedded authorization server. Absent: tokens are only checked, not issued.
        authorization_server: AuthorizationServer,
        /// Where requests go, by name.
        upstreams: Map<Upstream>,
        /// Who may call what.
        routes: List<Route>,
        /// Tests of the rules, run by `tollgate check` and before every reload.
        tests: List<Test>,
    }
}

table! {
    Server, "a table" {
        /// What clients call us; never taken from `Host`.
        public_url: String,
        /// Networks whose X-Forwarded-* and Forwarded headers are believed.
        trusted_proxies: List<String>,
        /// Threads that serve traffic; "auto" is one for each core. Default: "auto".
        workers: Workers,
        /// Default of every route's mode. Default: "enforce".
        mode: Mode,
        /// The bounds of every queue, buffer and wait.
        limits: Limits,
    }
}

words! {
    Mode {
        Enforce = "enforce",
        /// Decide and log, but forward anyway.
        Report = "report",
    }
}

table! {
    Limits, "a table" {
        /// Default: 10000.
        connections: u64,
        /// Trusted proxies are exempt. Default: 1000.
        connections_per_ip: u64,
        /// Default: "32KiB".
        header_bytes: Size,
        /// Default: 100.
        header_count: u64,
        /// Of a request; a route may override. Default: "10MiB".
        body_bytes: Size,
        /// Default: "10s".
        header_timeout: Interval,
        /// Between two reads of a request body. Default: "30s".
        body_timeout: Interval,
        /// Of a response body or a tunnel without a byte. Default: "10m".
        stream_idle: Interval,
        /// Of a kept-alive connection without a request. Default: "75s".
        idle_timeout: Interval,
        /// On SIGTERM: not ready, still accepting, for this long. Default: "0s".
        drain_delay: Interval,
        /// On SIGTERM: finish what is running, then exit. Default: "30s".
        drain_timeout: Interval,
    }
}

table! {
    #[schemars(extend("required" = ["address"]))]
    Listener, "a table" {
        /// IP address and port; port 0 picks a free one.
        address: String,
        /// Every connection must start with a PROXY protocol header and come from a trusted proxy.
        proxy_protocol: bool,
        /// Absent: cleartext HTTP/1.1 and h2c.
        tls: Tls,
        /// Answers GET and HEAD with 308 to the public URL and anything else with 403; forwards nothing.
        redirect_to_https: bool,
    }
}

table! {
    #[schemars(extend("required" = ["certificates"]))]
    Tls, "a table" {
        /// The first is for clients without SNI.
        certificates: List<Certificate>,
        /// Default: "1.2".
        min_version: TlsVersion,
        client_auth: ClientAuth,
        /// Default: true.
        session_tickets: bool,
    }
}

table! {
    #[schemars(extend("required" = ["cert", "key"]))]
    Certificate, "a table such as `{ cert = \"tls/api.crt\", key = \"tls/api.key\" }`" {
        /// PEM file: the chain, leaf first.
        cert: String,
        /// PEM file: the private key.
        key: String,
    }
}

words! {
    TlsVersion {
        Tls12 = "1.2",
        Tls13 = "1.3",
    }
}

table! {
    #[schemars(extend("required" = ["ca"]))]
    ClientAuth, "a table such as `{ ca = \"tls/clients-ca.crt\" }`" {
        /// PEM file: the authorities of client certificates.
        ca: String,
        /// Refuse connections without a client certificate. Default: false.
        require: bool,
    }
}

table! {
    Admin, "a table" {
        /// Default: "127.0.0.1:9464".
        address: String,
        /// Must be set off loopback.
        token: Secret,
        tls: Tls,
    }
}

table! {
    Log, "a table" {
        /// Default: "json".
        format: LogFormat,
        /// Default: "info".
        level: LogLevel,
        /// One event for each request. Default: true.
        access: bool,
        /// The share, from 0 to 1, of the requests without any trouble that have one; the others always have. Default: 1.
        access_sample: Share,
        /// A file of its own for logins, grants, refusals and revocations; opened anew on SIGUSR1. Absent: the same stream.
        audit: String,
    }
}

words! {
    LogFormat {
        Json = "json",
        Text = "text",
    }
}

words! {
    LogLevel {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
}

table! {
    Telemetry, "a table" {
        /// A span of each request, for an OpenTelemetry collector. Absent: none.
        otlp: Otlp,
    }
}

table! {
    #[schemars(extend("required" = ["endpoint"]))]
    Otlp, "a table" {
        /// Where the collector takes OTLP over HTTP, without `/v1/traces`; http is for loopback only.
        endpoint: String,
        /// PEM file: the authorities that are trusted. Default: the platform's.
        ca: String,
        /// What the collector wants to see, such as `Authorization`.
        headers: Map<Secret>,
        /// Default: "tollgate".
        service_name: String,
        /// The share, from 0 to 1, of the requests whose callers do not say whether they are traced. Default: 1.
        sample: Share,
        /// Of a call to the collector. Default: "10s".
        timeout: Interval,
    }
}

table! {
    /// One of the tables. Default: embedded in `data`.
    Store, "a table" {
        embedded: EmbeddedStore,
        /// Nothing survives the process.
        memory: MemoryStore,
        redis: RemoteStore,
        postgres: RemoteStore,
    }
}

table! {
    EmbeddedStore, "a table" {
        /// A folder, made when it is missing. Default: "data".
        path: String,
    }
}

table! {
    MemoryStore, "a table" {}
}

table! {
    RemoteStore, "a table" {
        url: Secret,
    }
}

table! {
    /// One of `env`, `file` and `value`.
    Secret, "a secret: `{ env = \"NAME\" }`, `{ file = \"path\" }` or `{ value = \"...\" }`", secret = true {
        /// The environment variable that holds it.
        env: String,
        /// The file that holds it; a newline at its end is no part of it.
        file: String,
        /// The secret itself, readable by whoever reads the configuration.
        value: SecretText,
    }
}

table! {
    /// One of `hash`, `env`, `file` and `value`.
    Password, "a table: `{ hash = \"...\" }`, `{ env = \"NAME\" }`, `{ file = \"path\" }` or `{ value = \"...\" }`", secret = true {
        /// `$argon2id$...`; for client secrets also `sha256:` and 64 hexadecimal digits.
        hash: String,
        /// The environment variable that holds it.
        env: String,
        /// The file that holds it; a newline at its end is no part of it.
        file: String,
        /// The secret itself, readable by whoever reads the configuration.
        value: SecretText,
    }
}

table! {
    Issuer, "a table" {
        /// Tokens are JWTs and verified here.
        jwt: Jwt,
        /// The issuer is asked about each token (RFC 7662).
        introspection: Introspection,
    }
}

table! {
    #[schemars(extend("required" = ["issuer", "audience"]))]
    Jwt, "a table" {
        /// Byte for byte the `iss` of its tokens.
        issuer: String,
        /// A token must name one of these.
        audience: List<String>,
        /// Where its keys are published. One of `jwks_url`, `jwks_file` and `discovery`.
        jwks_url: String,
        /// A file with its keys; read again when it changes.
        jwks_file: String,
        /// Find the keys by the issuer's metadata (RFC 8414, OpenID Connect Discovery).
        discovery: bool,
        /// PEM file: a private authority that its servers' certificates come from.
        ca: String,
        /// Default: RS256, PS256, ES256, EdDSA.
        algorithms: List<String>,
        /// Accepted values of the header `typ`; "" stands for none. Default: ["at+jwt"].
        typ: List<String>,
        /// Default: "aud".
        audience_claim: String,
        /// Default: "client_id".
        client_id_claim: String,
        /// Default: "sub".
        user_claim: String,
        /// Default: ["sub"].
        required_claims: List<String>,
        /// Default: "scope".
        scope_claim: String,
        /// A dotted path is allowed. Default: "roles".
        roles_claim: String,
        /// Allowed difference of clocks, at most five minutes. Default: "30s".
        leeway: Interval,
        /// Longest time between two fetches; `Cache-Control` of the answer may shorten it. Default: "5m".
        jwks_refresh: Interval,
        /// At least this long between two refreshes caused by an unknown `kid`. Default: "30s".
        jwks_cooldown: Interval,
    }
}

table! {
    #[schemars(extend("required" = ["url", "client_id", "client_secret"]))]
    Introspection, "a table" {
        /// The `iss` of its JWTs. Absent: none of its tokens is a JWT, unless there is a `jwt` table.
        issuer: String,
        /// How its opaque tokens begin. Two issuers of opaque tokens on one route need prefixes that differ. Default: "".
        token_prefix: String,
        /// The introspection endpoint.
        url: String,
        /// What we are called there.
        client_id: String,
        client_secret: Secret,
        /// A token must name one of these. May be left out beside a `jwt` table, as may the claims: those of that table count.
        audience: List<String>,
        /// PEM file: a private authority that its servers' certificates come from.
        ca: String,
        /// Longest time for which an answer counts; never past the token's `exp`. "0s" turns the cache off. Default: "60s".
        cache_ttl: Interval,
        /// Longest time for which a refusal counts. Default: "5s".
        negative_ttl: Interval,
        /// Answers that are kept, of 2 KiB each. Default: 100000.
        cache_entries: u64,
        /// Of a call, the wait for its turn included. Default: "3s".
        timeout: Interval,
        /// Calls at a time. Default: 64.
        concurrency: u64,
        /// Default: "aud".
        audience_claim: String,
        /// Default: "client_id".
        client_id_claim: String,
        /// "username" where the issuer names users only there. Default: "sub".
        user_claim: String,
        /// Default: those that are written in the `jwt` table, or none.
        required_claims: List<String>,
        /// Default: "scope".
        scope_claim: String,
        /// A dotted path is allowed. Default: "roles".
        roles_claim: String,
        /// Allowed difference of clocks, at most five minutes. Default: "30s".
        leeway: Interval,
    }
}

table! {
    AuthorizationServer, "a table" {
        /// Default: `server.public_url`.
        issuer: String,
        /// Where the endpoints are. Default: "/oauth2".
        path: String,
        /// Default: "jwt".
        access_token_format: TokenFormat,
        /// Default: "1h".
        access_token_lifetime: Interval,
        /// Absolute. Default: "90d".
        refresh_token_lifetime: Interval,
        /// Default: "14d".
        refresh_token_idle: Interval,
        /// At most ten minutes. Default: "60s".
        code_lifetime: Interval,
        /// Default: "30m".
        session_idle: Interval,
        /// Default: "12h".
        session_lifetime: Interval,
        /// Default: `server.public_url`.
        audience: List<String>,
        /// Where the endpoints answer. Default: every listener that does not redirect.
        listeners: List<String>,
        /// A folder of pages that replace the built-in ones.
        templates: String,
        /// Default: "RS256".
        signing_algorithm: SigningAlgorithm,
        /// Default: "90d".
        key_rotation: Interval,
        /// What happens to a scope that the client has and the user has not. Default: "narrow".
        excess_user_scope: ExcessUserScope,
        /// The table's name is the client_id.
        clients: Map<Client>,
        /// Roles, and the scopes that a user of each may be given.
        roles: Map<Role>,
        users: Users,
        lockout: Lockout,
    }
}

words! {
    TokenFormat {
        Jwt = "jwt",
        Opaque = "opaque",
    }
}

words! {
    SigningAlgorithm {
        Rs256 = "RS256",
        Es256 = "ES256",
        EdDsa = "EdDSA",
    }
}

words! {
    ExcessUserScope {
        Narrow = "narrow",
        Reject = "reject",
    }
}

table! {
    Client, "a table" {
        /// For people. Default: the client_id.
        name: String,
        secret: Password,
        /// Two during a rotation.
        secrets: List<Password>,
        /// A client that cannot keep a secret. Default: false.
        public: bool,
        /// Always so for public clients. Default: false.
        require_pkce: bool,
        /// May a public client use the password grant. Default: false.
        public_password: bool,
        /// Default: "offline_access".
        refresh: Refresh,
        /// CORS origins that may call the token endpoint.
        origins: List<String>,
        /// Default: client_secret_basic and client_secret_post; none for public clients.
        auth_methods: List<AuthMethod>,
        /// The public keys of private_key_jwt.
        jwks_file: String,
        /// Default: ["authorization_code"].
        grants: List<Grant>,
        /// After this day (UTC) the password grant of this client ends.
        password_until: Date,
        /// Not longer than the server's.
        access_token_lifetime: Interval,
        /// Narrower than the server's.
        audience: List<String>,
        redirect_uris: List<String>,
        scopes: List<String>,
        default_scopes: List<String>,
        /// No consent page. Default: false.
        trusted: bool,
        /// May it call the introspection endpoint. Default: false.
        introspect: bool,
    }
}

words! {
    Refresh {
        OfflineAccess = "offline_access",
        Always = "always",
        Never = "never",
    }
}

words! {
    AuthMethod {
        ClientSecretBasic = "client_secret_basic",
        ClientSecretPost = "client_secret_post",
        PrivateKeyJwt = "private_key_jwt",
        None = "none",
    }
}

words! {
    Grant {
        AuthorizationCode = "authorization_code",
        RefreshToken = "refresh_token",
        Password = "password",
        ClientCredentials = "client_credentials",
    }
}

table! {
    #[schemars(extend("required" = ["scopes"]))]
    Role, "a table" {
        scopes: List<String>,
    }
}

table! {
    /// Sources of users; the first that knows a name decides.
    Users, "a table" {
        file: UsersFile,
        htpasswd: Object,
        ldap: Object,
        sql: Object,
        http: Object,
    }
}

table! {
    #[schemars(extend("required" = ["path"]))]
    UsersFile, "a table" {
        /// A TOML file of [[user]] tables.
        path: String,
    }
}

table! {
    /// The file that `authorization_server.users.file.path` names.
    UserList, "a table" {
        user: List<User>,
    }
}

table! {
    #[schemars(extend("required" = ["name", "password"]))]
    User, "a table" {
        name: String,
        password: Password,
        roles: List<String>,
        /// Besides those of the roles; ["*"]: whatever the client may have.
        scopes: List<String>,
        /// Default: false.
        disabled: bool,
        /// Put into the access token.
        claims: Object,
    }
}

table! {
    Lockout, "a table" {
        /// For each user and address, within `window`. Default: 5.
        failures: u64,
        /// Default: "10m".
        window: Interval,
        /// Default: "1m".
        delay: Interval,
        /// For each address, whoever the user is, within `window`. Default: 50.
        address_failures: u64,
    }
}

table! {
    #[schemars(extend("required" = ["servers"]))]
    Upstream, "a table" {
        /// http:// or https://, without a path; "unix:" and a path.
        servers: List<String>,
        /// For each server, over all workers. Default: 1024.
        connections: u64,
        /// How requests are spread over the servers. Default: "round_robin".
        balance: Balance,
        /// Default: "2s".
        connect_timeout: Interval,
        /// From the end of the request to the response head. Default: "30s".
        response_timeout: Interval,
        /// Kept for each server and worker. Default: 64.
        idle_connections: u64,
        /// h2c to http:// and unix:, ALPN to https://. Default: false.
        http2: bool,
        /// Of requests that never reached the server, or that are idempotent and have no body. Default: 1.
        retries: u64,
        /// Refuses more spellings of a path. Default: "generic".
        dialect: Dialect,
        /// Checks of each server; one that fails three in a row is out until two have succeeded. Default: none.
        health: Health,
        tls: UpstreamTls,
    }
}

words! {
    Balance {
        RoundRobin = "round_robin",
        /// The server with the fewest requests under way.
        LeastRequests = "least_requests",
        /// Each caller (the token's user, else its client, else the address) has a server.
        Hash = "hash",
    }
}

words! {
    Dialect {
        Generic = "generic",
        Tomcat = "tomcat",
        Iis = "iis",
        Php = "php",
    }
}

table! {
    #[schemars(extend("required" = ["path"]))]
    Health, "a table" {
        /// What to GET from each server; 2xx says that it is well.
        path: String,
        /// Between two checks. Default: "5s".
        interval: Interval,
    }
}

table! {
    UpstreamTls, "a table" {
        /// PEM file: a private authority. Default: the platform's.
        ca: String,
        /// Our certificate and key.
        client: Certificate,
        /// Default: the host of the server's URL.
        server_name: String,
    }
}

table! {
    #[schemars(extend("required" = ["path", "upstream", "allow"]))]
    Route, "a table" {
        /// Default: made from the path.
        name: String,
        /// Default: any host.
        hosts: List<String>,
        /// Default: every listener that does not redirect.
        listeners: List<String>,
        /// Literal segments, {name} for one segment, ** at the end for the rest.
        path: String,
        upstream: String,
        /// Whose tokens are accepted. Default: all.
        issuers: List<String>,
        /// Who may call it: alternatives. Whatever none of them admits is denied.
        allow: List<Allow>,
        /// Default: `server.mode`.
        mode: Mode,
        /// Default: `server.limits.body_bytes`.
        body_bytes: Size,
        /// From the end of the request to the response head. Default: the upstream's `response_timeout`.
        timeout: Interval,
        /// Also accept HTTP Basic from legacy callers.
        basic_bridge: BasicBridge,
        /// Spellings of a path that are refused elsewhere: "%2F", ";".
        allow_in_path: List<String>,
        /// Headers with `_` in their names. Default: "drop".
        underscore_headers: Underscore,
        /// Streams and tunnels end when the token does. Default: false.
        end_with_token: bool,
        /// Narrower than the issuer's.
        audience: List<String>,
        /// "off": introspect every time.
        cache: Cache,
        /// Networks that it may be called from, in every mode. Default: any.
        ip_allow: List<String>,
        /// Networks that it may not be called from. Wins over `ip_allow`.
        ip_deny: List<String>,
        forward: Forward,
        rate_limit: RateLimit,
        cors: Cors,
    }
}

words! {
    Underscore {
        Drop = "drop",
        Pass = "pass",
    }
}

words! {
    Cache {
        On = "on",
        Off = "off",
    }
}

table! {
    BasicBridge, "a table" {
        client: String,
    }
}

table! {
    /// All conditions must hold.
    Allow, "a table such as `{ methods = [\"GET\"], scopes = [\"orders:read\"] }`" {
        /// GET admits HEAD. Default: every method but CONNECT and TRACE.
        methods: List<String>,
        /// All of these.
        scopes: List<String>,
        /// One of these.
        any_scope: List<String>,
        /// One of these.
        roles: List<String>,
        /// One of these.
        users: List<String>,
        /// One of these.
        clients: List<String>,
        /// One of these.
        issuers: List<String>,
        /// Each of these claims has one of its values.
        claims: Map<List<String>>,
        /// Any valid token.
        authenticated: bool,
        /// No token at all.
        public: bool,
    }
}

table! {
    Forward, "a table" {
        /// Taken off the front of the path.
        strip_prefix: String,
        /// "upstream", "preserve", or a literal. Default: "upstream".
        host: String,
        /// Default: "strip".
        authorization: UpstreamAuthorization,
        /// Identity headers: always removed from what the caller sent, then set from the token.
        headers: Map<String>,
        remove_headers: List<String>,
        response_headers: Map<String>,
    }
}

/// "strip", "pass", or a table that says what to send.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(untagged)]
pub(super) enum UpstreamAuthorization {
    Word(AuthorizationWord),
    Table(Box<AuthorizationTable>),
}

words! {
    AuthorizationWord {
        Strip = "strip",
        Pass = "pass",
    }
}

table! {
    AuthorizationTable, "a table" {
        basic: BasicCredentials,
        /// A token of the gateway's own.
        bearer: Secret,
        /// A JWT that tells who calls.
        signed_jwt: SignedJwt,
    }
}

table! {
    #[schemars(extend("required" = ["username", "password"]))]
    BasicCredentials, "a table such as `{ username = \"gateway\", password = { file = \"path\" } }`" {
        username: String,
        password: Secret,
    }
}

table! {
    #[schemars(extend("required" = ["key", "audience"]))]
    SignedJwt, "a table such as `{ key = \"keys/upstream.pem\", audience = \"orders\" }`" {
        /// A file with the private key, PKCS#8 in PEM: `tollgate keygen`.
        key: String,
        /// RS256, PS256, ES256, EdDSA and their like. Default: "ES256".
        algorithm: String,
        /// Its `iss`. Default: server.public_url.
        issuer: String,
        /// Its `aud`: the upstream, by a name that no issuer's tokens are for.
        audience: String,
        /// At most, and never longer than the caller's token. Default: "5m".
        lifetime: Interval,
        /// More claims, with placeholders as in `headers`; one that is a claim alone keeps its type.
        claims: Map<String>,
    }
}

impl Read for UpstreamAuthorization {
    const KIND: &'static str = "`\"strip\"`, `\"pass\"` or a table such as `{ basic = { username, password } }`";

    fn read(value: &DeValue<'_>, at: Span, reader: &mut Reader<'_>) -> Option<Self> {
        match value {
            DeValue::String(_) => AuthorizationWord::read(value, at, reader).map(Self::Word),
            DeValue::Table(_) => AuthorizationTable::read(value, at, reader).map(|table| Self::Table(Box::new(table))),
            _ => {
                reader.mismatch(value, at, Self::KIND);
                None
            }
        }
    }
}

table! {
    /// Judged after the rules: what they refuse does not count.
    #[schemars(extend("required" = ["per", "requests", "window"]))]
    RateLimit, "a table such as `{ per = \"subject\", requests = 100, window = \"1s\" }`" {
        /// Who shares a budget. Requests without a token count by address, IPv6 addresses by /64.
        per: Per,
        /// In a window, in the long run.
        requests: u64,
        /// At most a day.
        window: Interval,
        /// At once. Default: `requests`.
        burst: u64,
    }
}

words! {
    Per {
        /// The token's user; without one, its client.
        Subject = "subject",
        /// The token's client.
        Client = "client",
        /// The caller's address.
        Address = "address",
        /// All callers together.
        Route = "route",
    }
}

table! {
    /// Which web pages' scripts may call the route. The methods are those that its rules admit.
    #[schemars(extend("required" = ["origins"]))]
    Cors, "a table such as `{ origins = [\"https://app.example.com\"] }`" {
        /// As browsers send them; `["*"]` is every origin.
        origins: List<String>,
        /// Request headers that scripts may send. Default: whatever a browser asks for.
        headers: List<String>,
        /// Response headers that scripts may read besides the usual ones and those that the gateway sets.
        expose_headers: List<String>,
        /// Requests may carry cookies. Default: false.
        credentials: bool,
        /// How long a browser need not ask again. Default: "10m".
        max_age: Interval,
    }
}

table! {
    #[schemars(extend("required" = ["request", "expect"]))]
    Test, "a table" {
        /// Method and path: "GET /orders/7".
        request: String,
        /// Claims; what is left out is filled in validly. Absent: no token.
        token: Object,
        /// The address that the request comes from. Absent: addresses are not judged.
        peer: String,
        /// 200: forwarded; else the status the caller would get.
        expect: u64,
    }
}
