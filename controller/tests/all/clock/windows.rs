//! Maintenance windows under a running engine: their events, across restarts.

use super::*;
use cps_peering_controller::{
    api::view::host as host_view,
    model::{
        host::{Change as HostChange, What as HostCommand},
        window::{Ends, WindowRequest},
    },
};

fn maintain(engine: &Engine, from: Option<u64>, ends: Ends) {
    let what = HostCommand::Maintain(WindowRequest { from, ends });
    as_operator(engine, Command::Host(HostChange { id: "h1".parse().unwrap(), what }));
}

/// The audit trail, the oldest first: action, outcome and events.
fn told(engine: &Engine) -> Vec<String> {
    let entries = engine.audit(&Query { limit: 100, ..Query::default() }).unwrap();
    let entries = entries.into_iter().rev().map(|(_, entry)| entry);
    let about = entries.filter(|entry| entry.target == "h1");
    about
        .map(|entry| {
            let events: Vec<&str> = entry.events.iter().map(|event| event.kind.as_str()).collect();
            format!("{} {} {}", entry.action, entry.outcome, events.join(","))
        })
        .collect()
}

fn figures(engine: &Arc<Engine>) -> Vec<String> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metrics::registry(engine, None)).unwrap();
    let lines = text.lines().filter(|line| line.contains("maintenance") && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// P4, P5.
#[test]
fn a_window_has_events_and_survives_a_new_leader() {
    let (folder, machine) = (tempfile::tempdir().unwrap(), Machine::new());
    let engine = open(folder.path(), &machine);
    let host = |n: u8| {
        format!("[[hosts]]\nid='h{n}'\nregion='north'\nunderlay='192.0.2.{n}'\nagent='http://192.0.2.{n}:7401'\n")
    };
    let vpc =
        |id: &str, n: u8| format!("[[vpcs]]\nid='{id}'\naccount='one'\nregion='north'\ncidrs=['10.{n}.0.0/16']\n");
    let port = |vpc: &str, n: u8, net: &str| {
        format!("[[ports]]\nvpc='{vpc}'\nhost='h{n}'\ninterface='{vpc}'\ngateways=['{net}.1/24']\n")
    };
    let text = [
        REGIONS.to_owned(),
        host(1),
        host(2),
        vpc("a", 1),
        vpc("b", 2),
        port("a", 1, "10.1.0"),
        port("a", 2, "10.1.1"),
        port("b", 2, "10.2.0"),
    ]
    .concat();
    as_operator(&engine, Command::Apply(Apply::of(toml::from_str(&text).unwrap())));
    let id = peering(&as_operator(&engine, Command::CreatePeering(create("a", "b"))));
    maintain(&engine, None, Ends::AfterS(7200));
    let shown = |engine: &Engine| {
        let window = engine.read(|state, agents| host_view(state, agents, &state.hosts()["h1"]).maintenance_window);
        window.map(|it| (it.from, it.until, it.begun))
    };
    let times = ("2024-10-04T00:00:00Z".to_owned(), "2024-10-04T02:00:00Z".to_owned(), true);
    assert_eq!(shown(&engine), Some(times));
    // Host h2 has both VPCs: the one path between hosts has an end in maintenance.
    let expected = [
        "cps_controller_hosts{state=\"maintenance\"} 1.0".to_owned(),
        "cps_controller_host_maintenance{host=\"h1\"} 1.0".to_owned(),
        "cps_controller_host_maintenance{host=\"h2\"} 0.0".to_owned(),
        format!("cps_controller_peering_maintenance_ratio{{peering=\"{id}\"}} 1.0"),
    ];
    assert_eq!(figures(&engine), expected);
    // It ends while no controller runs; the next one records that.
    drop(engine);
    machine.wait(3 * HOUR);
    let engine = open(folder.path(), &machine);
    engine.sweep();
    assert_eq!(shown(&engine), None);
    assert_eq!(figures(&engine).len(), 3);
    assert_eq!(figures(&engine)[0], "cps_controller_hosts{state=\"maintenance\"} 0.0");
    maintain(&engine, Some(20_000 * DAY + 4 * HOUR), Ends::AfterS(3600));
    drop(engine);
    let engine = open(folder.path(), &machine);
    machine.wait(HOUR + 1000);
    // A clock that is set forward ends nothing.
    machine.set(30 * HOUR.cast_signed());
    engine.sweep();
    assert_eq!(shown(&engine).map(|it| it.2), Some(true));
    machine.set(-30 * HOUR.cast_signed());
    as_operator(&engine, Command::Host(HostChange { id: "h1".parse().unwrap(), what: HostCommand::EndMaintenance }));
    maintain(&engine, Some(20_000 * DAY + 5 * HOUR), Ends::AfterS(60));
    drop(engine);
    machine.wait(2 * HOUR);
    let engine = open(folder.path(), &machine);
    engine.sweep();
    assert_eq!(
        told(&engine),
        [
            "MaintainHost done host.maintenanceBegun",
            "TimeIsUp maintenanceEnded host.maintenanceEnded",
            "MaintainHost done ",
            "TimeIsUp maintenanceBegun host.maintenanceBegun",
            "EndHostMaintenance done host.maintenanceEnded",
            "MaintainHost done ",
            "TimeIsUp maintenanceMissed ",
        ]
    );
}
