//! The certificates that are served, looked after: replaced files are taken up, and how long they are good is told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::bound::Bound;
use crate::telemetry::metrics::Metrics;
use crate::tls::Certificates;

/// How often certificate files are looked at.
const CERTIFICATES: Duration = Duration::from_secs(2);

/// The certificates that are served now, those of the operators' listener among them.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    served: Arc<Mutex<Vec<ServedCertificates>>>,
    others: Arc<Mutex<Vec<ServedCertificates>>>,
}

/// The certificates of one listener.
#[derive(Clone, Debug)]
struct ServedCertificates {
    listener: Arc<str>,
    certificates: Arc<Certificates>,
}

impl Watched {
    pub(super) fn replace(&self, bound: &[Bound], metrics: &Metrics) {
        let served = bound.iter().filter_map(|bound| {
            let certificates = Arc::clone(&bound.tls.as_ref()?.certificates);
            Some(ServedCertificates { listener: Arc::clone(&bound.settings.name), certificates })
        });
        let served: Vec<_> = served.collect();
        metrics.certificate_not_after.reset();
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.iter().chain(&served).for_each(|served| served.count(metrics));
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = served;
    }

    /// Adds those of a listener that is not the server's.
    pub fn also(&self, listener: &str, certificates: Arc<Certificates>, metrics: &Metrics) {
        let served = ServedCertificates { listener: Arc::from(listener), certificates };
        served.count(metrics);
        self.others.lock().unwrap_or_else(PoisonError::into_inner).push(served);
    }

    /// Picks up certificates that are replaced on disk. Runs until dropped.
    pub async fn keep_fresh(self, metrics: Metrics) {
        loop {
            tokio::time::sleep(CERTIFICATES).await;
            let all = [&self.served, &self.others];
            let all: Vec<_> =
                all.iter().flat_map(|some| some.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect();
            for served in all {
                served.refresh(&metrics);
            }
        }
    }
}

impl ServedCertificates {
    fn refresh(&self, metrics: &Metrics) {
        match self.certificates.refresh() {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(event = "certificates.replaced", listener = &*self.listener);
                self.count(metrics);
            }
            Err(error) => {
                tracing::error!(event = "certificates.unfit", listener = &*self.listener, %error, "the old ones stay");
            }
        }
    }

    fn count(&self, metrics: &Metrics) {
        for (place, certificate) in self.certificates.current().iter().enumerate() {
            let gauge = &metrics.certificate_not_after;
            gauge.with_label_values(&[&*self.listener, &(place + 1).to_string()]).set(certificate.not_after);
        }
    }
}
