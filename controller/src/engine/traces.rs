//! Traces of commands, and of their pushes to hosts, if traces are recorded.
//!
//! A traced command has a span, from the request to the commit. Each host that it changes is remembered
//! here until its kernel has the change; so pushes, which come later and can bring several commits, are known to belong to it. Nothing of this is
//! stored, and another leader does not know it.

use super::{EngineError, Target};
use crate::{
    audit,
    model::{Command, Outcome},
};
use cps_peering_config::{Revision, id::HostId};
use cps_peering_otlp::{Kind, Moment, Recorder, Span, SpanContext};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Display,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// For how many hosts of a command pushes are recorded, the first by name.
const HOSTS: usize = 128;
/// How many commands are known to be on their way to one host, the newest.
const COMMANDS_OF_HOST: usize = 4;
/// How many pushes of one command to one host are recorded: an unreachable one is retried for ever.
const PUSHES: u32 = 8;
/// How long a host's kernel is waited for.
const PATIENCE: Duration = Duration::from_hours(1);

/// The traces in progress.
pub struct Traces {
    recorder: Recorder,
    underway: Mutex<BTreeMap<HostId, VecDeque<Underway>>>,
}

/// A command that is on its way to a host.
struct Underway {
    /// The revision that brings it to the host: this, or a later one.
    revision: Revision,
    command: SpanContext,
    /// When it became durable.
    since: Moment,
    pushes: u32,
}

impl Traces {
    pub(super) fn new(recorder: Recorder) -> Self {
        Self { recorder, underway: Mutex::default() }
    }

    /// Records spans.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    fn underway(&self) -> MutexGuard<'_, BTreeMap<HostId, VecDeque<Underway>>> {
        // A panic cannot leave it half written.
        self.underway.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A traced request contains a command.
    pub(super) fn asked(&self, command: &Command, request: SpanContext) -> Option<Box<CommandTrace>> {
        let mut span = self.recorder.child("command", Kind::Internal, request, Moment::now())?;
        span.set("cps.command", audit::name(command));
        Some(Box::new(CommandTrace { recorder: self.recorder.clone(), span, hosts: Vec::new() }))
    }

    /// Commands are durable, and their hosts are about to be updated.
    pub(super) fn committed(&self, commands: &[CommandTrace]) {
        let since = Moment::now();
        for command in commands {
            let mut underway = self.underway();
            for (host, revision) in &command.hosts {
                let known = underway.entry(host.clone()).or_default();
                known.retain(|it| it.since.elapsed() < PATIENCE);
                if known.len() == COMMANDS_OF_HOST {
                    known.pop_front();
                }
                known.push_back(Underway { revision: *revision, command: command.span.context(), since, pushes: 0 });
            }
        }
    }

    /// A host is gone.
    pub(super) fn gone(&self, host: &HostId) {
        if self.recorder.is_on() {
            self.underway().remove(host);
        }
    }

    /// A configuration is pushed to a host.
    pub(crate) fn pushing(&self, host: &HostId, revision: Revision, method: &str) -> Pushing {
        if !self.recorder.is_on() {
            return Pushing(Vec::new());
        }
        let (mut underway, since) = (self.underway(), Moment::now());
        let known = underway.get_mut(host).into_iter();
        let known = known.flat_map(|known| {
            known.retain(|it| it.since.elapsed() < PATIENCE);
            known
        });
        let brought = known.filter(|it| it.revision <= revision && it.pushes < PUSHES);
        let span = |it: &mut Underway| {
            it.pushes += 1;
            let mut span = self.recorder.child("push", Kind::Client, it.command, since)?;
            span.set("cps.host", host.as_str());
            span.set("cps.revision", revision.to_string());
            span.set("http.request.method", method);
            // Unless another outcome is set.
            span.set("cps.outcome", "superseded");
            Some(span)
        };
        Pushing(brought.filter_map(span).collect())
    }

    /// A host has reported that its kernel has a revision.
    pub(super) fn confirmed(&self, host: &HostId, applied: Revision) {
        if !self.recorder.is_on() {
            return;
        }
        let mut underway = self.underway();
        let Some(known) = underway.get_mut(host) else { return };
        known.retain(|it| it.since.elapsed() < PATIENCE);
        // What another controller has pushed since confirms nothing.
        let has = |it: &Underway| it.revision.epoch == applied.epoch && it.revision <= applied;
        for it in known.iter().filter(|it| has(it)) {
            if let Some(mut span) = self.recorder.child("kernel confirmed", Kind::Internal, it.command, it.since) {
                span.set("cps.host", host.as_str());
                span.set("cps.revision", applied.to_string());
            }
        }
        known.retain(|it| !has(it));
        if known.is_empty() {
            underway.remove(host);
        }
    }
}

/// A traced command, until it is durable or refused.
pub(super) struct CommandTrace {
    recorder: Recorder,
    span: Span,
    /// The hosts that it changes, and the revision that brings the change.
    hosts: Vec<(HostId, Revision)>,
}

impl CommandTrace {
    /// A part of its execution, which begins now.
    pub(super) fn part(&self, name: &str) -> Option<Span> {
        self.recorder.child(name, Kind::Internal, self.span.context(), Moment::now())
    }

    /// Its changes are being committed, from now on.
    pub(super) fn storing(&self, place: &Path) -> Option<Span> {
        let mut span = self.part("store")?;
        span.set("cps.store", place.to_string_lossy().as_ref());
        Some(span)
    }

    /// The configurations of hosts are planned.
    pub(super) fn planned(&mut self, targets: &BTreeMap<HostId, Target>) {
        let config = |target: &Target| Some(target.as_ref()?.config.revision);
        self.concerns(targets.iter().filter_map(|(host, target)| Some((host, config(target)?))));
    }

    fn concerns<'a>(&mut self, hosts: impl Iterator<Item = (&'a HostId, Revision)>) {
        let mut all = 0_usize;
        self.hosts.clear();
        for (host, revision) in hosts {
            all += 1;
            if self.hosts.len() < HOSTS {
                self.hosts.push((host.clone(), revision));
            }
        }
        self.span.set("cps.hosts", all);
        self.span.set("cps.hosts_traced", self.hosts.len());
    }

    /// Records whether it has changed anything.
    pub(super) fn decided(&mut self, result: &Result<Outcome, EngineError>) {
        match result {
            Ok(_) => {}
            // The reason can contain a tenant's words.
            Err(EngineError::Refused(_)) => self.span.set("cps.outcome", "refused"),
            Err(error) => self.span.fail(error),
        }
    }

    /// It could not be stored.
    pub(super) fn fail(&mut self, error: impl Display) {
        self.span.fail(error);
    }
}

/// A push of traced commands; mostly there are none.
pub(crate) struct Pushing(Vec<Span>);

impl Pushing {
    /// The span that the agent's part belongs to: that of the newest command.
    pub(crate) fn context(&self) -> Option<SpanContext> {
        self.0.last().map(Span::context)
    }

    /// The agent has answered.
    pub(crate) fn end(mut self, outcome: &'static str) {
        self.0.iter_mut().for_each(|span| span.set("cps.outcome", outcome));
    }

    /// It has not, or has refused.
    pub(crate) fn fail(mut self, error: impl Display) {
        for span in &mut self.0 {
            span.set("cps.outcome", "failed");
            span.fail(&error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Command;
    use cps_peering_config::settings::TracingSettings;
    use cps_peering_otlp::{Caller, Exporter};

    /// What records, and a request that is recorded. Nothing is sent.
    fn traces() -> (Traces, SpanContext, Option<Exporter>) {
        let settings = TracingSettings { otlp_endpoint: Some("http://127.0.0.1:1".to_owned()), ..Default::default() };
        let (recorder, exporter) = Exporter::new(&settings, "test", "1");
        let request = recorder.receive("", Moment::now(), None, Caller::Untrusted).unwrap().context();
        (Traces::new(recorder), request, exporter)
    }

    fn host(number: u64) -> HostId {
        format!("h{number:04}").parse().unwrap()
    }

    fn revision(number: u64) -> Revision {
        Revision { epoch: 7, number }
    }

    /// A durable command with this number that changes so many hosts.
    fn commit(traces: &Traces, request: SpanContext, number: u64, hosts: u64) -> String {
        let mut command = traces.asked(&Command::Release, request).unwrap();
        let hosts: Vec<HostId> = (0..hosts).map(host).collect();
        command.concerns(hosts.iter().map(|host| (host, revision(number))));
        let shown = format!("{:?}", command.span);
        traces.committed(&[*command]);
        shown
    }

    fn pushes(traces: &Traces, number: u64) -> usize {
        traces.pushing(&host(0), revision(number), "PUT").0.len()
    }

    #[test]
    fn the_pushes_of_a_command_have_a_bound() {
        let (traces, request, _exporter) = traces();
        let shown = commit(&traces, request, 1, 1000);
        assert!(shown.contains("(\"cps.hosts\", Number(1000)), (\"cps.hosts_traced\", Number(128))"), "{shown}");
        assert_eq!(traces.underway().len(), 128);
        let tried = (0..100).filter(|_| pushes(&traces, 1) > 0).count();
        assert_eq!(tried, 8, "of a host that does not answer");
        for number in 2..100 {
            commit(&traces, request, number, 1);
        }
        assert_eq!(traces.underway()[&host(0)].len(), 4, "of a host that does not answer");
        traces.gone(&host(0));
        assert!(!traces.underway().contains_key(&host(0)));
    }

    #[test]
    fn a_push_belongs_to_all_that_it_brings_and_is_confirmed_by_the_kernel() {
        let (traces, request, _exporter) = traces();
        for number in [5, 6, 9] {
            commit(&traces, request, number, 1);
        }
        assert_eq!([4, 5, 8, 9].map(|number| pushes(&traces, number)), [0, 1, 2, 3]);
        traces.confirmed(&host(0), revision(4));
        traces.confirmed(&host(0), Revision { epoch: 8, number: 100 });
        assert_eq!(pushes(&traces, 9), 3, "less, or another controller's, confirms nothing");
        traces.confirmed(&host(0), revision(8));
        assert_eq!(pushes(&traces, 9), 1);
        traces.confirmed(&host(0), revision(9));
        assert!(traces.underway().is_empty());
    }
}
