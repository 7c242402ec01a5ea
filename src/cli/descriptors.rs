//! How many files and sockets the process may have open at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Beside connections: pipes of long answers, sockets that listen, files.
const BESIDES: u64 = 512;

/// Provides for so many connections of callers, each with one to an upstream, as far as the system allows; tells where it
/// does not.
pub(super) fn provide(connections: usize) {
    let needed = 2 * connections as u64 + BESIDES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // None is no limit.
    let Some(current) = current.filter(|current| *current < needed) else { return };
    let wanted = maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    let limit = if raised.is_ok() { wanted } else { current };
    if limit < needed {
        let advice = "raise the limit of open files (`ulimit -n`, LimitNOFILE), or lower server.limits.connections";
        tracing::warn!(event = "descriptors.few", limit, needed, advice);
    }
}
