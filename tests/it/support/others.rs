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
    /// How long the others waited: in the middle, 99 of 100 and at most, in multiples of the median without an attack.
    pub median: f64,
    pub most: f64,
    pub longest: f64,
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { grown, median, most, longest } = self;
        write!(
            f,
            "{grown} KiB; others waited {median:.1} times as long, 99 % at most {most:.1}, all at most {longest:.1}"
        )
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
    let sorted = |mut waits: Vec<Duration>| {
        waits.sort();
        waits
    };
    let calm = sorted((0..101).map(|_| ask()).collect())[50].as_secs_f64();
    let before = site.gateway.memory("VmRSS");
    let over = AtomicBool::new(false);
    /// Sets it also when the attack fails: the others would ask for ever.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    thread::scope(|scope| {
        let end = Over(&over);
        let others = scope.spawn(|| {
            let mut waits = vec![ask()];
            while !over.load(Ordering::SeqCst) {
                waits.push(ask());
            }
            waits
        });
        let result = attack();
        let grown = site.gateway.memory("VmRSS").saturating_sub(before);
        drop(end);
        let waits = sorted(others.join().expect("others are served"));
        let among = |percent: usize| waits[(waits.len() - 1) * percent / 100].as_secs_f64() / calm;
        (result, Effect { grown, median: among(50), most: among(99), longest: among(100) })
    })
}
