//! Watches a range of keys, over a streaming response of one member.

use super::{Asking, Client, EtcdError, KeyValue, Range, encoded, number, read, refusal, silent};
use crate::store::etcd_error::OUT_OF_RANGE;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{runtime::Handle, time::timeout};

/// How long a member may take to begin its response.
const BEGIN_WITHIN: Duration = Duration::from_secs(2);

/// The effect of one or several writes on the range.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Written {
    /// The revision of the last of them.
    pub(in super::super) revision: u64,
    /// Keys with their new values; none for deleted ones. In the order of the writes.
    pub(in super::super) rows: Vec<(String, Option<Vec<u8>>)>,
}

/// A watch.
pub(in super::super) struct Watch {
    handle: Handle,
    answer: Response,
    /// The beginning of an incomplete line.
    part: Vec<u8>,
    lines: VecDeque<Vec<u8>>,
}

#[derive(Debug, Deserialize)]
struct Line {
    result: Option<Told>,
}

#[derive(Debug, Deserialize)]
struct Told {
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    cancel_reason: String,
    #[serde(default, deserialize_with = "number")]
    compact_revision: u64,
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(default, rename = "type")]
    kind: String,
    kv: KeyValue,
}

impl Asking {
    /// Requests a streaming response from a member.
    async fn open(&self, member: usize, path: &str, body: &Value) -> Result<Response, EtcdError> {
        // An old token would end it early.
        self.sign_in(member, BEGIN_WITHIN).await?;
        let asked = timeout(BEGIN_WITHIN, self.post(member, path, body).send()).await;
        let answer =
            asked.map_err(|_| EtcdError::Silent("it takes too long".to_owned()))?.map_err(|error| silent(&error))?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let text = answer.text().await.map_err(|error| silent(&error))?;
        Err(refusal(&text).unwrap_or_else(|| EtcdError::Unreadable(format!("{text:.200}"))))
    }
}

impl Client {
    /// Watches a range from a revision on. `attempt`: selects the member, so that retries use others.
    pub(in super::super) fn watch(&self, range: &Range, from: u64, attempt: usize) -> Result<Watch, EtcdError> {
        let handle = self.runtime.as_ref().map(|it| it.handle().clone());
        let handle = handle.ok_or_else(|| EtcdError::Unprepared("it is ending".to_owned()))?;
        let mut create = json!({ "key": encoded(&range.first), "start_revision": from.to_string() });
        if let Some(end) = &range.end {
            create["range_end"] = encoded(end).into();
        }
        let asking = Arc::clone(&self.asking);
        let answer = self.wait(async move {
            let member = attempt % asking.endpoints.len().max(1);
            asking.open(member, "/v3/watch", &json!({ "create_request": create })).await
        })?;
        Ok(Watch { handle, answer, part: Vec::new(), lines: VecDeque::new() })
    }
}

impl Watch {
    /// The next writes; none if there were none within a time.
    pub(in super::super) fn next(&mut self, within: Duration) -> Result<Option<Written>, EtcdError> {
        loop {
            while let Some(line) = self.lines.pop_front() {
                if let Some(written) = written(&line)? {
                    return Ok(Some(written));
                }
            }
            let chunk = self.handle.block_on(async { timeout(within, self.answer.chunk()).await });
            let Ok(chunk) = chunk else { return Ok(None) };
            let Some(chunk) = chunk.map_err(|error| silent(&error))? else {
                return Err(EtcdError::Silent("a member has ended its answer".to_owned()));
            };
            self.take(&chunk);
        }
    }

    fn take(&mut self, chunk: &[u8]) {
        let mut pieces = chunk.split(|&byte| byte == b'\n');
        // There is a first piece always.
        self.part.extend_from_slice(pieces.next().unwrap_or_default());
        for piece in pieces {
            self.lines.push_back(std::mem::replace(&mut self.part, piece.to_vec()));
        }
    }
}

/// The writes in a line. Some lines contain none.
fn written(line: &[u8]) -> Result<Option<Written>, EtcdError> {
    let line = std::str::from_utf8(line).map_err(|error| EtcdError::Unreadable(error.to_string()))?;
    if line.trim().is_empty() {
        return Ok(None);
    }
    let Some(told) = read::<Line>(line)?.result else {
        return Err(refusal(line).unwrap_or_else(|| EtcdError::Unreadable(format!("{line:.200}"))));
    };
    if told.compact_revision > 0 {
        let message = format!("compacted up to {}", told.compact_revision);
        return Err(EtcdError::Refused { code: OUT_OF_RANGE, message });
    }
    if told.canceled {
        return Err(EtcdError::Silent(format!("a member has ended its answer: {}", told.cancel_reason)));
    }
    // All writes of a revision come together, so that the newest revision is complete.
    let Some(revision) = told.events.iter().map(|event| event.kv.mod_revision).max() else { return Ok(None) };
    let row = |Event { kind, kv }: Event| (kv.key, (kind != "DELETE").then_some(kv.value));
    Ok(Some(Written { revision, rows: told.events.into_iter().map(row).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Result<Option<Written>, EtcdError> {
        written(line.as_bytes())
    }

    #[test]
    fn lines_are_parsed_as_etcd_writes_them() {
        // Taken from etcd 3.4 and 3.5.
        let begun =
            r#"{"result":{"header":{"cluster_id":"1","member_id":"2","revision":"7","raft_term":"2"},"created":true}}"#;
        assert_eq!(said(begun).unwrap(), None);
        let events = r#"{"result":{"header":{"revision":"9"},"events":[
            {"kv":{"key":"YQ==","create_revision":"8","mod_revision":"8","version":"1","value":"MQ=="}},
            {"type":"DELETE","kv":{"key":"Yg==","mod_revision":"9"}},
            {"kv":{"key":"Yw==","create_revision":"9","mod_revision":"9","version":"1"}}]}}"#;
        let rows =
            vec![("a".to_owned(), Some(b"1".to_vec())), ("b".to_owned(), None), ("c".to_owned(), Some(Vec::new()))];
        assert_eq!(said(&events.replace('\n', "")).unwrap(), Some(Written { revision: 9, rows }));
        let compacted = r#"{"result":{"header":{"revision":"9"},"canceled":true,"compact_revision":"5"}}"#;
        assert!(said(compacted).unwrap_err().is_compacted());
        let canceled = r#"{"result":{"header":{"revision":"9"},"canceled":true,"cancel_reason":"no"}}"#;
        assert!(said(canceled).unwrap_err().to_string().contains("no"));
        let refused =
            r#"{"error":{"grpc_code":16,"http_code":401,"message":"invalid auth token","http_status":"Unauthorized"}}"#;
        assert!(matches!(said(refused), Err(EtcdError::Refused { code: 16, .. })));
        assert!(matches!(said("{}"), Err(EtcdError::Unreadable(_))));
    }
}
