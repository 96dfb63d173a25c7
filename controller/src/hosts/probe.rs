//! Requests probes from agents.

use super::{
    client::{AgentClients, AnswerError, read_small},
    trace::{Answer, MAX_TEXT, put_question},
};
use cps_peering_config::{
    agent_api::{PROBE_ANSWER_WITHIN, PROBE_PATH},
    id::HostId,
    probe::ProbeAnswer,
    text::cut,
    trace::PathEndpoints,
};
use reqwest::Response;
use std::time::Duration;

/// How long a response may take: the agent's time, and a second for the network.
const PATIENCE: Duration = PROBE_ANSWER_WITHIN.saturating_add(Duration::from_secs(1));
/// The longest response, in bytes.
const LONGEST_ANSWER: usize = 16 << 10;

/// Requests a probe from a host's agent.
pub async fn probe(clients: &AgentClients, host: &HostId, agent: &str, query: &PathEndpoints) -> Answer<ProbeAnswer> {
    put_question(clients, host, agent, (PROBE_PATH, PATIENCE), query, read).await
}

async fn read(answer: Response) -> Result<ProbeAnswer, AnswerError> {
    let told: ProbeAnswer = read_small(answer, LONGEST_ANSWER).await?;
    let not_probed = told.not_probed.map(|why| cut(&why, MAX_TEXT));
    Ok(ProbeAnswer { version: String::new(), not_probed, send_error: cut(&told.send_error, MAX_TEXT), ..told })
}
