//! What a crash leaves behind.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;

use rustix::process::{Resource, Rlimit, Signal, geteuid, getrlimit, setrlimit};

use crate::support::Wrong;
use crate::support::site::{OPEN, Site, SiteBuilder};

#[test]
fn memory_is_not_dumped_unless_the_operator_allows_it() {
    // What the gateway inherits.
    let maximum = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: maximum, maximum }).unwrap();
    let crash = |builder: SiteBuilder| {
        let gateway = builder.more(OPEN).start().gateway;
        let memory = std::fs::metadata(format!("/proc/{}/mem", gateway.pid())).unwrap();
        gateway.signal(Signal::ABORT);
        (gateway.wait_exit().core_dumped(), memory.uid())
    };
    let mut wrong = Wrong::default();
    wrong.eq("dumped, and whose the memory is", crash(Site::builder()), (false, 0));
    let (dumped, owner) = crash(Site::builder().env("TOLLGATE_ALLOW_CORE_DUMPS", "true"));
    wrong.eq("whose the memory is", owner, geteuid().as_raw());
    if !dumped {
        eprintln!("this system writes no core dumps, so that only the owner was shown");
    }
    wrong.done();
}
