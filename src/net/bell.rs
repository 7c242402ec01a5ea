//! Waiting for a peer to send: asking a socket in vain costs as much as reading from it, and a task that waits for several
//! things is woken most often for another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Asks whoever is asked only when that may have something new. For what is asked by nobody else meanwhile.
#[derive(Debug)]
pub struct Bell {
    rope: Arc<Rope>,
    waker: Waker,
    /// Whom the bell wakes.
    heard_by: Option<Waker>,
    /// It was asked, had nothing, and will ring.
    is_set: bool,
}

#[derive(Debug, Default)]
struct Rope {
    rung: AtomicBool,
    wakes: Mutex<Option<Waker>>,
}

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        // Woken without the lock, whoever that runs.
        let wakes = self.wakes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        wakes.inspect(Waker::wake_by_ref);
    }
}

impl Default for Bell {
    fn default() -> Self {
        let rope = Arc::<Rope>::default();
        Self { waker: Arc::clone(&rope).into(), rope, heard_by: None, is_set: false }
    }
}

impl Bell {
    /// What `ask` gives; it is asked if it never was, or rang since it had nothing.
    pub fn poll<T>(&mut self, cx: &Context<'_>, ask: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if !self.heard_by.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.heard_by = Some(cx.waker().clone());
            *self.rope.wakes.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
            // It may have rung for somebody else.
            self.is_set = false;
        }
        if self.is_set && !self.rope.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // What rings from here on was not heard yet.
        self.rope.rung.store(false, Ordering::Relaxed);
        let asked = ask(&mut Context::from_waker(&self.waker));
        self.is_set = asked.is_pending();
        asked
    }

    /// Somebody else has asked.
    pub fn forget(&mut self) {
        self.is_set = false;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_has_nothing_is_asked_again_when_it_rang() {
        let (first, second) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let (mut bell, mut noted, mut asked) = (Bell::default(), None, 0);
        let mut poll = |bell: &mut Bell, by: &Arc<Woken>, has: bool| {
            asked = 0;
            let waker = Arc::clone(by).into();
            let polled = bell.poll(&Context::from_waker(&waker), |cx| {
                asked += 1;
                noted = Some(cx.waker().clone());
                if has { Poll::Ready(()) } else { Poll::Pending }
            });
            (polled.is_ready(), asked, noted.clone().unwrap())
        };
        let (_, asked, ring) = poll(&mut bell, &first, false);
        assert_eq!(asked, 1);
        // Nothing has come.
        assert_eq!(poll(&mut bell, &first, true).1, 0);
        ring.wake_by_ref();
        assert_eq!(first.0.load(Ordering::Relaxed), 1);
        let (is_ready, asked, _) = poll(&mut bell, &first, true);
        assert_eq!((is_ready, asked), (true, 1));
        // Whoever had something may have more, and does not ring for it.
        assert_eq!(poll(&mut bell, &first, false).1, 1);
        // It rings for the one who waits now.
        let (_, asked, ring) = poll(&mut bell, &second, false);
        assert_eq!(asked, 1);
        ring.wake_by_ref();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (1, 1));
        assert_eq!(poll(&mut bell, &second, false).1, 1);
        bell.forget();
        assert_eq!(poll(&mut bell, &second, false).1, 1);
        assert_eq!(poll(&mut bell, &second, false).1, 0);
    }
}
