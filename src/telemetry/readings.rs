//! The metrics as they stand at one moment, for a page that people read: sums over the labels that do not matter to it.

use std::collections::BTreeMap;

use prometheus::proto::{Metric, MetricFamily};

/// What was gathered.
#[derive(Debug)]
pub struct Readings(pub(super) Vec<MetricFamily>);

/// One series of a counter or a gauge.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a>(&'a Metric);

impl<'a> Series<'a> {
    /// Empty when it has no such label.
    pub fn label(&self, name: &str) -> &'a str {
        self.0.get_label().iter().find(|label| label.name() == name).map_or("", |label| label.value())
    }

    /// What it counts; nothing here is below zero.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counted in whole numbers")]
    pub fn value(&self) -> u64 {
        let (counter, gauge) = (self.0.get_counter().get_value(), self.0.get_gauge().get_value());
        counter.max(gauge) as u64
    }
}

impl Readings {
    /// The series of `name` (without `tollgate_`).
    pub fn series(&self, name: &str) -> impl Iterator<Item = Series<'_>> {
        self.family(name).map(Series)
    }

    /// The sum of `name` for each value of `label`.
    pub fn by<'a>(&'a self, name: &str, label: &str) -> BTreeMap<&'a str, u64> {
        self.by_where(name, label, |_| true)
    }

    /// The same of the series that are `wanted`.
    pub fn by_where<'a>(
        &'a self,
        name: &str,
        label: &str,
        wanted: impl Fn(&Series<'a>) -> bool,
    ) -> BTreeMap<&'a str, u64> {
        let mut sums = BTreeMap::new();
        for series in self.family(name).map(Series).filter(wanted) {
            *sums.entry(series.label(label)).or_default() += series.value();
        }
        sums
    }

    pub fn sum(&self, name: &str) -> u64 {
        self.series(name).map(|series| series.value()).sum()
    }

    /// For each value of `label` of a histogram: the bound below which `share` of what was observed lies, as far as the
    /// buckets tell; infinite beyond the last one. What observed nothing is left out.
    pub fn quantiles<'a>(&'a self, name: &str, label: &str, share: f64) -> BTreeMap<&'a str, f64> {
        let mut bounds = BTreeMap::new();
        for metric in self.family(name) {
            let histogram = metric.get_histogram();
            let all = histogram.get_sample_count();
            if all == 0 {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "for people to read")]
            let is_enough = |count: u64| count as f64 >= share * all as f64;
            let bucket = histogram.get_bucket().iter().find(|bucket| is_enough(bucket.cumulative_count()));
            bounds.insert(Series(metric).label(label), bucket.map_or(f64::INFINITY, |bucket| bucket.upper_bound()));
        }
        bounds
    }

    fn family(&self, name: &str) -> impl Iterator<Item = &Metric> {
        let same = |family: &&MetricFamily| family.name().strip_prefix("tollgate_") == Some(name);
        self.0.iter().find(same).into_iter().flat_map(|family| family.get_metric())
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn what_was_counted_is_read() {
        let metrics = Metrics::new();
        for (upstream, kind, count) in [("a", "connect", 2), ("a", "timeout", 3), ("b", "connect", 4)] {
            metrics.upstream_errors.with_label_values(&[upstream, kind]).inc_by(count);
        }
        for seconds in [0.0004, 0.0004, 0.02, 99.0] {
            metrics.upstream_seconds.with_label_values(&["a"]).observe(seconds);
        }
        metrics.upstream_seconds.with_label_values(&["b"]);
        metrics.connections.with_label_values(&["main"]).set(7);
        let readings = metrics.readings();
        assert_eq!(readings.by("upstream_errors_total", "upstream"), [("a", 5), ("b", 4)].into());
        let timeouts =
            readings.by_where("upstream_errors_total", "upstream", |series| series.label("kind") == "timeout");
        assert_eq!(timeouts, [("a", 3)].into());
        assert_eq!(readings.sum("connections"), 7);
        assert_eq!(readings.sum("nothing"), 0);
        let bounds = [0.5, 0.75, 0.99].map(|share| readings.quantiles("upstream_response_seconds", "upstream", share));
        assert_eq!(bounds, [0.0005, 0.025, f64::INFINITY].map(|bound| [("a", bound)].into()));
    }
}
