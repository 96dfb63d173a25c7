//! Metrics for Prometheus: what both daemons have in common.

use crate::{
    places::Places,
    tls::{self, Identity},
};
use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use std::{fmt, path::PathBuf, sync::Arc, time::SystemTime};

/// The response to `GET /metrics`.
pub fn answer(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => {
            ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "cannot write the metrics");
            axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A counter that is read where it is kept. `_total` is added to the name.
pub fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

/// A gauge that is read where it is kept.
pub fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

/// Gauges with one name, distinguished by their labels.
pub fn gauges<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, f64)>,
) -> fmt::Result {
    family(encoder, (name, help, MetricType::Gauge), values, ConstGauge::new)
}

/// Counters with one name, distinguished by their labels. `_total` is added to the name.
pub fn counters<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    family(encoder, (name, help, MetricType::Counter), values, ConstCounter::new)
}

fn family<L: EncodeLabelSet, N, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, kind): (&str, &str, MetricType),
    values: impl IntoIterator<Item = (L, N)>,
    metric: impl Fn(N) -> M,
) -> fmt::Result {
    let mut family: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        metric(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// What every daemon exports about itself: its version, its start time, and when its certificates expire.
#[derive(Debug)]
pub struct Own {
    prefix: &'static str,
    version: &'static str,
    started: SystemTime,
    identity: Option<Identity>,
}

impl Own {
    /// The metrics of a program that starts now. Their names begin with `prefix`, for instance `cps_agent`. `identity`
    /// is none if TLS is off.
    pub fn new(prefix: &'static str, version: &'static str, identity: Option<Identity>) -> Self {
        Self { prefix, version, started: SystemTime::now(), identity }
    }
}

/// A time in Prometheus' format: seconds since 1970.
pub fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl Collector for Own {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self { prefix, version, started, identity } = self;
        let build = [([("version", *version)], 1.0)];
        gauges(&mut encoder, &format!("{prefix}_build_info"), "The version that runs", build)?;
        // Under the name that it has in all programs.
        let help = "When the process started, in seconds since 1970";
        gauge(&mut encoder, "process_start_time_seconds", help, seconds(*started))?;
        let Some(identity) = identity else { return Ok(()) };
        let facts = identity.facts();
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
        let ends =
            [([("certificate", "own")], facts.not_after as f64), ([("certificate", "ca")], facts.ca_not_after as f64)];
        let name = format!("{prefix}_certificate_expiry_timestamp_seconds");
        gauges(&mut encoder, &name, "When the certificate ends, in seconds since 1970", ends)?;
        #[expect(clippy::cast_precision_loss, reason = "some years")]
        let lifetime = [([("certificate", "own")], facts.not_after.saturating_sub(facts.not_before) as f64)];
        let name = format!("{prefix}_certificate_lifetime_seconds");
        gauges(&mut encoder, &name, "For how long the certificate was issued, in seconds", lifetime)
    }
}

/// Further certificates that a program uses: their label in the metrics, and their files.
#[derive(Debug)]
pub struct Certificates {
    prefix: &'static str,
    files: Vec<(&'static str, PathBuf)>,
}

impl Certificates {
    /// For these files. The names of the metrics begin with `prefix`, for instance `cps_controller`.
    pub fn new(prefix: &'static str, files: Vec<(&'static str, PathBuf)>) -> Self {
        Self { prefix, files }
    }
}

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self { prefix, files } = self;
        // As they are now: their users take over new ones.
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
        let end = |file: &PathBuf| tls::expiry(file).map_or(0.0, |ends| ends as f64);
        let ends = files.iter().map(|(name, file)| ([("certificate", *name)], end(file)));
        let name = format!("{prefix}_store_certificate_expiry_timestamp_seconds");
        let help = "When a certificate for the store ends, in seconds since 1970; 0 where its file cannot be read";
        gauges(&mut encoder, &name, help, ends)
    }
}

/// The connections of a server.
#[derive(Debug)]
pub struct Connections {
    prefix: &'static str,
    places: Arc<Places>,
}

impl Connections {
    /// For a server with these places. The names of the metrics begin with `prefix`, for instance `cps_agent`.
    pub fn new(prefix: &'static str, places: Arc<Places>) -> Self {
        Self { prefix, places }
    }
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self { prefix, places } = self;
        let now = places.figures();
        #[expect(clippy::cast_precision_loss, reason = "there are some thousands at most")]
        let open = [("strangers", now.strangers), ("known", now.known), ("control_plane", now.control_plane)]
            .map(|(class, count)| ([("class", class)], count as f64));
        let help = "Open connections: of clients that are not known yet, of those with a certificate or reserved address, of the \
                    control plane";
        gauges(&mut encoder, &format!("{prefix}_connections"), help, open)?;
        let lost = [("taken", now.taken), ("refused", now.refused)].map(|(how, count)| ([("how", how)], count));
        let help = "Connections that were taken from clients that had most, or refused because there was no room";
        counters(&mut encoder, &format!("{prefix}_connections_lost"), help, lost)
    }
}
