//! Whether a server is given requests. After failures in a row it is out; when its time is over, one request at a time
//! tries it, and once that is answered it gets its share back by and by: a server that has just started is slow. Where no
//! other server takes requests there is nothing to be won by a pause: then one request at a time tries it, after no more
//! of one than what the last had to wait for its failure asks for.
//!
//! In the ordinary case this costs a request two loads of atomics.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Failures without an answer between them, after which a server is out.
const FAILURES: u32 = 3;
/// How long it is out at first. That doubles with each trial that fails...
const OUT: Duration = Duration::from_secs(1);
/// ... up to this, so that a server that is back is soon found to be.
const LONGEST_OUT: Duration = Duration::from_secs(5);
/// Where there is no other server: how long it is out at least, so that one that refuses connections is not asked by each
/// of many requests...
const PACE: Duration = Duration::from_millis(10);
/// ... and how many times as long as its failure took, up to the longest, so that callers do not wait for it in turn.
const PATIENCE: u32 = 4;
/// How long a trial keeps others off. It may take longer, or be given up without an outcome.
const TRIAL: Duration = Duration::from_secs(5);
/// How long a server that comes back has less than its share.
const RETURN: Duration = Duration::from_secs(10);
/// In how many steps it gets it back.
const STEPS: u64 = 16;

/// What the requests of all workers know of one server.
#[derive(Debug)]
pub(super) struct Standing {
    epoch: Instant,
    /// A [`State`] in one word.
    state: AtomicU64,
    /// In a row.
    failures: AtomicU32,
    /// How many times in a row it went out again, or stayed out after a trial.
    rounds: AtomicU32,
    /// From when on it is tried, while it is out and there is no other. In milliseconds since the epoch.
    last_resort: AtomicU64,
}

/// Times are in milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    In,
    /// By its health checks, which alone bring it back.
    Ill,
    Out {
        until: u64,
    },
    Back {
        since: u64,
    },
}

/// What a server says to one more request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Yes,
    /// The one that finds out whether the server is back.
    Trial,
    /// Not now, because it has only just come back.
    Spared,
    Out,
}

impl State {
    fn word(self) -> u64 {
        match self {
            Self::In => 0,
            Self::Ill => u64::MAX,
            Self::Out { until } => until << 1 | 1,
            Self::Back { since } => since << 1,
        }
    }

    fn of(word: u64) -> Self {
        match (word, word & 1) {
            (0, _) => Self::In,
            (u64::MAX, _) => Self::Ill,
            (_, 1) => Self::Out { until: word >> 1 },
            _ => Self::Back { since: word >> 1 },
        }
    }
}

impl Standing {
    pub(super) fn new() -> Self {
        let zero = AtomicU32::default;
        let (state, last_resort) = (AtomicU64::default(), AtomicU64::default());
        Self { epoch: Instant::now(), state, failures: zero(), rounds: zero(), last_resort }
    }

    /// Whether the server takes a request. `lot` is a number that the request drew, or keeps.
    pub(super) fn admits(&self, now: Instant, lot: u64) -> Admission {
        let state = self.state();
        if state == State::In {
            return Admission::Yes;
        }
        let now = self.millis(now);
        match state {
            State::In => Admission::Yes,
            State::Ill => Admission::Out,
            State::Back { since } => {
                let elapsed = now.saturating_sub(since);
                if elapsed >= millis(RETURN) {
                    // Whoever comes first; a failure meanwhile is not undone.
                    if self.change(state, State::In) {
                        self.rounds.store(0, Ordering::Relaxed);
                    }
                    return Admission::Yes;
                }
                let step = elapsed * STEPS / millis(RETURN);
                if lot % STEPS <= step { Admission::Yes } else { Admission::Spared }
            }
            State::Out { until } if now >= until && self.change(state, State::Out { until: now + millis(TRIAL) }) => {
                self.last_resort.store(now + millis(TRIAL), Ordering::Relaxed);
                Admission::Trial
            }
            State::Out { .. } => Admission::Out,
        }
    }

    /// Whether the request is to try a server that is out by its failures, now that no other takes it.
    pub(super) fn is_tried_as_last_resort(&self, now: Instant) -> bool {
        let (state, now) = (self.state(), self.millis(now));
        let from = self.last_resort.load(Ordering::Relaxed);
        if now < from || !matches!(state, State::Out { .. }) {
            return false;
        }
        let held = now + millis(TRIAL);
        let first = self.last_resort.compare_exchange(from, held, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        first && self.change(state, State::Out { until: held })
    }

    /// Whether there is nothing about it.
    pub(super) fn is_in(&self) -> bool {
        self.state() == State::In
    }

    pub(super) fn is_out(&self) -> bool {
        matches!(self.state(), State::Out { .. } | State::Ill)
    }

    /// Notes an answer, whatever it says; `trial`: when, if it is that of a trial. True if the server is back with it.
    pub(super) fn answered(&self, trial: Option<Instant>) -> bool {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        trial.is_some_and(|now| self.returns(now))
    }

    /// Takes a server back in that is out by its failures. False if it is not.
    fn returns(&self, now: Instant) -> bool {
        let state = self.state();
        matches!(state, State::Out { .. }) && self.change(state, State::Back { since: self.millis(now) })
    }

    /// Has it out until it is well. True if it was not out.
    pub(super) fn is_ill(&self) -> bool {
        let before = State::of(self.state.swap(State::Ill.word(), Ordering::Relaxed));
        matches!(before, State::In | State::Back { .. })
    }

    /// Takes it back in, whatever it was out for. True if it was out.
    pub(super) fn is_well(&self, now: Instant) -> bool {
        let state = self.state();
        self.is_out() && self.change(state, State::Back { since: self.millis(now) })
    }

    /// Notes a failure, and how long it `took`. `may_go`: whether the server may go out for it, asked only when it would.
    /// True if it went.
    pub(super) fn failed(&self, trial: bool, took: Duration, now: Instant, may_go: impl FnOnce() -> bool) -> bool {
        let state = self.state();
        let was_out = matches!(state, State::Out { .. } | State::Ill);
        // Of those that were on their way when the server went out, each fails now.
        if state == State::Ill || (was_out && !trial) {
            return false;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if !was_out && (failures < FAILURES || !may_go()) {
            return false;
        }
        let rounds = self.rounds.load(Ordering::Relaxed);
        let pause = LONGEST_OUT.min(OUT * 2_u32.pow(rounds.min(8)));
        let now = self.millis(now);
        let gone = self.change(state, State::Out { until: now + millis(pause) });
        if gone {
            let pause = took.saturating_mul(PATIENCE).clamp(PACE, LONGEST_OUT);
            self.last_resort.store(now + millis(pause), Ordering::Relaxed);
            self.rounds.store(rounds.saturating_add(1), Ordering::Relaxed);
        }
        gone && !was_out
    }

    fn state(&self) -> State {
        State::of(self.state.load(Ordering::Relaxed))
    }

    fn change(&self, from: State, to: State) -> bool {
        self.state.compare_exchange(from.word(), to.word(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Never 0, which would be another state.
    fn millis(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.epoch)) + 1
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(standing: &Standing, times: u32, at: Instant) -> u32 {
        (0..times).map(|_| u32::from(standing.failed(false, Duration::ZERO, at, || true))).sum()
    }

    #[test]
    fn failures_in_a_row_put_a_server_out_and_an_answer_between_them_does_not() {
        let (standing, now) = (Standing::new(), Instant::now());
        assert_eq!(fail(&standing, 2, now), 0);
        standing.answered(None);
        assert_eq!(fail(&standing, 2, now), 0);
        assert_eq!(standing.admits(now, 0), Admission::Yes);
        assert_eq!(fail(&standing, 5, now), 1, "it goes once");
        assert_eq!(standing.admits(now, 0), Admission::Out);
        let stays = Standing::new();
        assert!((0..9).all(|_| !stays.failed(false, Duration::ZERO, now, || false)));
        assert_eq!(stays.admits(now, 0), Admission::Yes);
    }

    #[test]
    fn one_request_at_a_time_tries_a_server_and_those_that_were_under_way_do_not_count() {
        let (standing, mut now) = (Standing::new(), Instant::now());
        fail(&standing, 3, now);
        for out in [1, 2, 4, 5, 5] {
            assert_eq!(fail(&standing, 9, now), 0);
            assert!(!standing.answered(None), "an old answer brings nobody back");
            assert_eq!(standing.admits(now + Duration::from_millis(out * 1000 - 1), 0), Admission::Out, "{out}");
            now += Duration::from_secs(out);
            assert_eq!(standing.admits(now, 0), Admission::Trial, "{out}");
            assert_eq!(standing.admits(now, 0), Admission::Out, "one is enough");
            assert!(!standing.failed(true, Duration::ZERO, now, || false), "it was out already");
        }
        // A trial that nothing comes of.
        now += LONGEST_OUT;
        assert_eq!(standing.admits(now, 0), Admission::Trial);
        now += TRIAL;
        assert_eq!(standing.admits(now, 0), Admission::Trial);
        assert!(standing.answered(Some(now)));
        assert!(!standing.is_out());
    }

    #[test]
    fn where_there_is_no_other_only_failures_that_took_long_keep_requests_off() {
        let (standing, mut now) = (Standing::new(), Instant::now());
        assert!(!standing.is_tried_as_last_resort(now), "it is in");
        assert_eq!(fail(&standing, 3, now), 1);
        for _ in 0..100 {
            assert!(!standing.is_tried_as_last_resort(now), "just now it refused");
            now += PACE;
            assert!(standing.is_tried_as_last_resort(now));
            assert!(!standing.is_tried_as_last_resort(now), "one is enough");
            assert_eq!(standing.admits(now, 0), Admission::Out);
            standing.failed(true, Duration::ZERO, now, || false);
        }
        now += PACE;
        for (took, pause) in [(100, 400), (2000, 5000)] {
            assert!(standing.is_tried_as_last_resort(now));
            standing.failed(true, Duration::from_millis(took), now, || false);
            assert!(!standing.is_tried_as_last_resort(now + Duration::from_millis(pause) - PACE), "it took {took} ms");
            now += Duration::from_millis(pause);
        }
        assert_eq!(standing.admits(now, 0), Admission::Trial);
        assert!(!standing.is_tried_as_last_resort(now), "one is enough");
        assert!(standing.is_tried_as_last_resort(now + TRIAL), "nothing came of it");
        assert!(standing.answered(Some(now)) && !standing.is_out());
        standing.is_ill();
        assert!(!standing.is_tried_as_last_resort(now + LONGEST_OUT * 9), "its checks alone bring it back");
    }

    #[test]
    fn a_server_that_comes_back_gets_its_share_by_and_by() {
        let (standing, mut now) = (Standing::new(), Instant::now());
        fail(&standing, 3, now);
        now += OUT;
        assert_eq!(standing.admits(now, 0), Admission::Trial);
        assert!(standing.answered(Some(now)));
        let share = |now| (0..1600).filter(|lot| standing.admits(now, *lot) == Admission::Yes).count();
        assert_eq!(share(now), 100);
        assert_eq!(share(now + RETURN / 2), 900);
        assert_eq!(share(now + RETURN), 1600);
        // What fails on its way back is out for longer.
        fail(&standing, 3, now + RETURN);
        assert_eq!(standing.admits(now + RETURN + OUT, 0), Admission::Trial, "it had come back in full");
    }
}
