//! Notifications to the service manager: readiness, status, watchdog. And the settings that can change at run time.

use crate::reconcile::{Handle, Options};
use cps_peering_config::{HostReport, settings::AgentSettings};
use std::{convert::Infallible, time::Duration};
use tokio::{signal::unix::Signal, sync::watch, time::timeout};

/// How long the agent may take for the kernel before it reports readiness although it is not done.
const EARLY_START: Duration = Duration::from_secs(30);

/// Reports readiness to the service manager as soon as the kernel is as the ledger says, or cannot become so. From then
/// on reports the status and, while the reconciler responds, feeds the watchdog. On every signal takes over the
/// settings that `read` returns.
pub async fn attend(
    reconciler: &Handle,
    settings: &AgentSettings,
    hangup: Signal,
    read: impl Fn() -> anyhow::Result<AgentSettings>,
) -> Infallible {
    let mut report = reconciler.report();
    let begun = |report: &HostReport| report.desired.is_none() || report.last_pass.is_some();
    // Either way this is the current state.
    let _ = timeout(EARLY_START, report.wait_for(begun)).await;
    cps_peering_service::ready(&standing(&report.borrow()));
    tokio::join!(
        cps_peering_service::keep_alive(|| reconciler.alive()),
        tell(report),
        reload(reconciler, settings, hangup, read)
    );
    unreachable!("none of them completes")
}

async fn tell(mut report: watch::Receiver<HostReport>) {
    let mut told = String::new();
    loop {
        let now = standing(&report.borrow_and_update());
        if now != told {
            cps_peering_service::status(&now);
            told = now;
        }
        if report.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// A report in one line.
fn standing(report: &HostReport) -> String {
    let Some(desired) = report.desired else { return "no configuration yet".to_owned() };
    let host = report.host.as_ref().map_or("host".to_owned(), |host| format!("host {host}"));
    match report.problems.as_slice() {
        [] if report.applied == Some(desired) => format!("{host} is in sync, revision {desired}"),
        [] => format!("{host} is on its way to revision {desired}"),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
            format!("{host} is not in sync, revision {desired}: {}: {}{more}", first.object, first.reason)
        }
    }
}

async fn reload(
    reconciler: &Handle,
    settings: &AgentSettings,
    mut hangup: Signal,
    read: impl Fn() -> anyhow::Result<AgentSettings>,
) {
    loop {
        if hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        cps_peering_service::reloading();
        match read() {
            Ok(new) => {
                reconciler.tune(Options { vxlan_port: settings.vxlan_port, ..Options::from(&new) });
                let fixed = fixed(settings, &new);
                if fixed.is_empty() {
                    tracing::info!("settings read again");
                } else {
                    let fixed = fixed.join(", ");
                    tracing::warn!(
                        settings = fixed,
                        "settings read again; these need a restart, and stay as they were"
                    );
                }
            }
            Err(error) => tracing::error!("settings stay as they were: {error:#}"),
        }
        cps_peering_service::ready(&standing(&reconciler.report().borrow()));
    }
}

/// The settings that differ and cannot change at run time.
fn fixed(old: &AgentSettings, new: &AgentSettings) -> Vec<&'static str> {
    // Destructured, so that a new setting is not forgotten here.
    let AgentSettings {
        listen,
        metrics_listen,
        tls,
        connections,
        ledger,
        vxlan_port,
        underlay_mtu: _,
        resync_s: _,
        event_buffer,
        probe_interval_s,
        log_format,
        underlay_filter_entries,
        tracing,
    } = new;
    let differs = [
        ("listen", *listen != old.listen),
        ("metrics_listen", *metrics_listen != old.metrics_listen),
        ("tls", *tls != old.tls),
        ("connections", *connections != old.connections),
        ("ledger", *ledger != old.ledger),
        ("vxlan_port", *vxlan_port != old.vxlan_port),
        ("event_buffer", *event_buffer != old.event_buffer),
        ("probe_interval_s", *probe_interval_s != old.probe_interval_s),
        ("log_format", *log_format != old.log_format),
        ("underlay_filter_entries", *underlay_filter_entries != old.underlay_filter_entries),
        ("tracing", *tracing != old.tracing),
    ];
    differs.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cps_peering_config::{
        Revision,
        report::{Problem, ProblemKind, Scope},
    };

    fn settings(more: &str) -> AgentSettings {
        toml::from_str(&format!("listen = '127.0.0.1:1'\nledger = '/l'\n{more}")).unwrap()
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let old = settings("");
        assert!(fixed(&old, &settings("resync_s = 5\nunderlay_mtu = 9000")).is_empty());
        assert_eq!(fixed(&old, &settings("vxlan_port = 1\nevent_buffer = 2")), ["vxlan_port", "event_buffer"]);
        assert_eq!(fixed(&old, &settings("probe_interval_s = 0")), ["probe_interval_s"]);
        let moved = toml::from_str("listen = '127.0.0.1:2'\nledger = '/m'").unwrap();
        assert_eq!(fixed(&old, &moved), ["listen", "ledger"]);
    }

    #[test]
    fn a_report_fits_in_a_line() {
        let mut report: HostReport = serde_json::from_value(serde_json::json!({
            "version": "1", "host": null, "desired": null, "applied": null, "problems": [], "last_pass": null,
            "counters": serde_json::to_value(cps_peering_config::report::Counters::default()).unwrap(),
        }))
        .unwrap();
        assert_eq!(standing(&report), "no configuration yet");
        report.host = Some("h1".parse().unwrap());
        report.desired = Some(Revision { epoch: 1, number: 5 });
        assert_eq!(standing(&report), "host h1 is on its way to revision 1.5");
        report.applied = report.desired;
        assert_eq!(standing(&report), "host h1 is in sync, revision 1.5");
        let problem = |object: &str| Problem {
            scope: Scope::Host,
            kind: ProblemKind::Failed,
            object: object.to_owned(),
            reason: "no".to_owned(),
        };
        report.problems = vec![problem("link a"), problem("link b")];
        assert_eq!(standing(&report), "host h1 is not in sync, revision 1.5: link a: no, and 1 more");
    }
}
