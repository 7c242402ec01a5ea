//! What an attack does to everybody else: whether they are served meanwhile, how long they wait, what memory it takes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::http::Req;
use super::site::Site;

/// Whoever else asks, on connections of their own.
#[derive(Clone, Copy, Debug)]
pub struct Effect {
    /// What the gateway's resident memory grew by, in KiB, while the attack still held what it held.
    pub grown: u64,
    /// How long the others waited, in the middle and at most, in multiples of the median without an attack.
    pub median: f64,
    pub longest: f64,
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { grown, median, longest } = self;
        write!(f, "{grown} KiB; others waited {median:.1} times as long, at most {longest:.0} times")
    }
}

/// Does `attack` while others ask for `/public/x`; all of them must be answered. What it gives is dropped at the end.
pub fn during<T>(site: &Site, attack: impl FnOnce() -> T) -> (T, Effect) {
    let ask = || {
        let begun = Instant::now();
        let status = site.send(&Req::get("/public/x")).status;
        assert_eq!(status, 200, "another caller");
        begun.elapsed()
    };
    let median = |mut waits: Vec<Duration>| {
        waits.sort();
        waits[waits.len() / 2].as_secs_f64()
    };
    let calm = median((0..21).map(|_| ask()).collect());
    let before = site.gateway.memory("VmRSS");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut waits = vec![ask()];
            while !over.load(Ordering::SeqCst) {
                waits.push(ask());
            }
            waits
        });
        let result = attack();
        let grown = site.gateway.memory("VmRSS").saturating_sub(before);
        over.store(true, Ordering::SeqCst);
        let waits = others.join().expect("others are served");
        let longest = waits.iter().max().map_or(0.0, Duration::as_secs_f64);
        (result, Effect { grown, median: median(waits) / calm, longest: longest / calm })
    })
}
