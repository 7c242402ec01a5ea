//! How many connections there are, in all and of each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use prometheus::{IntCounterVec, IntGauge};
use tokio::sync::Notify;

use super::Limits;
use super::connection::Listener;
use crate::net::TrustedProxies;
use crate::telemetry::metrics::Metrics;

/// The open connections, tunnels among them.
#[derive(Debug)]
pub(super) struct Population {
    open: AtomicUsize,
    /// Never longer than the limit of connections. Trusted proxies are not in it.
    by_address: Mutex<HashMap<IpAddr, usize>>,
    limit: AtomicUsize,
    limit_per_address: AtomicUsize,
    trusted: ArcSwap<TrustedProxies>,
    changed: Notify,
    limits_reached: IntCounterVec,
}

impl Population {
    pub(super) fn new(limits: &Limits, trusted: TrustedProxies, metrics: &Metrics) -> Self {
        Self {
            open: AtomicUsize::new(0),
            by_address: Mutex::default(),
            limit: AtomicUsize::new(limits.connections),
            limit_per_address: AtomicUsize::new(limits.connections_per_ip),
            trusted: ArcSwap::from_pointee(trusted),
            changed: Notify::new(),
            limits_reached: metrics.limits_reached.clone(),
        }
    }

    /// For connections that come from now on.
    pub(super) fn set_limits(&self, limits: &Limits, trusted: TrustedProxies) {
        self.limit.store(limits.connections, Ordering::Relaxed);
        self.limit_per_address.store(limits.connections_per_ip, Ordering::Relaxed);
        self.trusted.store(Arc::new(trusted));
    }

    /// A place for one more connection of `peer`, until it is dropped.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr, listener: &Listener) -> Option<Guard> {
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.limit.load(Ordering::Relaxed) {
            self.leave();
            self.limits_reached.with_label_values(&["connections"]).inc();
            return None;
        }
        listener.open.inc();
        let mut guard = Guard { population: Arc::clone(self), counted: None, gauge: listener.open.clone() };
        if !guard.announce(peer) {
            return None;
        }
        listener.accepted.inc();
        Some(guard)
    }

    pub(super) fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted.load().contains(peer)
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Resolves when no connection is left.
    pub(super) async fn emptied(&self) {
        loop {
            let changed = self.changed.notified();
            if self.open() == 0 {
                return;
            }
            changed.await;
        }
    }

    fn leave(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_one();
    }
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct Guard {
    population: Arc<Population>,
    counted: Option<IpAddr>,
    gauge: IntGauge,
}

impl Guard {
    /// Counts the connection, so far counted for nobody, among those of `peer`; false where that has as many as it may.
    pub(super) fn announce(&mut self, peer: IpAddr) -> bool {
        let population = &self.population;
        if population.trusts(peer) {
            return true;
        }
        let mut by_address = population.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let own = by_address.entry(peer).or_default();
        if *own >= population.limit_per_address.load(Ordering::Relaxed) {
            drop(by_address);
            population.limits_reached.with_label_values(&["connections_per_ip"]).inc();
            return false;
        }
        *own += 1;
        self.counted = Some(peer);
        true
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.gauge.dec();
        if let Some(peer) = self.counted {
            let mut by_address = self.population.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(own) = by_address.get_mut(&peer) {
                *own -= 1;
                if *own == 0 {
                    by_address.remove(&peer);
                }
            }
        }
        self.population.leave();
    }
}
