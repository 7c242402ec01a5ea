//! How many requests are sent again. When all servers fail, every retry adds to what has brought them down.

use std::sync::{Mutex, PoisonError};

/// Requests that must have come for each that is sent again, in the long run.
const REQUESTS: u64 = 5;

/// A fifth of the requests, and a reserve for a server that goes down with all that is on it.
#[derive(Debug)]
pub(super) struct Budget {
    most: u64,
    /// Only those that failed come here.
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    /// Requests that were counted when it was last looked at.
    requests: u64,
    credit: u64,
}

impl Budget {
    /// `reserve` retries can be had at once. `requests` have been counted so far.
    pub(super) fn new(reserve: usize, requests: u64) -> Self {
        let most = REQUESTS.saturating_mul(u64::try_from(reserve).unwrap_or(u64::MAX));
        Self { most, account: Mutex::new(Account { requests, credit: most }) }
    }

    /// Whether one more may be sent again, now that `requests` have been counted.
    pub(super) fn spend(&self, requests: u64) -> bool {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        // Another may have read the count later and come first.
        let fresh = requests.saturating_sub(account.requests);
        account.requests += fresh;
        account.credit = account.credit.saturating_add(fresh).min(self.most);
        let left = account.credit.checked_sub(REQUESTS);
        account.credit = left.unwrap_or(account.credit);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_then_one_in_five() {
        let budget = Budget::new(10, 1000);
        let spent = |requests| (0..).take_while(|_| budget.spend(requests)).take(100).count();
        assert_eq!(spent(1000), 10);
        assert_eq!(spent(1004), 0);
        assert_eq!(spent(1005), 1);
        assert_eq!(spent(1000), 0, "an older count");
        assert_eq!(spent(1030), 5);
        assert_eq!(spent(100_000), 10, "no more is saved up");
    }
}
