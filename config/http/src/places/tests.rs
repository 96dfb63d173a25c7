use super::*;

/// 20 connections, 4 of them reserved; strangers have 8, an address 6, a certificate 3, an account 4.
fn places() -> Arc<Places> {
    Places::new(Limits {
        connections: 20,
        reserved: 4,
        reserved_networks: vec!["192.0.2.128/25".parse().unwrap()],
        reserved_names: &["controller"],
        per_address: 6,
        per_certificate: 3,
        per_account: 4,
        ..Limits::default()
    })
}

fn enter(places: &Arc<Places>, from: &str) -> Connection {
    places.enter(from.parse().unwrap()).unwrap()
}

fn many(places: &Arc<Places>, from: &str, count: usize) -> Vec<Connection> {
    (0..count).map(|_| enter(places, from)).collect()
}

/// How many of them were not closed.
fn left(connections: &[Connection]) -> usize {
    connections.iter().filter(|it| !it.entry().is_taken()).count()
}

fn serve(connections: &[Connection]) {
    for connection in connections {
        connection.entry().serve_client();
    }
}

fn controller() -> Peer {
    Peer::named(vec!["controller".to_owned()])
}

#[test]
fn an_address_that_has_too_many_loses_its_own_and_the_longest_waiting_first() {
    let places = places();
    let mut first = many(&places, "192.0.2.1", 6);
    // In one of them the client waits for the server, and another has just become idle.
    first[0].entry().serve_client();
    first[1].entry().waiting.store(1_000_000, Ordering::Relaxed);
    first.extend(many(&places, "192.0.2.1", 4));
    let taken: Vec<usize> = (0..10).filter(|at| first[*at].entry().is_taken()).collect();
    assert_eq!(left(&first), 6);
    assert!(!taken.contains(&0) && !taken.contains(&1), "{taken:?}");
    drop(first);
    // If the server waits for none of them, nothing is closed and no more are accepted.
    let busy = many(&places, "192.0.2.2", 6);
    serve(&busy);
    assert!(places.enter("192.0.2.2".parse().unwrap()).is_none());
    assert_eq!(left(&busy), 6);
    drop(busy);
    assert_eq!(places.figures(), Figures { taken: 4, refused: 1, ..Figures::default() });
}

#[test]
fn the_holder_with_most_gives_way_to_those_with_few() {
    let places = places();
    let few = many(&places, "192.0.2.9", 1);
    let many = many(&places, "192.0.2.1", 6);
    let others: Vec<Connection> = (2..7).map(|at| enter(&places, &format!("192.0.2.{at}"))).collect();
    assert_eq!((left(&few), left(&others)), (1, 5));
    assert_eq!(left(&many), 2, "it had six, and there is room for eight");
    // One IPv6 network is one client.
    let network: Vec<Connection> = (0..40).map(|at| enter(&places, &format!("2001:db8::{at}"))).collect();
    assert!(left(&network) <= 2 && left(&few) + left(&others) >= 5, "{}", left(&network));
}

#[test]
fn unauthenticated_clients_take_nothing_from_others_and_none_use_the_reserve() {
    let places = places();
    let known: Vec<Connection> = ["a", "b", "c"]
        .iter()
        .flat_map(|account| (0..4).map(move |_| account))
        .map(|account| {
            let connection = enter(&places, "192.0.2.1");
            serve(std::slice::from_ref(&connection));
            connection.is_of_account(account).unwrap();
            connection.entry().wait_for_client();
            connection
        })
        .collect();
    // 12 of 16 belong to accounts, so unauthenticated clients find 4 free, and accounts with the most give way to 4
    // more; then unauthenticated clients to each other.
    let strangers: Vec<Connection> = (0..100).map(|at| enter(&places, &format!("198.51.100.{at}"))).collect();
    assert_eq!((left(&known), left(&strangers)), (8, 8));
    let figures = places.figures();
    assert_eq!((figures.strangers, figures.known, figures.control_plane), (8, 8, 0));
    // The control plane has its reserve, by certificate, network or token.
    let monitor = enter(&places, "192.0.2.200");
    let operator = enter(&places, "198.51.100.200");
    operator.entry().serve_client();
    operator.is_of_operator().unwrap();
    let peer = enter(&places, "198.51.100.201");
    peer.entry().serve_client();
    peer.is_of_certificate(&[1], &controller()).unwrap();
    for _ in 0..100 {
        drop(places.enter("198.51.100.202".parse().unwrap()));
    }
    assert_eq!((left(&[monitor, operator, peer]), left(&known)), (3, 8));
}

#[test]
fn the_control_plane_finds_a_place_even_when_its_reserve_is_used_up() {
    let places = places();
    let all: Vec<Connection> = (0..16).map(|_| enter(&places, "192.0.2.200")).collect();
    let strangers = many(&places, "192.0.2.1", 4);
    assert_eq!(left(&strangers), 4, "the control plane uses more than its reserve, and others what is left");
    let more = enter(&places, "192.0.2.201");
    assert_eq!((left(&strangers), left(&all), left(&[more])), (3, 16, 1));
    let more: Vec<Connection> = (0..30).map(|_| enter(&places, "192.0.2.1")).collect();
    assert_eq!((left(&more) + left(&strangers), left(&all)), (4, 16));
}

#[test]
fn accounts_and_certificates_have_limits_of_their_own() {
    let places = places();
    let as_account = |busy: bool| {
        let connection = enter(&places, "192.0.2.1");
        connection.entry().serve_client();
        let told = connection.is_of_account("acme");
        if !busy {
            connection.entry().wait_for_client();
        }
        (connection, told)
    };
    let idle: Vec<_> = (0..6).map(|_| as_account(false)).collect();
    assert!(idle.iter().all(|(_, told)| told.is_ok()));
    let idle: Vec<Connection> = idle.into_iter().map(|(connection, _)| connection).collect();
    assert_eq!(left(&idle), 4, "the oldest gave way");
    // A further request of the same account on the same connection needs no room.
    idle[5].is_of_account("acme").unwrap();
    drop(idle);
    let busy: Vec<_> = (0..5).map(|_| as_account(true)).collect();
    let told: Vec<bool> = busy.iter().map(|(_, told)| told.is_ok()).collect();
    assert_eq!(told, [true, true, true, true, false], "all of them wait for the server");

    let by_certificate = |bytes: &[u8], peer: &Peer| {
        let connection = enter(&places, "192.0.2.2");
        connection.entry().serve_client();
        connection.is_of_certificate(bytes, peer).map(|()| connection)
    };
    let host = Peer::named(vec!["host/h1".to_owned()]);
    let hosts: Vec<_> = (0..5).map(|_| by_certificate(&[7], &host)).collect();
    assert_eq!(hosts.iter().filter(|it| it.is_ok()).count(), 3);
    let other = by_certificate(&[8], &host);
    assert!(other.is_ok(), "another certificate is another client");
    // Idle ones of the controller give way to new ones of the controller: it always finds a place.
    let mut of_controller = Vec::new();
    for _ in 0..10 {
        let connection = by_certificate(&[9], &controller()).unwrap();
        connection.entry().wait_for_client();
        of_controller.push(connection);
    }
    assert_eq!(left(&of_controller), 3);
    assert!(!of_controller[9].entry().is_taken());
}

#[test]
fn there_are_no_more_connections_than_half_of_the_files() {
    let limits = |files| {
        let Limits { connections, reserved, .. } = Limits::default().within_open_files(files);
        (connections, reserved)
    };
    assert_eq!(limits(Some(65_536)), (4096, 256));
    assert_eq!(limits(Some(1024)), (512, 128));
    assert_eq!(limits(None), (4096, 256));
    assert!(open_files().is_some_and(|files| files > 0));
}

#[test]
fn names_can_be_added_to_and_removed_from_the_reserve() {
    let places = places();
    let li = Peer::named(vec!["operator/li".to_owned()]);
    let pool_of = |number: u8| {
        let connection = enter(&places, "192.0.2.1");
        connection.is_of_certificate(&[number], &li).unwrap();
        connection.0.seat.lock().unwrap().pool
    };
    assert_eq!((pool_of(1), places.names(&li)), (Pool::Known, false));
    places.reserve_for(["operator/li".to_owned()]);
    assert_eq!((pool_of(2), places.names(&li)), (Pool::ControlPlane, true));
    places.reserve_for(["operator/wang".to_owned()]);
    assert_eq!((pool_of(3), places.names(&li)), (Pool::Known, false));
}
