//! Figures that are read when they are asked for, in the text format of Prometheus.
//!
//! Source: Prometheus documentation, "Exposition formats", text-based format.

use std::fmt::{Display, Write};

use super::metrics::{Kind, Metric};
use crate::tally::Distribution;

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// Names and values. Values come from closed sets or name nodes: never a tenant.
pub type Labels<'l> = &'l [(&'l str, &'l str)];

impl Exposition {
    /// The samples of one counter.
    pub fn counter<'l>(&mut self, name: &str, samples: impl IntoIterator<Item = (Labels<'l>, u64)>) {
        self.family(name, Kind::Counter);
        samples.into_iter().for_each(|(labels, value)| self.sample(name, "", labels, None, value));
    }

    /// The samples of one gauge.
    pub fn gauge<'l>(&mut self, name: &str, samples: impl IntoIterator<Item = (Labels<'l>, f64)>) {
        self.family(name, Kind::Gauge);
        samples.into_iter().for_each(|(labels, value)| self.sample(name, "", labels, None, value));
    }

    /// The samples of one histogram, in seconds.
    pub fn histogram<'l>(&mut self, name: &str, samples: impl IntoIterator<Item = (Labels<'l>, Distribution)>) {
        self.family(name, Kind::Histogram);
        for (labels, distribution) in samples {
            for (bound, count) in distribution.cumulative() {
                let bound = (bound as f64 / 1e6).to_string();
                self.sample(name, "_bucket", labels, Some(&bound), count);
            }
            self.sample(name, "_bucket", labels, Some("+Inf"), distribution.count());
            self.sample(name, "_sum", labels, None, distribution.micros as f64 / 1e6);
            self.sample(name, "_count", labels, None, distribution.count());
        }
    }

    /// The whole page.
    pub fn into_text(self) -> String {
        self.text
    }

    fn family(&mut self, name: &str, kind: Kind) {
        if let Some(metric) = Metric::named(name) {
            self.write(format_args!("# HELP {name} {}\n", metric.help));
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.write(format_args!("# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: impl Display) {
        self.write(format_args!("{name}{suffix}"));
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (at, (label, text)) in all.enumerate() {
            let opening = if at == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.write(format_args!("{opening}{label}=\"{text}\""));
        }
        let closing = if labels.is_empty() && bound.is_none() { "" } else { "}" };
        self.write(format_args!("{closing} {value}\n"));
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("a string takes everything");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tally::Histogram;

    #[test]
    fn a_page_is_written_as_prometheus_reads_it() {
        let mut page = Exposition::default();
        page.counter("a_total", [(&[("kind", "x\"y")][..], 7), (&[][..], 8)]);
        let waits = Histogram::default();
        waits.record(Duration::from_micros(300));
        waits.record(Duration::from_secs(60));
        page.histogram("wait_seconds", [(&[("node", "n:1")][..], waits.read())]);
        let text = page.into_text();
        assert!(text.starts_with("# TYPE a_total counter\na_total{kind=\"x\\\"y\"} 7\na_total 8\n"), "{text}");
        for line in [
            "# TYPE wait_seconds histogram",
            "wait_seconds_bucket{node=\"n:1\",le=\"0.00025\"} 0",
            "wait_seconds_bucket{node=\"n:1\",le=\"0.0005\"} 1",
            "wait_seconds_bucket{node=\"n:1\",le=\"10\"} 1",
            "wait_seconds_bucket{node=\"n:1\",le=\"+Inf\"} 2",
            "wait_seconds_sum{node=\"n:1\"} 60.0003",
            "wait_seconds_count{node=\"n:1\"} 2",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in\n{text}");
        }
    }
}
