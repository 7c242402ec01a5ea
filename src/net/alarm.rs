//! Timers for what nearly always comes in time: setting one costs more than finding that one went off too early.

use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

/// A timer that is moved when it has to be earlier, and looked at when it may be over. For one task at a time, whose waker
/// it notes once.
#[derive(Debug, Default)]
pub struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
    noted: bool,
}

impl Alarm {
    /// Ready at `moment`, or later.
    pub fn poll(&mut self, cx: &mut Context<'_>, moment: Instant) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(moment)));
        let is_set = !timer.is_elapsed() && timer.deadline() <= moment;
        if is_set && self.noted {
            return Poll::Pending;
        }
        if !is_set {
            timer.as_mut().reset(moment);
        }
        // A task that has had its turn is woken, and nothing is noted.
        self.noted = tokio::task::coop::has_budget_remaining();
        let mut polled = timer.as_mut().poll(cx);
        if polled.is_ready() && timer.deadline() < moment {
            timer.as_mut().reset(moment);
            polled = timer.as_mut().poll(cx);
        }
        polled
    }

    /// Waits until `moment`, or longer.
    pub async fn until(&mut self, moment: Instant) {
        std::future::poll_fn(|cx| self.poll(cx, moment)).await;
    }
}

/// Alarms that nobody waits for, still set, for those who wait next.
#[derive(Debug, Default)]
pub struct Alarms(Mutex<Vec<Alarm>>);

/// Alarms that are kept at most. One that is set holds on to the task that it was set for.
const KEPT: usize = 256;

impl Alarms {
    pub fn take(&self) -> Alarm {
        self.lock().pop().unwrap_or_default()
    }

    pub fn give_back(&self, mut alarm: Alarm) {
        alarm.noted = false;
        let mut kept = self.lock();
        if kept.len() < KEPT {
            kept.push(alarm);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Alarm>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_alarm_of_another_ends_a_wait_at_its_own_time() {
        for (first, second) in [(5, 40), (3_600_000, 5), (5, 5)] {
            let alarms = Alarms::default();
            // It was set, and is given back before it went off.
            let mut alarm = alarms.take();
            let start = Instant::now();
            let first = alarm.until(start + Duration::from_millis(first));
            assert!(tokio::time::timeout(Duration::ZERO, first).await.is_err());
            alarms.give_back(alarm);
            let mut alarm = alarms.take();
            assert!(alarm.timer.is_some());
            let end = start + Duration::from_millis(second);
            let waiting = tokio::spawn(async move {
                alarm.until(end).await;
                (Instant::now(), alarm)
            });
            let waiting =
                tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("moved to an earlier time");
            let (ended, alarm) = waiting.expect("no panic");
            assert!(ended >= end);
            // One that went off is as good as any.
            alarms.give_back(alarm);
            alarms.take().until(end + Duration::from_millis(1)).await;
            assert!(Instant::now() > end);
        }
    }
}
