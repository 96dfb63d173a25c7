//! What an inventory can remove, and what it manages: pruning, confirmation, and fields that a document does not mention.

mod random;

use crate::common::{Model, apply, built, cloud, create, port, vpc};
use cps_peering_controller::model::{
    Code, Command, CommandError, Outcome,
    inventory::{Apply, Approval, Difference, needs_approval},
    record::Manager,
    state::Change,
    vpc::Create,
};

const PEERED: &str = "[[peerings]]\nname = \"a-b\"\nvpc = \"a\"\npeer_vpc = \"b\"\n";
const ACROSS: &str = "[[peerings]]\nname = \"a-c\"\nvpc = \"a\"\npeer_vpc = \"c\"\nbandwidth = 100\n";

fn differences(outcome: Outcome) -> Vec<Difference> {
    match outcome {
        Outcome::Applied(differences) => differences,
        other => panic!("{other:?}"),
    }
}

fn shown(differences: &[Difference]) -> Vec<String> {
    let shown = differences.iter().map(|it| {
        let id = it.id.split(' ').next_back().unwrap_or_default();
        format!("{} {} {id}{}", it.action.word(), it.kind, if it.stops_traffic { "!" } else { "" })
    });
    shown.collect()
}

/// Prunes, with this many losses approved.
fn prune(model: &mut Model, text: &str, agreed: Option<usize>) -> Result<Vec<Difference>, CommandError> {
    let Command::Apply(command) = apply(text, true) else { panic!() };
    let command = Apply { approval: Approval::Given(agreed), ..command };
    model.run(&Command::Apply(command)).map(differences)
}

fn reason(refusal: &CommandError) -> (Code, &'static str) {
    (refusal.code, refusal.violations[0].reason)
}

#[test]
fn quotas_that_a_document_does_not_mention_stay() {
    let mut model = built();
    let quotas = |model: &Model| model.state.account(&"acme".parse().unwrap()).quotas;
    model.apply(&(cloud() + "[[accounts]]\nid = \"acme\"\nquotas = { north = 80 }\n")).unwrap();
    assert_eq!(quotas(&model).into_values().collect::<Vec<_>>(), [80]);
    model.apply(&(cloud() + "[[accounts]]\nid = \"acme\"\n")).unwrap();
    assert_eq!(quotas(&model).into_values().collect::<Vec<_>>(), [80]);
}

#[test]
fn pruning_removes_only_what_the_same_inventory_created() {
    let mut model = built();
    model.apply(&(cloud() + PEERED)).unwrap();
    // A VPC of a tenant, a peering of an operator's command, and another inventory's VPC.
    let own = Create {
        account: "acme".parse().unwrap(),
        region: "north".parse().unwrap(),
        name: "own".to_owned(),
        description: String::new(),
        cidr: "10.50.0.0/16".parse().unwrap(),
        ipv6: false,
    };
    model.run_as("acme", Command::CreateVpc(own)).unwrap();
    model.run(&Command::CreatePeering(create("a", "c"))).unwrap();
    let other = "name = \"second\"\n".to_owned() + &vpc("z", "north", "\"10.60.0.0/16\"");
    model.apply(&other).unwrap();
    // A file that names the tenant's VPC does not become its manager.
    let named = cps_peering_controller::api::view::inventory(&model.state);
    let text = toml::to_string(&named).unwrap();
    model.apply(&text).unwrap();
    let tenants = model.state.vpcs().values().find(|vpc| vpc.name == "own").unwrap();
    assert_eq!(tenants.managed_by, Manager::Account);

    // Another inventory removes nothing of the first one.
    model.apply(&other).unwrap();
    assert_eq!(shown(&prune(&mut model, "name = \"third\"\n", None).unwrap()), [""; 0]);
    let refusal = prune(&mut model, &cloud(), None).unwrap_err();
    assert_eq!(reason(&refusal), (Code::Aborted, "ConfirmationRequired"), "{refusal}");
    assert!(
        refusal.to_string().contains("(a-b)") && refusal.to_string().contains("confirm their number, 1"),
        "{refusal}"
    );
    assert_eq!(shown(&prune(&mut model, &cloud(), Some(1)).unwrap()), ["delete peering (a-b)!"]);
    assert_eq!(model.state.vpcs().len(), 5, "own and z are there");
    assert_eq!(model.state.peerings().values().filter(|it| it.is_live()).count(), 1, "the operator's");
}

#[test]
fn stopping_traffic_or_removing_many_hosts_needs_confirmation_of_the_number() {
    let mut model = built();
    model.apply(&(cloud() + PEERED)).unwrap();
    let without = |part: &str| (cloud() + PEERED).replace(part, "");
    for (text, expected) in [
        (without(&port("h1", "eth1", "a", "10.1.0.1/24")), &["delete port h1/eth1!"][..]),
        (without(&port("h3", "eth1", "c", "10.3.0.1/24")), &[]),
        // A port moves to another VPC, and one serves less: nothing is removed, but traffic stops.
        (
            (cloud() + PEERED)
                .replace("vpc = \"b\"\ngateways = [\"10.2.1.1/24\"]", "vpc = \"a\"\ngateways = [\"10.1.7.1/24\"]"),
            &["update port h2/eth1!"],
        ),
        (
            (cloud() + PEERED).replace("gateways = [\"10.2.0.1/24\"]", "gateways = [\"10.2.0.1/25\"]"),
            &["update port h1/eth2!"],
        ),
    ] {
        let lost = expected.len();
        let mut model = model.clone();
        if lost == 0 {
            // It has no peers.
            assert_eq!(shown(&prune(&mut model, &text, None).unwrap()), ["delete port h3/eth1"]);
            continue;
        }
        for wrong in [None, Some(lost - 1), Some(lost + 1)] {
            let refusal = prune(&mut model, &text, wrong).unwrap_err();
            assert_eq!(reason(&refusal), (Code::Aborted, "ConfirmationRequired"), "{refusal}");
        }
        assert_eq!(shown(&prune(&mut model, &text, Some(lost)).unwrap()), expected);
    }
    // One host of three is more than 5 percent, whether or not there is traffic.
    let spare = cloud() + PEERED + &crate::common::host(4, "north");
    model.apply(&spare).unwrap();
    let plan = differences(model.clone().run(&apply(&(cloud() + PEERED), true)).unwrap());
    assert_eq!(needs_approval(&model.state, &plan, &model.limits), Some(1));
    assert_eq!(reason(&prune(&mut model, &(cloud() + PEERED), None).unwrap_err()).1, "ConfirmationRequired");
    model.limits.unconfirmed_host_removals_percent = 25;
    prune(&mut model, &(cloud() + PEERED), None).unwrap();
}

#[test]
fn a_document_for_another_revision_is_refused() {
    let mut model = built();
    let now = model.state.meta().number;
    let epoch = model.state.meta().epoch;
    let at = |seen: String| {
        let Command::Apply(command) = apply(&cloud(), false) else { panic!() };
        Command::Apply(Apply { if_revision: Some(seen.parse().unwrap()), ..command })
    };
    // The same number before a restore is another revision.
    for other in [format!("{}", now + 1), format!("{epoch}.{}", now + 1), format!("{}.{now}", epoch + 1)] {
        let refusal = model.run(&at(other)).unwrap_err();
        assert_eq!(reason(&refusal), (Code::Aborted, "RevisionMismatch"));
        assert!(refusal.to_string().contains(&format!("is {epoch}.{now}")), "{refusal}");
    }
    model.run(&at(now.to_string())).unwrap();
    let now = model.state.meta().number;
    model.run(&at(format!("{epoch}.{now}"))).unwrap();
}

#[test]
fn the_fields_of_a_peering_in_a_document_take_effect_or_are_refused() {
    let mut model = built();
    model.apply(&(cloud() + ACROSS)).unwrap();
    let peering = |model: &Model| model.state.peerings().values().next().unwrap().clone();
    let named = differences(model.apply(&(cloud() + &ACROSS.replace("\"a-c\"", "\"renamed\""))).unwrap());
    assert_eq!(
        (shown(&named), peering(&model).name.as_str()),
        (vec!["update peering (renamed)".to_owned()], "renamed")
    );
    let unlimited = ACROSS.replace("\"a-c\"", "\"renamed\"").replace("bandwidth = 100\n", "");
    let freed = differences(model.apply(&(cloud() + &unlimited)).unwrap());
    assert_eq!((freed[0].fields[0].field.as_str(), peering(&model).bandwidth), ("bandwidth", None));
    assert!(differences(model.apply(&(cloud() + &unlimited)).unwrap()).is_empty(), "it is so now");
    let swapped = "[[peerings]]\nname = \"a-c\"\nvpc = \"c\"\npeer_vpc = \"a\"\n";
    let refusal = model.apply(&(cloud() + swapped)).unwrap_err();
    assert!(refusal.to_string().contains("swap `vpc` and `peer_vpc`"), "{refusal}");
    let refusal = model.apply(&(cloud() + &unlimited + swapped)).unwrap_err();
    assert!(refusal.to_string().contains("also peered by peerings[0]"), "{refusal}");
}

#[test]
fn records_of_earlier_releases_have_no_manager_until_a_document_names_them() {
    let mut model = built();
    model.apply(&(cloud() + PEERED)).unwrap();
    // As a release without managers left them.
    let unknown = |manager: &mut Manager| *manager = Manager::Unknown;
    for mut it in model.state.vpcs().values().cloned().collect::<Vec<_>>() {
        unknown(&mut it.managed_by);
        model.state.apply(Change::Vpc(it.id.clone(), Some(it)));
    }
    for mut it in model.state.peerings().values().cloned().collect::<Vec<_>>() {
        unknown(&mut it.managed_by);
        model.state.apply(Change::Peering(it.id.clone(), Some(it)));
    }
    for mut it in model.state.ports().values().cloned().collect::<Vec<_>>() {
        unknown(&mut it.managed_by);
        model.state.apply(Change::Port(it.key.clone(), Some(it)));
    }
    // Ports, hosts and regions were created by inventories only.
    let without_port = (cloud() + PEERED).replace(&port("h3", "eth1", "c", "10.3.0.1/24"), "");
    let kept = prune(&mut model.clone(), &cloud(), None).unwrap();
    assert!(!shown(&kept).iter().any(|it| it.starts_with("delete")), "{kept:?}");
    prune(&mut model, &without_port, None).unwrap();
    let names: Vec<&Manager> = model.state.peerings().values().map(|it| &it.managed_by).collect();
    assert_eq!(names, [&Manager::Inventory("default".to_owned())]);
    assert_eq!(prune(&mut model, &cloud(), Some(1)).unwrap().iter().filter(|it| it.stops_traffic).count(), 1);
}
