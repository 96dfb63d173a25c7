//! Repeated requests: tokens, signatures, rejections.

use super::*;

fn with_token(account: &str, token: &str, command: Command) -> Request {
    Request { token: Some(token.to_owned()), ..Request::new(Actor::Account(account.parse().unwrap()), command) }
}

#[test]
fn a_client_token_does_one_thing_once() {
    let mut model = cloud();
    let command = Command::CreatePeering(wish(&model, "a", "b"));
    let first = model.ask(&with_token("one", "t", command.clone())).unwrap();
    let before = model.state.clone();
    assert_eq!(model.ask(&with_token("one", "t", command.clone())).unwrap(), first);
    assert_eq!(model.state, before);
    let other = Command::CreatePeering(wish(&model, "a", "c"));
    assert_eq!(reason(model.ask(&with_token("one", "t", other))), (Code::Aborted, "ClientTokenReused"));
    let own = Command::CreatePeering(wish(&model, "c", "d"));
    model.ask(&with_token("two", "t", own)).unwrap();
    for illegal in ["", &"x".repeat(37)] {
        let refused = model.ask(&with_token("one", illegal, command.clone()));
        assert_eq!(reason(refused), (Code::InvalidArgument, "InvalidClientToken"));
    }
    // The token is forgotten after a day; a refused request never used it.
    model.now_ms += 24 * HOUR;
    assert_eq!(reason(model.ask(&with_token("one", "t", command.clone()))).1, "VpcPeerAlreadyExist");
    model.run_as("one", delete(&peering(&first))).unwrap();
    model.ask(&with_token("one", "t", command)).unwrap();
}

#[test]
fn a_client_token_whose_result_is_gone_says_so() {
    let mut model = cloud();
    let gone = |result: Result<Outcome, CommandError>, id: &str| {
        let refusal = result.unwrap_err();
        assert_eq!((refusal.code, refusal.violations[0].reason), (Code::Aborted, "ClientTokenResultDeleted"));
        assert!(refusal.to_string().contains(id), "{refusal}");
    };
    // A peering: deleted by its initiator, and then ended for both.
    let create = with_token("one", "t", Command::CreatePeering(wish(&model, "a", "b")));
    let id = peering(&model.ask(&create).unwrap());
    model.run_as("one", delete(&id)).unwrap();
    gone(model.ask(&create), id.as_str());
    confirm(&mut model);
    gone(model.ask(&create), id.as_str());
    // One that the other side has deleted is still there to be seen.
    let asked = with_token("one", "u", Command::CreatePeering(wish(&model, "a", "c")));
    let request = peering(&model.ask(&asked).unwrap());
    model.run_as("two", reject(&request)).unwrap();
    assert_eq!(peering(&model.ask(&asked).unwrap()), request);
    model.run_as("one", delete(&request)).unwrap();
    gone(model.ask(&asked), request.as_str());
    // A VPC, and a CIDR.
    let make = vpc::Create {
        account: "one".parse().unwrap(),
        region: "north".parse().unwrap(),
        name: "n".to_owned(),
        description: String::new(),
        cidr: "10.60.0.0/16".parse().unwrap(),
        ipv6: false,
    };
    let make = with_token("one", "v", Command::CreateVpc(make));
    let Outcome::Made(Made::Vpc(id)) = model.ask(&make).unwrap() else { panic!() };
    let which = vpc::Locator { region: None, id: id.clone() };
    let cidr = vpc::Cidr { which: which.clone(), cidr: "10.61.0.0/16".parse().unwrap() };
    let add = with_token("one", "w", Command::AddCidr(cidr.clone()));
    model.ask(&add).unwrap();
    model.ask(&add).unwrap();
    model.run_as("one", Command::RemoveCidr(cidr)).unwrap();
    gone(model.ask(&add), "10.61.0.0/16");
    model.run_as("one", Command::DeleteVpc(which)).unwrap();
    gone(model.ask(&make), id.as_str());
}

#[test]
fn a_signature_can_change_something_once() {
    let mut model = cloud();
    let signed = |command| Request {
        signed: Some(Signed { signature: "s".to_owned(), until_ms: 1001 * HOUR }),
        ..Request::new(Actor::Account("one".parse().unwrap()), command)
    };
    let create = signed(Command::CreatePeering(wish(&model, "a", "b")));
    let id = peering(&model.ask(&create).unwrap());
    // A request without effect is answered as before.
    assert_eq!(reason(model.ask(&create)).1, "VpcPeerAlreadyExist");
    model.run_as("one", delete(&id)).unwrap();
    assert_eq!(reason(model.ask(&create)), (Code::Replayed, "RequestReplayed"));
    // A request that was refused, or changed nothing, does not take effect later either, once it is recorded.
    let refused = |command| Request {
        signed: Some(Signed { signature: "r".to_owned(), until_ms: 1001 * HOUR }),
        ..signed(command)
    };
    let accept = refused(Command::CreatePeering(wish(&model, "a", "b")));
    let before = model.state.meta().number;
    model.ask(&refused(Command::RecordSignature)).unwrap();
    assert!(model.state.has_signature("r"));
    assert_eq!(reason(model.ask(&accept)), (Code::Replayed, "RequestReplayed"));
    let noted = model.state.meta().number;
    model.ask(&refused(Command::RecordSignature)).unwrap();
    assert!(noted >= before && model.state.meta().number == noted, "once is enough");
    model.now_ms = 1001 * HOUR;
    model.run(&Command::Tick).unwrap();
    assert!(!model.state.has_signature("s"), "it is too old to be sent again");
}

#[test]
fn a_rejection_with_a_client_token_can_be_repeated() {
    let (mut model, id) = in_state("pending");
    let first = model.ask(&with_token("two", "t", reject(&id))).unwrap();
    assert_eq!(model.ask(&with_token("two", "t", reject(&id))).unwrap(), first);
}
