//! How many files and sockets the process may have open at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::upstream;

/// Beside connections: pipes of long answers, sockets that listen, files.
const BESIDES: u64 = 512;

/// Provides for all connections of callers and to servers, as far as the system allows. Tells where that is too few for
/// callers who have one connection to a server each.
pub(super) fn provide(callers: usize, upstreams: &[upstream::Settings]) {
    let servers = upstreams.iter().map(|upstream| upstream.servers.len() * upstream.connections).sum();
    let enough = |servers: usize| callers as u64 + servers as u64 + BESIDES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None is no limit.
    let Some(current) = current.filter(|current| *current < enough(servers)) else { return };
    let wanted = maximum.map_or(enough(servers), |maximum| maximum.min(enough(servers)));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    let limit = if raised.is_ok() { wanted } else { current };
    let needed = enough(servers.min(callers));
    if limit < needed {
        let advice = "raise the limit of open files (`ulimit -n`, LimitNOFILE), or lower server.limits.connections";
        tracing::warn!(event = "descriptors.few", limit, needed, advice);
    }
}
