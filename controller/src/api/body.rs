//! Request bodies: read up to the limit of the sender, hashed on the way, and kept in bounded memory.

use super::response::Failure;
use crate::access::signature::BodyHash;
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header::CONTENT_LENGTH},
};
use cps_peering_http::{
    BodyError,
    share::{FairShare, Held},
    source::Source,
};
use http_body_util::BodyExt as _;
use ring::digest::{Context, SHA256};
use std::{error::Error, sync::Arc};

/// The largest body of an operator's request, in bytes: an inventory of some hundred thousand ports.
pub(super) const MAX_OPERATOR_BODY: usize = 64 * 1024 * 1024;
/// The largest body of a tenant's request, in bytes.
pub(super) const MAX_TENANT_BODY: usize = 256 * 1024;
/// Bodies up to this many bytes are always accepted: there are no more of them than connections.
const SMALL: usize = 16 * 1024;

/// The memory that bodies may take, by source.
#[derive(Debug)]
pub struct BodyMemory {
    operators: Arc<FairShare<Source>>,
    others: Arc<FairShare<Source>>,
}

impl BodyMemory {
    /// This many bytes: half for operators, half for everyone else.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { operators: FairShare::new(bytes / 2), others: FairShare::new(bytes / 2) })
    }
}

/// The sender of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Operator,
    /// An account, or a caller that claims to be one.
    Tenant,
    /// A caller that is known to have an invalid credential. Nothing is kept.
    Nobody,
}

/// A whole body. Its memory is released when this is dropped.
pub(super) struct Whole {
    pub(super) bytes: Bytes,
    pub(super) hash: BodyHash,
    _memory: Held<Source>,
}

/// Reads a body.
pub(super) async fn read(
    mut body: Body,
    headers: &HeaderMap,
    sender: Sender,
    from: Source,
    memory: &BodyMemory,
) -> Result<Whole, Failure> {
    let (limit, stock) = match sender {
        Sender::Operator => (MAX_OPERATOR_BODY, &memory.operators),
        Sender::Tenant | Sender::Nobody => (MAX_TENANT_BODY, &memory.others),
    };
    let too_large = || Failure::too_large(format!("the body is longer than {limit} bytes"));
    let said = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut held = stock.hold(from);
    let (mut bytes, mut length, mut hash) = (Vec::new(), 0, Context::new(&SHA256));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
        let before = length;
        length += data.len();
        if length > limit {
            return Err(too_large());
        }
        hash.update(&data);
        // Invalid callers have the same limits, so that these do not reveal which access keys exist.
        if length > SMALL && !held.take(length - before.max(SMALL)) {
            return Err(Failure::no_room("too many bytes of requests are under way: try again"));
        }
        if sender != Sender::Nobody {
            bytes.extend_from_slice(&data);
        }
    }
    let hash = hash.finish().as_ref().try_into().map_err(|_| Failure::internal("SHA-256 has 32 bytes"))?;
    Ok(Whole { bytes: bytes.into(), hash, _memory: held })
}

fn broken(error: &axum::Error) -> Failure {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = source {
        if matches!(error.downcast_ref(), Some(BodyError::TooSlow)) {
            return Failure::too_slow("the body comes too slowly");
        }
        source = error.source();
    }
    Failure::invalid(format!("the body ended early: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse as _;
    use futures_util::stream;
    use std::net::IpAddr;

    fn from(address: &str) -> Source {
        address.parse::<IpAddr>().unwrap().into()
    }

    async fn read_of(memory: &BodyMemory, sender: Sender, chunks: &[usize], from: Source) -> Result<Whole, u16> {
        let chunks: Vec<_> = chunks.iter().map(|length| Ok::<_, std::io::Error>(vec![b'x'; *length])).collect();
        let read = read(Body::from_stream(stream::iter(chunks)), &HeaderMap::new(), sender, from, memory).await;
        read.map_err(|failure| failure.into_response().status().as_u16())
    }

    #[tokio::test]
    async fn a_body_is_limited_by_its_sender_and_hashed_as_it_arrives() {
        let memory = BodyMemory::new(1 << 30);
        for (sender, limit) in [
            (Sender::Operator, MAX_OPERATOR_BODY),
            (Sender::Tenant, MAX_TENANT_BODY),
            (Sender::Nobody, MAX_TENANT_BODY),
        ] {
            let whole = read_of(&memory, sender, &[1, limit - 1], from("192.0.2.1")).await.unwrap();
            let kept = if sender == Sender::Nobody { 0 } else { limit };
            assert_eq!(whole.bytes.len(), kept);
            assert_eq!(whole.hash, crate::digest::sha256(&vec![b'x'; limit]));
            assert_eq!(read_of(&memory, sender, &[1, limit], from("192.0.2.1")).await.err(), Some(413));
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_LENGTH, (limit + 1).into());
            // It is refused before a byte of it has arrived.
            let body = Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
            assert!(read(body, &headers, sender, from("192.0.2.1"), &memory).await.is_err());
        }
    }

    #[tokio::test]
    async fn bodies_take_bounded_memory_and_small_ones_always_find_room() {
        const LARGE: usize = 200 * 1024;
        let memory = BodyMemory::new(4 * 1024 * 1024);
        let mut held = Vec::new();
        let refused = loop {
            match read_of(&memory, Sender::Tenant, &[LARGE], from("192.0.2.1")).await {
                Ok(whole) => held.push(whole),
                Err(code) => break code,
            }
            assert!(held.len() < 20, "there is no bound");
        };
        assert_eq!(refused, 503);
        // One sender takes no more than half, and another gets what is left.
        assert!(read_of(&memory, Sender::Tenant, &[LARGE], from("192.0.2.2")).await.is_ok());
        assert!(read_of(&memory, Sender::Operator, &[LARGE], from("192.0.2.1")).await.is_ok());
        assert!(read_of(&memory, Sender::Tenant, &[SMALL], from("192.0.2.1")).await.is_ok());
        assert_eq!(read_of(&memory, Sender::Nobody, &[LARGE], from("192.0.2.1")).await.err(), Some(503));
        held.clear();
        assert!(read_of(&memory, Sender::Tenant, &[LARGE], from("192.0.2.1")).await.is_ok());
    }
}
