//! Stores that earlier releases have written, in `tests/golden`: this release continues with each of them.

use super::{Origin, Store};
use crate::{
    audit::Query,
    engine::{Engine, Options},
    model::{
        Actor, Command, Request,
        inventory::Apply,
        metering::Period,
        record::{Manager, Peering, PeeringState},
    },
};
use std::{fs, path::PathBuf};

const RELEASES: [&str; 2] = ["0.1.0", "0.2.0"];

fn golden(release: &str, file: &str) -> PathBuf {
    PathBuf::from(format!("{}/../tests/golden/{release}/{file}", env!("CARGO_MANIFEST_DIR")))
}

#[test]
fn stores_of_earlier_releases_are_gone_on_with() {
    for release in RELEASES {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        fs::copy(golden(release, "store.redb"), &path).unwrap();
        let store = Store::open(&path).unwrap();
        let state = store.load().unwrap();
        assert_eq!((state.regions().len(), state.hosts().len(), state.ports().len()), (2, 3, 5), "{release}");
        assert_eq!((state.vpcs().len(), state.accounts().len(), state.peerings().len()), (5, 2, 3), "{release}");
        let named = |name: &str| -> Peering {
            state.peerings().values().find(|peering| peering.name == name).cloned().unwrap()
        };
        let (within, between, asked) = (named("a-b"), named("a-d"), named("a-c"));
        assert_eq!((within.state, within.managed_by), (PeeringState::Active, Manager::Inventory("golden".to_owned())));
        assert_eq!((between.state, between.bandwidth, between.tags.len()), (PeeringState::Active, Some(200), 1));
        assert_eq!((asked.state, asked.message.as_str()), (PeeringState::Pending, "as agreed"));
        let acme = &state.accounts()["acme"];
        assert_eq!((acme.keys.len(), acme.tokens.len()), (1, 1), "{release}");
        assert!(state.accounts()["beta"].blocked.contains("acme"));
        // One period ended when the bandwidth changed.
        let mut bandwidths = Vec::new();
        let take = |period: Period| {
            bandwidths.push(period.bandwidth);
            true
        };
        store.periods(&"acme".parse().unwrap(), &(0..u64::MAX), take).unwrap();
        assert_eq!(bandwidths, [100], "{release}");
        let trail = store.audit(&Query { limit: 100, ..Query::default() }).unwrap();
        for action in ["Apply", "CreatePeering", "SetBandwidth", "CreateVpc", "AddKey"] {
            assert!(trail.iter().any(|(_, entry)| entry.action == action), "{release}: {action}");
        }
        assert!(!store.traffic::<serde_json::Value>().unwrap().is_empty(), "{release}");

        let (engine, _hosts) = Engine::open(store, Options::default()).unwrap();
        let inventory = serde_json::from_value(serde_json::json!({ "regions": [{ "id": "west" }] })).unwrap();
        engine.execute(&Request::new(Actor::Operator, Command::Apply(Apply::of(inventory)))).unwrap();
        drop(engine);
        let state = Store::open(&path).unwrap().load().unwrap();
        assert_eq!(state.regions().len(), 3);
        assert!(state.meta().cluster.is_some(), "{release}: it has an identity by now");
    }
}

#[test]
fn copies_of_earlier_releases_come_back() {
    for release in &RELEASES[1..] {
        let copy = golden(release, "store.backup");
        let manifest = Store::verify_copy(&copy).unwrap();
        assert_eq!((manifest.hosts, manifest.vpcs, manifest.peerings), (3, 5, 3), "{release}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.redb");
        let restored = Store::restore(&copy, &path, None, Origin::Same).unwrap();
        assert_eq!(restored.cluster, manifest.cluster);
        assert_eq!(Store::open(&path).unwrap().load().unwrap().peerings().len(), 3);
    }
}
