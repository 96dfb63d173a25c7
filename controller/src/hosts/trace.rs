//! Requests to agents about the ends of a path.

use super::client::{AgentClients, AnswerError, read_error, read_small};
use cps_peering_config::{
    agent_api::{ErrorBody, TRACE_ANSWER_WITHIN, TRACE_PATH},
    id::HostId,
    text::cut,
    trace::{Fact, TraceAnswer, TraceQuery},
};
use reqwest::{Response, StatusCode};
use serde::Serialize;
use std::time::Duration;
use tokio::time::timeout;

/// How long an answer may take: the agent's time, and a second for the network.
const PATIENCE: Duration = TRACE_ANSWER_WITHIN.saturating_add(Duration::from_secs(1));
/// The longest answer, in bytes: an agent reports some dozen facts for each direction.
const LONGEST_ANSWER: usize = 1 << 20;
/// The most facts accepted for one direction. A compromised host answers anything.
const MAX_FACTS: usize = 64;
/// The longest text accepted in a fact, in characters.
pub(super) const MAX_TEXT: usize = 400;

/// The answer of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T = TraceAnswer> {
    /// Its agent's result.
    Told(T),
    /// Its agent's version does not have this request.
    Unknown,
    /// Its agent refuses to answer, for this reason.
    Refused(String),
    /// It did not answer, or not in time.
    Failed(String),
}

/// Asks a host's agent about one end of a path. Waiting for other requests to the host counts as time in which it does not answer.
pub async fn ask(clients: &AgentClients, host: &HostId, agent: &str, query: &TraceQuery) -> Answer {
    put_question(clients, host, agent, (TRACE_PATH, PATIENCE), query, told).await
}

/// Sends a request to a host's agent; `told` reads a successful response.
pub(super) async fn put_question<T, F: Future<Output = Result<T, AnswerError>>>(
    clients: &AgentClients,
    host: &HostId,
    agent: &str,
    (path, patience): (&str, Duration),
    query: &impl Serialize,
    told: impl FnOnce(Response) -> F,
) -> Answer<T> {
    let asked = async {
        // It is never closed.
        let _turn = clients.trace_permits(host).acquire_owned().await;
        let client = clients.shared(host)?;
        let url = format!("{}{path}", agent.trim_end_matches('/'));
        read(client.post(url).json(query).timeout(patience).send().await?, told).await
    };
    match timeout(patience, asked).await {
        Ok(answer) => answer.unwrap_or_else(|error| Answer::Failed(cut(&error.to_string(), MAX_TEXT))),
        Err(_) => Answer::Failed(format!("no answer within {} s", patience.as_secs())),
    }
}

async fn told(answer: Response) -> Result<TraceAnswer, AnswerError> {
    let told: TraceAnswer = read_small(answer, LONGEST_ANSWER).await?;
    let (send, receive) = (bounded(told.send), bounded(told.receive));
    Ok(TraceAnswer { version: String::new(), send, receive, ..told })
}

async fn read<T, F: Future<Output = Result<T, AnswerError>>>(
    answer: Response,
    told: impl FnOnce(Response) -> F,
) -> Result<Answer<T>, AnswerError> {
    match answer.status() {
        StatusCode::OK => Ok(Answer::Told(told(answer).await?)),
        StatusCode::NOT_FOUND => Ok(Answer::Unknown),
        status => {
            let text = read_error(answer).await?;
            let message = serde_json::from_str(&text).map(|body: ErrorBody| body.message).unwrap_or(text);
            Ok(Answer::Refused(format!("{status}: {}", cut(message.trim(), MAX_TEXT))))
        }
    }
}

fn bounded(mut facts: Vec<Fact>) -> Vec<Fact> {
    facts.truncate(MAX_FACTS);
    for fact in &mut facts {
        let texts = [&mut fact.check, &mut fact.object, &mut fact.observed, &mut fact.reason];
        for text in texts.into_iter().chain(fact.expected.as_mut()) {
            *text = cut(text, MAX_TEXT);
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(answer: Response) -> Result<Answer, AnswerError> {
        super::read(answer, super::told).await
    }
    use cps_peering_config::trace::Verdict;

    fn response(status: u16, body: impl Into<reqwest::Body>) -> Response {
        let mut response = axum::http::Response::new(body.into());
        *response.status_mut() = axum::http::StatusCode::from_u16(status).unwrap();
        response.into()
    }

    #[tokio::test]
    async fn an_answer_is_cut_to_what_may_be_believed() {
        let long = "x".repeat(1000);
        let fact = Fact {
            check: long.clone(),
            verdict: Verdict::Ok,
            object: long.clone(),
            observed: long.clone(),
            expected: Some(long.clone()),
            reason: long.clone(),
        };
        let told = TraceAnswer { version: long, send: vec![fact; 100], ..TraceAnswer::default() };
        let body = serde_json::to_vec(&told).unwrap();
        let Answer::Told(told) = read(response(200, body)).await.unwrap() else { panic!("it is one") };
        assert_eq!((told.version.as_str(), told.send.len(), told.receive.len()), ("", MAX_FACTS, 0));
        let fact = &told.send[0];
        for text in [&fact.check, &fact.object, &fact.observed, &fact.reason, fact.expected.as_ref().unwrap()] {
            // It is said how much was cut off.
            assert!(text.chars().count() < MAX_TEXT + 40, "{}", text.chars().count());
        }
        let error = read(response(200, vec![b' '; LONGEST_ANSWER + 1])).await.unwrap_err();
        assert!(matches!(error, AnswerError::TooLong(LONGEST_ANSWER)), "{error}");
    }

    #[tokio::test]
    async fn what_an_agent_says_of_a_refusal_is_kept() {
        let answer = read(response(503, r#"{"message":"too many paths are looked at now"}"#)).await.unwrap();
        assert_eq!(answer, Answer::Refused("503 Service Unavailable: too many paths are looked at now".to_owned()));
        let answer = read(response(403, "not you")).await.unwrap();
        assert_eq!(answer, Answer::Refused("403 Forbidden: not you".to_owned()));
        assert_eq!(read(response(404, "")).await.unwrap(), Answer::Unknown);
    }
}
