//! The diagnoses of agents, requested from many at a time.

use super::client::{AgentClients, AnswerError, read_answer, read_snapshot};
use cps_peering_config::{
    agent_api::{DIAGNOSIS_PATH, SNAPSHOT_PATH},
    diagnosis::HostDiagnosis,
    id::HostId,
    time::now_ms,
};
use futures_util::{StreamExt as _, stream};
use reqwest::StatusCode;
use std::time::Duration;

/// How many hosts are asked at once.
const AT_ONCE: usize = 64;
/// How long a response may take: agents read their whole kernel for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answer of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its agent's diagnosis, and the offset of its clock.
    Told {
        /// The diagnosis.
        diagnosis: HostDiagnosis,
        /// How far its clock is ahead, in milliseconds.
        ahead_ms: i64,
        /// How long the response took, in milliseconds.
        took_ms: u64,
    },
    /// Its agent's version does not have this request.
    Unknown,
    /// It did not answer, or was busy.
    Failed(String),
}

fn url(agent: &str, path: &str) -> String {
    format!("{}{path}", agent.trim_end_matches('/'))
}

/// A snapshot of a host from its agent, or why there is none.
pub async fn snapshot(clients: &AgentClients, host: &HostId, agent: &str) -> Result<serde_json::Value, String> {
    let asked = async {
        let client = clients.shared(host)?;
        let answer = client.get(url(agent, SNAPSHOT_PATH)).timeout(PATIENCE * 2).send().await?;
        read_snapshot(answer.error_for_status()?).await
    };
    asked.await.map_err(|error: AnswerError| error.to_string())
}

async fn ask(clients: &AgentClients, host: &HostId, agent: &str) -> Answer {
    let asked = async {
        let client = clients.shared(host)?;
        let began_ms = now_ms();
        let url = url(agent, DIAGNOSIS_PATH);
        let answer = client.get(url).timeout(PATIENCE).send().await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(Answer::Unknown);
        }
        let diagnosis: HostDiagnosis = read_answer(answer.error_for_status()?).await?;
        let took_ms = now_ms().saturating_sub(began_ms);
        // The clock was read somewhere within that time.
        let middle = i128::from(began_ms) + i128::from(took_ms) / 2;
        let ahead_ms = if diagnosis.time_ms == 0 { 0 } else { i128::from(diagnosis.time_ms) - middle };
        Ok(Answer::Told { diagnosis, ahead_ms: i64::try_from(ahead_ms).unwrap_or(i64::MAX), took_ms })
    };
    asked.await.unwrap_or_else(|error: AnswerError| Answer::Failed(error.to_string()))
}

/// Asks hosts, given with the URLs of their agents. The answers have the same order.
pub async fn ask_all(clients: &AgentClients, hosts: Vec<(HostId, String)>) -> Vec<(HostId, Answer)> {
    let asked = stream::iter(hosts).map(|(host, agent)| {
        let clients = clients.clone();
        async move {
            let answer = ask(&clients, &host, &agent).await;
            (host, answer)
        }
    });
    asked.buffered(AT_ONCE).collect().await
}
