//! Traffic between peers, as the HTTP API shows it.

use crate::{
    api::{query::Parameters, response::Failure},
    engine::traffic::{Sample, Span, Totals, Traffic},
    model::record::{Peering, Side},
};
use cps_peering_config::{text::quote, time::timestamp};
use serde::Serialize;
use utoipa::ToSchema;

/// The traffic of one side of a peering. Bytes are those of whole Ethernet frames of the VPCs. Traffic between peers on the same host
/// is not counted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TrafficView {
    /// The peering.
    vpc_peering_id: String,
    /// Mbit/s in each direction; none within a region.
    bandwidth: Option<u32>,
    /// Totals since creation.
    total: TotalView,
    /// Seconds between two samples.
    interval: u64,
    /// The samples of the requested period, the oldest first.
    samples: Vec<SampleView>,
}

/// Totals since creation, as seen from one side.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TotalView {
    /// Sent to the peer.
    out_bytes: u64,
    /// Sent to the peer.
    out_packets: u64,
    /// Packets to the peer that were dropped because they exceeded the bandwidth.
    out_drops: u64,
    /// Received from the peer.
    in_bytes: u64,
    /// Received from the peer. Packets that the network card has merged (GRO) count as one.
    in_packets: u64,
}

/// The traffic of one interval, as seen from one side.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SampleView {
    /// When it ended.
    time: String,
    /// Sent to the peer.
    out_bytes: u64,
    /// Packets to the peer that were dropped.
    out_drops: u64,
    /// Received from the peer.
    in_bytes: u64,
}

impl From<Totals> for TotalView {
    fn from(totals: Totals) -> Self {
        Self {
            out_bytes: totals.sent.bytes,
            out_packets: totals.sent.packets,
            out_drops: totals.dropped,
            in_bytes: totals.received.bytes,
            in_packets: totals.received.packets,
        }
    }
}

impl From<Sample> for SampleView {
    fn from(sample: Sample) -> Self {
        Self {
            time: timestamp(sample.time_ms),
            out_bytes: sample.passed.sent,
            out_drops: sample.passed.dropped,
            in_bytes: sample.passed.received,
        }
    }
}

/// The requested period: `range`.
pub(super) fn span(query: Option<&str>) -> Result<Span, Failure> {
    let parameters = Parameters::read(query, &["range"], &[])?;
    let Some(word) = parameters.word("range") else { return Ok(Span::default()) };
    let found = Span::ALL.into_iter().find_map(|(known, span)| (known == word).then_some(span));
    let rule = || format!("{} is not one of {}", quote(word), Span::ALL.map(|(word, _)| word).join(", "));
    found.ok_or_else(|| Failure::field("range", rule()))
}

/// The traffic of a side; zero if no host ever had it.
pub(super) fn view(traffic: &Traffic, peering: &Peering, own: &Side, span: Span) -> TrafficView {
    let counted = own.vni.and_then(|vni| traffic.of(&peering.id, vni, span));
    let (totals, samples) = counted.unwrap_or_default();
    TrafficView {
        vpc_peering_id: peering.id.to_string(),
        bandwidth: peering.bandwidth,
        total: totals.into(),
        interval: span.buckets().0,
        samples: samples.into_iter().map(SampleView::from).collect(),
    }
}

/// The traffic of one side.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OneTraffic {
    pub(super) traffic: TrafficView,
}

/// The traffic of both sides.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BothTraffic {
    /// Seen from the initiator's side.
    pub(super) initiator: TrafficView,
    /// Seen from the receiver's side.
    pub(super) receiver: TrafficView,
}
