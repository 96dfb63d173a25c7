use super::*;
use std::path::Path;

#[test]
fn an_mtu_that_no_underlay_has_is_refused() {
    let shipped = include_str!("../../agent.toml");
    let read = |mtu: &str| toml::from_str::<AgentSettings>(&format!("underlay_mtu = {mtu}\n{shipped}"));
    for legal in ["68", "1500", "65535"] {
        assert_eq!(read(legal).unwrap().underlay_mtu, Some(legal.parse().unwrap()));
    }
    for wrong in ["0", "67", "65536", "4000000000"] {
        let said = read(wrong).unwrap_err().to_string();
        assert!(said.contains(&format!("underlay_mtu is {wrong}, and must be 68 to 65535")), "{said}");
    }
}

#[test]
fn an_interval_of_probes_has_a_bound_and_zero_means_never() {
    let shipped = include_str!("../../agent.toml");
    let read = |interval: &str| toml::from_str::<AgentSettings>(&format!("probe_interval_s = {interval}\n{shipped}"));
    assert_eq!(toml::from_str::<AgentSettings>(shipped).unwrap().probe_interval_s, 5);
    for legal in ["0", "1", "3600"] {
        assert_eq!(read(legal).unwrap().probe_interval_s.to_string(), legal);
    }
    let said = read("3601").unwrap_err().to_string();
    assert!(said.contains("probe_interval_s is 3601, and must be 0 (never) to 3600"), "{said}");
}

#[test]
fn how_changes_reach_many_hosts_has_bounds() {
    let check = |text: &str| toml::from_str::<PushSettings>(text).unwrap().check();
    for legal in ["", "canary_hosts = 0", "canary_above = 0", "canary_watch_s = 3600\ncanary_patience_s = 3601"] {
        assert_eq!(check(legal), Ok(()), "{legal}");
    }
    for (text, field) in [
        ("canary_hosts = 101", "canary_hosts"),
        ("canary_watch_s = 0", "canary_watch_s"),
        ("canary_watch_s = 3601", "canary_watch_s"),
        ("canary_watch_s = 120", "canary_patience_s"),
        ("canary_patience_s = 86401", "canary_patience_s"),
    ] {
        let said = check(text).unwrap_err().to_string();
        assert!(said.starts_with(&format!("setting `pushes.{field}`: ")), "{said}");
    }
}

#[test]
fn the_shipped_files_are_legal() {
    let agent: AgentSettings = toml::from_str(include_str!("../../agent.toml")).unwrap();
    assert_eq!(agent.vxlan_port, 4789);
    assert_eq!(agent.underlay_filter_entries, 1 << 20);
    assert!(tls_files(agent.tls.as_ref()).unwrap().is_some());
    let controller: ControllerSettings = toml::from_str(include_str!("../../controller.toml")).unwrap();
    assert_eq!((controller.delete_wait_ms, controller.request_expires_s), (2000, 86_400));
    assert!(tls_files(controller.tls.as_ref()).unwrap().is_some());
}

#[test]
fn tls_must_be_turned_off_explicitly() {
    assert_eq!(tls_files(None), Err(NoTls));
    assert_eq!(tls_files(Some(&Tls::Off)), Ok(None));
}

#[test]
fn a_price_table_is_checked() {
    let check = |tiers: &str| {
        let price: Price = toml::from_str(&format!("tiers = [{tiers}]")).unwrap();
        price.checked()
    };
    let tier = |top: &str, price: &str| format!("{{ {top} per_mbit_hour = '{price}' }},");
    let legal = tier("up_to_mbit = 5,", "0.5") + &tier("", "12.000000001");
    assert_eq!(check(&legal).unwrap(), [(Some(5), 500_000_000), (None, 12_000_000_001)]);
    for illegal in ["", ".5", "1e3", "-1", "0.0000000001", "99999999999"] {
        assert_eq!(check(&tier("", illegal)), Err(PriceError::NotANumber(illegal.to_owned())));
    }
    let endless = tier("up_to_mbit = 5,", "1");
    let backwards = tier("up_to_mbit = 5,", "1") + &tier("up_to_mbit = 5,", "1") + &tier("", "1");
    let twice = tier("", "1") + &tier("", "2");
    for illegal in [String::new(), endless, backwards, twice] {
        assert_eq!(check(&illegal), Err(PriceError::Tiers), "{illegal}");
    }
}

#[test]
fn the_state_is_kept_in_exactly_one_place() {
    let text = "listen = '[::]:1'\noperator_token_file = 't'\ntls = 'off'\n";
    let settings = |more: &str| toml::from_str::<ControllerSettings>(&format!("{text}{more}")).unwrap();
    assert_eq!(settings("").place(), Err(StorePlaceError::Missing));
    let file = settings("store = 's'");
    assert_eq!(file.place(), Ok(StorePlace::Embedded(Path::new("s"))));
    let etcd = "[etcd]\nendpoints = ['http://[::1]:2379', 'http://e']\nadvertise = 'http://192.0.2.1:7400'\n";
    assert_eq!(settings(&format!("store = 's'\n{etcd}")).place(), Err(StorePlaceError::Both));
    let legal = settings(etcd);
    assert!(
        matches!(legal.place(), Ok(StorePlace::Etcd(etcd)) if (etcd.lease_s, &*etcd.prefix) == (3, "/cps-peering/"))
    );
    // A key created by one controller would be unknown to the others.
    assert_eq!(legal.store_key(), Err(StorePlaceError::KeyFile));
    let named = ControllerSettings { store_key_file: Some("k".into()), ..legal.clone() };
    assert_eq!((named.store_key(), file.store_key()), (Ok("k".into()), Ok("s.key".into())));
    let again: ControllerSettings = toml::from_str(&toml::to_string(&legal).unwrap()).unwrap();
    assert_eq!(again, legal);

    let refused = |change: &dyn Fn(&mut EtcdSettings)| {
        let mut settings = legal.clone();
        change(settings.etcd.as_mut().unwrap());
        settings.place().unwrap_err().to_string()
    };
    let tls = || Some(EtcdTls { ca: "ca".into(), cert: None, key: Some("key".into()) });
    for (named, said) in [
        ("endpoints", refused(&|it| it.endpoints.clear())),
        ("ftp://e", refused(&|it| it.endpoints[1] = "ftp://e".into())),
        ("http://e/v3", refused(&|it| it.endpoints[1] = "http://e/v3".into())),
        ("https://e", refused(&|it| it.endpoints[1] = "https://e".into())),
        ("etcd.tls", refused(&|it| it.tls = tls())),
        ("etcd.tls", refused(&|it| (it.tls, it.endpoints) = (tls(), vec!["https://e".into()]))),
        ("prefix", refused(&|it| it.prefix = "/x".into())),
        ("advertise", refused(&|it| it.advertise = "192.0.2.1".into())),
        ("advertise", refused(&|it| it.advertise = "https://192.0.2.1".into())),
        ("lease_s", refused(&|it| it.lease_s = 1)),
        ("password_file", refused(&|it| it.user = Some("me".into()))),
    ] {
        assert!(said.contains(named), "{named}: {said}");
    }
}

#[test]
fn operators_have_distinct_names() {
    let check = |operators: &str| {
        let text = format!("listen = '[::]:1'\noperator_token_file = 't'\ntls = 'off'\noperators = [{operators}]\n");
        toml::from_str::<ControllerSettings>(&text)
            .map_err(|error| error.to_string())
            .and_then(|settings| settings.check_operators().map_err(|error| error.to_string()))
    };
    let li = "{ name = 'li', role = 'read' }";
    let wang = "{ name = 'wang.2', role = 'operate', token_file = 't', certificate = 'urn:wang' }";
    assert_eq!(check(""), Ok(()));
    assert_eq!(check(&format!("{li}, {wang}")), Ok(()));
    for (illegal, named) in [
        (format!("{li}, {li}"), "twice"),
        ("{ name = '', role = 'read' }".to_owned(), "\"\""),
        ("{ name = 'Li', role = 'read' }".to_owned(), "\"Li\""),
        ("{ name = 'a/b', role = 'read' }".to_owned(), "a/b"),
        (format!("{{ name = '{}', role = 'read' }}", "x".repeat(33)), "1 to 32"),
        ("{ name = 'x', role = 'root' }".to_owned(), "root"),
        ("{ name = 'x', role = 'read', certificate = 'spiffe://cps-peering/controller' }".to_owned(), "daemon"),
        ("{ name = 'x', role = 'read', certificate = 'spiffe://cps-peering/operator' }".to_owned(), "daemon"),
        ("{ name = 'x', role = 'read', certificate = 'spiffe://cps-peering/operator/y' }".to_owned(), "daemon"),
        ("{ name = 'x', role = 'read', certificate = 'x' }".to_owned(), "no URI"),
    ] {
        let error = check(&illegal).unwrap_err();
        assert!(error.contains(named), "{illegal}: {error}");
    }
}

#[test]
fn a_misspelt_key_is_named() {
    let error = toml::from_str::<AgentSettings>("listen = '[::]:1'\nledgr = 'x'\n").unwrap_err().to_string();
    assert!(error.contains("ledgr"), "{error}");
}
