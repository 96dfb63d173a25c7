"""The product's rules, as clients of JD Cloud's SDK see them. The numbers are those of the specification."""

import contextlib
import threading
import time

import pytest

from cloud import EAST, NORTH, Refusal, Refused, exists, forbidden, host, impossible, invalid, unknown, until

QUOTA = Refusal(429, "QUOTA_EXCEEDED", "VpcPeerLimitExceeded")
REUSED = Refusal(409, "ABORTED", "ClientTokenReused")


@pytest.fixture
def request_(one, two):
    """A request of the first account, from the north, to the second, in the east: both VPCs and the peering's id."""
    a, b = one.vpc("10.1.0.0/16", name="ours"), two.vpc("10.2.0.0/16", EAST, name="theirs")
    return a, b, one.ask(a, two, b, remoteRegionId=EAST, bandwidth=100)["vpcPeeringId"]


# L1, L2, L4: permissions


def test_only_the_receiver_answers_and_only_the_initiator_changes(one, two, request_):
    """L1, B2: 403 for the wrong side, and nothing is changed."""
    _, _, id = request_
    with forbidden():
        one.accept(id)
    with forbidden():
        one.reject(id)
    with forbidden():
        two.modify(id, EAST, vpcPeeringName="mine")
    with forbidden():
        two.bandwidth(id, 200, EAST)
    assert (one.state(id), one.show(id)["bandwidth"]) == ("pending", 100)
    two.accept(id, EAST)
    with forbidden():
        one.reject(id)
    with forbidden():
        two.bandwidth(id, 200, EAST)
    assert one.show(id)["bandwidth"] == 100


def test_third_parties_see_nothing(sandbox, one, two, request_):
    """For an account that has no side in it, a peering does not exist. Nor does it in a region without a side of it."""
    a, _, id = request_
    third = sandbox.tenant("third")
    with unknown():
        one.show(id, EAST)
    for region in (NORTH, EAST):
        for attempt in (third.show, third.accept, third.reject, third.routes, third.delete):
            with unknown():
                attempt(id, region)
        with unknown():
            third.modify(id, region, description="mine")
        with unknown():
            third.bandwidth(id, 1, region)
        assert third.ids(region) == set()
    with unknown("VpcNotFound"):
        third.peer(a, third.vpc("10.7.0.0/16"))
    assert one.state(id) == two.state(id, EAST) == "pending"


def test_the_four_kinds(one, two):
    """C3, L2: within an account it is active automatically; between accounts it waits for the receiver."""
    nets = iter(range(1, 99))
    for other in (one, two):
        for region in (NORTH, EAST):
            a, b = one.vpc(f"10.{next(nets)}.0.0/16"), other.vpc(f"10.{next(nets)}.0.0/16", region)
            more = {} if region == NORTH else {"remoteRegionId": EAST, "bandwidth": 10}
            made = one.peer(a, b, remoteAccountId=other.id, **more)
            id = made["vpcPeeringId"]
            if other is two:
                assert (made["state"], made["vpcPeeringState"]) == ("pending", "Initiated")
                assert one.routes(id) == [] == two.routes(id, region)
                two.accept(id, region)
            shown = one.wait_for("active", id)
            assert shown["vpcPeeringState"] == "Connected" and shown["routesInSync"]
            ours, theirs = shown["vpcInfo"]["addressPrefix"], shown["remoteVpcInfo"]["addressPrefix"]
            assert one.routes(id) == [(a, theirs[0]), (b, ours[0])]
            assert other.routes(id, region) == (one.routes(id) if other is one and region == NORTH else [
                (b, ours[0]),
                (a, theirs[0]),
            ])


def test_a_request_that_was_answered_cannot_be_answered_again(one, two, request_):
    """L2: rejecting an accepted peering is a wrong state; accepting it again changes nothing."""
    _, _, id = request_
    two.accept(id, EAST)
    shown = one.wait_for("active", id)
    with impossible("VpcPeerInvalidStateChange"):
        two.reject(id, EAST)
    assert two.accept(id, EAST, clientToken="again")["state"] == "active"
    assert one.show(id) == shown


def test_a_rejected_request(one, two, request_):
    """L4, L11: the record is gone at the receiver; the initiator sees `rejected` and no CIDRs, and can try again."""
    a, b, id = request_
    assert two.reject(id, EAST) == {}
    assert two.state(id, EAST) is None and two.ids(EAST) == set()
    shown = one.show(id)
    assert (shown["state"], shown["vpcPeeringState"]) == ("rejected", "Disconnected")
    assert shown["charge"]["chargeStartTime"] is None and shown["stateReason"]
    assert shown["remoteVpcInfo"]["addressPrefix"] == []
    for attempt in (lambda: one.modify(id, description="x"), lambda: one.bandwidth(id, 1)):
        with impossible("VpcPeerInvalidStateChange"):
            attempt()
    for attempt in (two.accept, two.reject):
        with unknown():
            attempt(id, EAST, clientToken="again")
    # L8: it blocks nothing.
    assert one.quota() == (0, 50)
    again = one.ask(a, two, b, remoteRegionId=EAST, bandwidth=100, description="please")["vpcPeeringId"]
    assert again != id and one.ids() == {id, again} and two.ids(EAST) == {again}


def test_the_receiver_is_warned(one, two, request_):
    """L11, V1: it sees account, region and CIDRs of the initiator, with a warning; the initiator sees no name and no CIDRs."""
    _, b, id = request_
    theirs = two.show(id, EAST)
    assert theirs["remoteVpcInfo"]["accountId"] == one.id and theirs["remoteVpcInfo"]["regionId"] == NORTH
    assert theirs["remoteVpcInfo"]["addressPrefix"] == ["10.1.0.0/16"]
    assert "请勿接受未知账户" in theirs["stateReason"] and "请勿" not in one.show(id)["stateReason"]
    hidden = {"vpcId": b, "vpcName": b, "addressPrefix": [], "regionId": EAST, "accountId": two.id, "effectivePrefixes": []}
    assert one.show(id)["remoteVpcInfo"] == one.list()["vpcPeerings"][0]["remoteVpcInfo"] == hidden
    two.accept(id, EAST)
    shown = one.wait_for("active", id)["remoteVpcInfo"]
    assert shown["vpcName"] == "theirs" and shown["addressPrefix"] == ["10.2.0.0/16"]


# L3: the clock


def test_a_request_expires_by_the_clock(start):
    """L3: from the instant that it names, it is expired for both, and accepting fails."""
    sandbox = start(request_expires_s=2)
    one, two = sandbox.tenants
    a, b = one.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16")
    id = one.ask(a, two, b, name="p")["vpcPeeringId"]
    assert one.state(id) == "pending" and one.quota() == (1, 50)
    shown = one.wait_for("expired", id)
    assert shown["vpcPeeringState"] == "Disconnected" and shown["expiredTime"] >= shown["createdTime"]
    assert two.state(id) == "expired" and two.ids(state=["expired"]) == {id} and two.ids(state=["pending"]) == set()
    for answer in (two.accept, two.reject):
        with impossible("VpcPeerExpired"):
            answer(id)
    with impossible("VpcPeerExpired"):
        one.modify(id, description="x")
    # L8: it does not count any more; pair and name are free.
    assert one.quota() == (0, 50)
    again = one.ask(a, two, b, name="p", description="again")["vpcPeeringId"]
    two.accept(again)
    expires = one.wait_for("active", again)["expiredTime"]
    # L5: each side deletes its own record.
    two.delete(id)
    assert two.state(id) is None and one.state(id) == "expired"
    one.delete(id)
    assert one.state(id) is None
    # An accepted one does not expire.
    until(lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > expires)
    assert one.state(again) == "active"


def test_ended_records_go_by_themselves(start):
    """L8: rejected, expired and deleted by the peer, they are gone after the period."""
    sandbox = start(request_expires_s=2, ended_kept_s=2)
    one, two = sandbox.tenants
    a = one.vpc("10.0.0.0/16")
    rejected, expired, deleted = [
        one.ask(a, two, two.vpc(f"10.{n}.0.0/16"), name=f"p{n}")["vpcPeeringId"] for n in (1, 2, 3)
    ]
    two.accept(deleted), two.delete(deleted)
    two.reject(rejected)
    states = {rejected: "rejected", deleted: "peer_deleted", expired: "pending"}
    assert {id: one.state(id) for id in states} == states
    until(lambda: one.list()["totalCount"] == 0)
    assert all(one.state(id) is None for id in states)
    with unknown():
        one.delete(expired)


# L5: delete


STATES = ["pending", "active", "suspended", "rejected", "expired", "peer_deleted"]


def reach(state, sandbox, a, b):
    """Brings a peering between regions into a state."""
    one, two = sandbox.tenants
    id = one.ask(a, two, b, remoteRegionId=EAST, bandwidth=100, name=state)["vpcPeeringId"]
    if state in ("active", "suspended"):
        two.accept(id, EAST)
        one.wait_for("active", id)
    if state == "suspended":
        sandbox.charge(one, "arrear")
    if state == "rejected":
        two.reject(id, EAST)
    if state == "peer_deleted":
        two.accept(id, EAST)
        two.delete(id, EAST)
    one.wait_for(state, id)
    return id


@pytest.mark.parametrize("first", ["initiator", "receiver"])
@pytest.mark.parametrize("state", STATES)
def test_delete_from_every_state_twice_by_both(start, state, first):
    """L5: the deleter's record disappears, the other side is shown the deletion, and deleting again is no error."""
    sandbox = start(request_expires_s=1) if state == "expired" else start()
    one, two = sandbox.tenants
    a, b = one.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16", EAST)
    id = reach(state, sandbox, a, b)
    sides = [(one, NORTH), (two, EAST)]
    if first == "receiver":
        sides.reverse()
    (deleter, own), (other, others) = sides
    before = other.state(id, others)
    for _ in range(2):
        answer = deleter.delete(id, own)
        assert answer == {"vpcPeeringId": id, "state": "deleted", "hostsMissing": 0}
    assert deleter.state(id, own) is None and id not in deleter.ids(own)
    # An ended peering keeps its state; and a side without a record gets none.
    expected = before if before in ("rejected", "expired", "peer_deleted", None) else "peer_deleted"
    assert other.state(id, others) == expected
    if expected:
        assert other.show(id, others)["vpcPeeringState"] == "Disconnected"
        assert other.routes(id, others) == []
        for attempt in (lambda: other.accept(id, others), lambda: other.reject(id, others)):
            with contextlib.suppress(Refused):
                attempt()
                raise AssertionError("it came back to life")
    for _ in range(2):
        assert other.delete(id, others)["state"] == "deleted"
    assert one.state(id) is None and two.state(id, EAST) is None
    assert one.quota() == (0, 50)
    sandbox.charge(one, "normal")
    assert one.ask(a, two, b, remoteRegionId=EAST, bandwidth=1, name=state)["state"] == "pending"


def test_within_an_account_everything_goes(one):
    """L5: a delete leaves nothing, from either region, and can be repeated from either."""
    for number, region in enumerate((NORTH, EAST)):
        a, b = one.vpc(f"10.{number}.0.0/17"), one.vpc(f"10.{number}.128.0/17", EAST)
        id = one.peer(a, b, remoteRegionId=EAST, bandwidth=10)["vpcPeeringId"]
        one.wait_for("active", id)
        assert id in one.ids() and one.ids() == one.ids(EAST)
        assert (one.show(id)["role"], one.show(id, EAST)["role"]) == ("initiator", "receiver")
        one.delete(id, region)
        assert id not in one.ids() | one.ids(EAST)
        one.delete(id, NORTH), one.delete(id, EAST)
        assert one.peer(a, b, remoteRegionId=EAST, bandwidth=10, description="again")["vpcPeeringId"] != id


def test_what_hosts_have_not_confirmed_is_provisioning_and_then_draining(start):
    """L5, V3: a delete answers `draining` while a host is missing; it still counts for overlap, and forwards nothing."""
    sandbox = start(provisioning_grace_s=1, delete_wait_ms=50)
    one, two = sandbox.tenants
    a, b, other = one.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16"), one.vpc("10.2.9.0/24")
    host(sandbox, "h1", NORTH, (a, "10.1.0.1/24"), (b, "10.2.0.1/24"))
    id = one.ask(a, two, b)["vpcPeeringId"]
    two.accept(id)
    shown = one.show(id)
    assert (shown["state"], shown["vpcPeeringState"], shown["routesInSync"]) == ("provisioning", "Connected", False)
    # A host that is down does not delay it for ever.
    shown = one.wait_for("active", id)
    assert not shown["routesInSync"] and "1 host has not" in shown["stateReason"]
    answer = two.delete(id)
    assert answer == {"vpcPeeringId": id, "state": "draining", "hostsMissing": 1}
    for tenant in (one, two):
        shown = tenant.show(id)
        assert (shown["state"], shown["vpcPeeringState"]) == ("draining", "Disconnected")
        assert tenant.routes(id) == []
    with impossible("VpcPeerCidrConflict"):
        one.peer(a, other)
    with impossible("VpcPeerInvalidStateChange"):
        one.modify(id, description="x")
    sandbox.operator("DELETE", "/hosts/h1")
    until(lambda: two.state(id) is None)
    assert one.state(id) == "peer_deleted"
    assert one.wait_for("active", one.peer(a, other)["vpcPeeringId"])


# L6, L7, L8, L9, L10


def test_overlapping_vpcs_are_not_peered(one, two):
    """L6: both prefixes are named, whichever families and whichever of a VPC's CIDRs they are."""
    a = one.vpc("10.1.0.0/16")
    for remote in (one.vpc("10.1.128.0/17"), one.vpc("10.0.0.0/8"), one.vpc("10.1.0.0/16", name="equal")):
        with impossible("VpcPeerCidrConflict") as why:
            one.peer(a, remote)
        assert why.entry == "remoteVpcId" and "10.1.0.0/16" in why.message and remote in why.message
    six, other = one.vpc("fd00:1::/48"), one.vpc("10.3.0.0/16")
    one.call("CreateSecondaryCidr", "cps", secondaryCidrSpec={"subnetId": other, "cidr": "fd00:1::/64"})
    with impossible("VpcPeerCidrConflict") as why:
        one.peer(six, other)
    assert "fd00:1::/48" in why.message and "fd00:1::/64" in why.message
    assert one.ids() == set()


def test_peers_of_one_vpc_do_not_overlap(one, two):
    """L7: the other peer and its peering are named; a stranger learns neither."""
    hub, first, second = one.vpc("10.0.0.0/16"), one.vpc("10.1.0.0/16"), one.vpc("10.1.2.0/24", EAST)
    id = one.peer(hub, first, name="spoke")["vpcPeeringId"]
    with impossible("VpcPeerCidrConflict") as why:
        one.peer(hub, second, remoteRegionId=EAST, bandwidth=1)
    for word in ("10.1.2.0/24", "10.1.0.0/16", first, id, "spoke"):
        assert word in why.message
    # The peers of a stranger are not disclosed (L11): the receiver's other peers are checked when it accepts.
    asked = two.ask(two.vpc("10.1.3.0/24"), one, hub)["vpcPeeringId"]
    with impossible("VpcPeerCidrConflict") as why:
        one.accept(asked)
    assert "spoke" in why.message and one.state(asked) == two.state(asked) == "pending"


def test_a_strangers_request_blocks_nothing_and_acceptance_checks_again(one, two):
    """L7: a pending request counts for its initiator's VPC only; the first one is accepted, the other is not."""
    hub, theirs, ours = one.vpc("10.0.0.0/16"), two.vpc("10.1.0.0/16"), one.vpc("10.1.2.0/24")
    id = two.ask(theirs, one, hub)["vpcPeeringId"]
    spoke = one.peer(hub, ours, name="spoke")["vpcPeeringId"]
    with impossible("VpcPeerCidrConflict") as why:
        one.accept(id)
    assert "spoke" in why.message and one.state(id) == two.state(id) == "pending"
    one.delete(spoke)
    until(lambda: one.state(spoke) is None)
    one.accept(id, clientToken="again")
    two.wait_for("active", id)
    # The request counts for its initiator.
    far = two.vpc("10.9.0.0/16")
    two.ask(far, one, one.vpc("10.8.0.0/16"))
    with impossible("VpcPeerCidrConflict"):
        two.ask(far, one, one.vpc("10.8.5.0/24"))


def test_one_peering_per_pair_and_one_name(one, two):
    """L8: 409 for the pair, in either direction, and for the name; both are free after a delete."""
    a, b, c = one.vpc("10.1.0.0/16"), one.vpc("10.2.0.0/16"), one.vpc("10.3.0.0/16")
    id = one.peer(a, b, name="p")["vpcPeeringId"]
    for pair in ((a, b), (b, a)):
        with exists("VpcPeerAlreadyExist") as why:
            one.peer(*pair, name="q")
        assert id in why.message
    with exists("VpcPeerNameExist") as why:
        one.peer(a, c, name="p")
    assert why.entry == "vpcPeeringName"
    # Another region, and another account, can use the name.
    d, e = one.vpc("10.4.0.0/16", EAST), one.vpc("10.5.0.0/16", EAST)
    one.peer(d, e, EAST, name="p")
    two.peer(two.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16"), name="p")
    one.delete(id)
    assert one.peer(b, a, name="p")["vpcPeeringId"] != id


def test_the_quota(start):
    """L9: counted at the initiator, pending included; an operator raises it."""
    sandbox = start(peerings_per_region=2)
    one, two = sandbox.tenants
    a, b = one.vpc("10.0.0.0/16"), one.vpc("10.0.0.0/16", EAST)
    spokes = [two.vpc(f"10.{n}.0.0/16") for n in range(1, 6)]
    first, second = [one.ask(a, two, spoke)["vpcPeeringId"] for spoke in spokes[:2]]
    assert one.quota() == (2, 2) and one.quota(EAST) == (0, 2) and two.quota() == (0, 2)
    with QUOTA:
        one.ask(a, two, spokes[2])
    one.ask(b, two, spokes[2], EAST, remoteRegionId=NORTH, bandwidth=1)
    assert one.quota(EAST) == (1, 2)
    two.reject(first)
    assert one.quota() == (1, 2)
    third = one.ask(a, two, spokes[3])["vpcPeeringId"]
    with QUOTA:
        one.ask(a, two, spokes[4])
    sandbox.operator("PUT", f"/accounts/{one.id}/quotas/{NORTH}", {"maxLimit": 3})
    assert one.quota() == (2, 3)
    one.ask(a, two, spokes[4], description="more")
    with QUOTA:
        one.ask(a, two, spokes[0])
    sandbox.operator("DELETE", f"/accounts/{one.id}/quotas/{NORTH}")
    assert one.quota() == (3, 2) and {second, third} < one.ids(state=["pending"])
    quota = one.call("DescribeQuota", type="vpcpeering", parentResourceId=a)["quota"]
    assert quota == {"type": "vpcpeering", "parentResourceId": a, "maxLimit": 2, "count": 3}
    for wrong in ("nonsense", None):
        with invalid():
            one.call("DescribeQuota", type=wrong)


def test_a_vpc_with_peerings_stays(one, two, request_):
    """L10: it cannot be deleted; a stranger's request does not keep it, and is rejected with it."""
    a, b, id = request_
    with impossible("VpcInUse"):
        one.call("DeleteVpc", "cps", vpcId=a)
    two.call("DeleteVpc", "cps", regionId=EAST, vpcId=b)
    assert one.state(id) == "rejected"
    one.call("DeleteVpc", "cps", vpcId=a, clientToken="again")


def test_a_further_cidr_keeps_peers_apart(one, two):
    """L10: a CIDR that would overlap a peer, or a peer's other peer, is refused, and nothing is changed."""
    hub, first, second = one.vpc("10.0.0.0/16"), one.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16")
    one.peer(hub, first)
    two.accept(one.ask(hub, two, second)["vpcPeeringId"])

    def add(tenant, vpc, cidr):
        spec = {"vpcId": vpc, "cidr": cidr}
        return tenant.call("CreateSecondaryCidr", "cps", secondaryCidrSpec=spec)

    with impossible("VpcPeerCidrConflict") as why:
        add(one, first, "10.2.3.0/24")
    assert "10.2.3.0/24" in why.message
    with impossible("VpcPeerCidrConflict") as why:
        add(two, second, "10.1.3.0/24")
    assert first not in why.message
    with impossible("VpcPeerCidrConflict"):
        add(one, hub, "10.2.3.0/24")
    assert one.call("DescribeSecondaryCidrs", "cps", subnetId=first) == {"secondaryCidrs": []}
    add(one, first, "10.3.0.0/16")


# L11: what an initiator learns


def test_the_network_of_a_stranger_cannot_be_read(start):
    """L11: of an overlap an account sees its own prefix, a limited number of times a day, and the owner sees the checks."""
    sandbox = start(overlap_checks_per_day=5)
    one, two = sandbox.tenants[:2]
    theirs = two.vpc("10.3.0.0/16")
    answers = []
    for third in range(12):
        mine = one.vpc(f"10.3.{third}.0/24")
        for dry in ({"dryRun": True}, {}):
            with pytest.raises(Refused) as why:
                one.ask(mine, two, theirs, **dry)
            answers += why.value.reasons
            assert "10.3.0.0/16" not in why.value.message
    assert answers == ["VpcPeerCidrConflict"] * 5 + ["CidrCheckLimitExceeded"] * 19
    told = [it for it in two.bare("GET", "/auditEntries")["entries"] if it["action"] == "CompareCidrs"]
    assert len(told) == 5
    assert {(it["actor"], it["target"], it["outcome"]) for it in told} == {(f"account/{one.id}", theirs, "overlap")}
    # Other accounts are not affected.
    assert two.ask(two.vpc("10.4.0.0/16"), one, one.vpc("10.5.0.0/16"))["state"] == "pending"


def test_no_such_vpc_not_theirs_and_blocked_look_the_same(sandbox, one, two):
    """L11: except for the requested id, the responses are identical."""
    a, b, east = one.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16"), two.vpc("10.3.0.0/16", EAST)
    third = sandbox.tenant("third")
    blocker = third.vpc("10.4.0.0/16")
    third.bare("PUT", f"/blockedAccounts/{one.id}")
    assert third.bare("GET", "/blockedAccounts") == {"blockedAccounts": [one.id]}
    seen = set()
    for remote, account, region in [
        ("vpc-0000000000", two.id, NORTH),  # no such VPC
        ("vpc-0000000000", "nobody", NORTH),  # no such account
        (b, "third", NORTH),  # not that account's
        (b, one.id, NORTH),  # not the account's own
        (b, two.id, EAST),  # not in that region
        (east, two.id, NORTH),
        (b, two.id, "cn-south-1"),  # no such region
        (blocker, "third", NORTH),  # blocked
    ]:
        with unknown("VpcNotFound") as why:
            one.peer(a, remote, remoteAccountId=account, remoteRegionId=region)
        (detail,) = why.details
        seen.add((why.message.replace(remote, "…"), why.entry, detail["rule"].replace(remote, "…")))
    assert len(seen) == 1, seen
    # To others, and again after it was unblocked, it is open.
    two.ask(b, third, blocker)
    third.bare("DELETE", f"/blockedAccounts/{one.id}")
    assert one.ask(a, third, blocker)["state"] == "pending"


def test_a_foreign_vpc_is_not_ones_own(one, two):
    """L1: nobody can peer another account's VPC."""
    a, b = one.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16")
    for more in ({"remoteAccountId": one.id}, {"remoteAccountId": two.id}, {}):
        with unknown("VpcNotFound") as why:
            two.peer(a, b, **more)
        assert why.entry == "vpcId"
    with unknown("VpcNotFound"):
        one.peer(a, b, EAST)


# L12 and idempotence


def test_concurrent_requests_make_one_peering(one, two):
    """L12: of many concurrent ones one is executed, and the others get the reason; nobody has to retry."""
    a, b = one.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16")
    answers = []

    def ask(number):
        try:
            answers.append(one.ask(a, two, b, name=f"p{number}")["vpcPeeringId"])
        except Refused as refused:
            answers.append(refused)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = [answer for answer in answers if isinstance(answer, str)]
    refused = [answer for answer in answers if not isinstance(answer, str)]
    assert len(made) == 1 and one.ids() == set(made)
    assert len(refused) == 7 and all(it.is_(409, "ALREADY_EXISTS", "VpcPeerAlreadyExist") for it in refused)


def test_a_client_token_is_carried_out_once(one, two, request_):
    """The same token and body return the first result; another body is refused. Tokens are an account's own."""
    a, b = one.vpc("10.3.0.0/16"), one.vpc("10.4.0.0/16")
    token = "x" * 36
    id = one.peer(a, b, name="p", clientToken=token)["vpcPeeringId"]
    one.wait_for("active", id)
    again = one.peer(a, b, name="p", clientToken=token)
    assert (again["vpcPeeringId"], again["state"]) == (id, "active") and len(one.ids()) == 2
    with REUSED:
        one.peer(a, b, name="q", clientToken=token)
    with REUSED:
        one.bandwidth(request_[2], 7, clientToken=token)
    assert one.bandwidth(request_[2], 7, clientToken="b")["bandwidth"] == 7
    one.bandwidth(request_[2], 8)
    assert one.bandwidth(request_[2], 7, clientToken="b")["bandwidth"] == 8, "the first was carried out once"
    for _ in range(2):
        assert two.accept(request_[2], EAST, clientToken=token)["vpcPeeringId"] == request_[2]
    # A refused request does not use its token.
    with impossible("VpcPeerCidrConflict"):
        one.peer(a, one.vpc("10.3.0.0/24"), clientToken="c")
    one.peer(a, one.vpc("10.5.0.0/16"), clientToken="c")


def test_a_dry_run_checks_everything_and_changes_nothing(one, two):
    """`dryRun` answers like the real command, also with a token, which it does not use."""
    a, b = one.vpc("10.1.0.0/16"), one.vpc("10.2.0.0/16")

    def attempt(**more):
        wish = {"vpcPeeringName": "p", "vpcId": a, "remoteVpcId": b, "dryRun": True, "clientToken": "t"}
        return one.call("CreateVpcPeering", **(wish | more))

    for _ in range(2):
        outlook = attempt()
        assert outlook["dryRun"] and "vpcPeering" not in outlook
    assert one.ids() == set() and one.quota() == (0, 50)
    with invalid("BandwidthNotAllowed"):
        attempt(bandwidth=1)
    with unknown("VpcNotFound"):
        attempt(remoteVpcId="vpc-0000000000")
    with impossible("VpcPeerCidrConflict"):
        attempt(remoteVpcId=one.vpc("10.1.9.0/24"))
    id = attempt(dryRun=False)["vpcPeering"]["vpcPeeringId"]
    assert one.ids() == {id}
    with exists("VpcPeerAlreadyExist"):
        attempt(clientToken="u")


# B1, B2, B5: bandwidth and money


def test_bandwidth_is_for_peerings_between_regions(start):
    """B1: required there within its bounds, which are settings, and refused within a region."""
    one = start(max_bandwidth_mbit=500).tenants[0]
    a, b, c = one.vpc("10.1.0.0/16"), one.vpc("10.2.0.0/16"), one.vpc("10.3.0.0/16", EAST)
    with invalid("BandwidthNotAllowed"):
        one.peer(a, b, bandwidth=100)
    with invalid("BandwidthRequired"):
        one.peer(a, c, remoteRegionId=EAST)
    # Clients of IaC tools write 0 for unset values.
    with invalid("BandwidthRequired"):
        one.peer(a, c, remoteRegionId=EAST, bandwidth=0)
    with invalid("InvalidBandwidth") as why:
        one.peer(a, c, remoteRegionId=EAST, bandwidth=501)
    assert "500" in why.message and why.entry == "bandwidth"
    local = one.peer(a, b)["vpcPeeringId"]
    with invalid("BandwidthNotAllowed"):
        one.bandwidth(local, 100)
    id = one.peer(a, c, remoteRegionId=EAST, bandwidth=500)["vpcPeeringId"]
    one.wait_for("active", id)
    for wrong in (0, 501):
        with invalid("InvalidBandwidth"):
            one.bandwidth(id, wrong)
    for wrong in (None, "1", -1):
        with invalid(None) if wrong is None else invalid():
            one.bandwidth(id, wrong)
    assert one.show(id)["bandwidth"] == 500


def test_bandwidth_changes_live(one, two, request_):
    """B2: pending and active, by the initiator; the peering stays active, and both see it."""
    _, _, id = request_
    assert one.bandwidth(id, 50)["bandwidth"] == 50
    two.accept(id, EAST)
    one.wait_for("active", id)
    changed = one.bandwidth(id, 60)
    assert (changed["bandwidth"], changed["state"]) == (60, "active")
    assert two.show(id, EAST)["bandwidth"] == 60


def test_arrears_suspend_what_the_account_pays_for(sandbox, one, two, request_):
    """B5: what it initiated between regions stops, and resumes automatically once it has paid; nothing else is affected."""
    a, b, id = request_
    two.accept(id, EAST)
    local = one.peer(a, one.vpc("10.3.0.0/16"))["vpcPeeringId"]
    theirs = two.ask(b, one, one.vpc("10.4.0.0/16"), EAST, remoteRegionId=NORTH, bandwidth=1)["vpcPeeringId"]
    one.accept(theirs)
    pending = one.ask(a, two, two.vpc("10.5.0.0/16", EAST), remoteRegionId=EAST, bandwidth=1)["vpcPeeringId"]
    for it in (id, local, theirs):
        one.wait_for("active", it)

    sandbox.charge(one, "overdue")
    assert one.show(id)["charge"]["chargeStatus"] == "overdue" and one.state(id) == "active"
    assert two.show(id, EAST)["charge"]["chargeStatus"] == "normal", "how others stand is their own affair"
    sandbox.charge(one, "arrear")
    for tenant, region in ((one, NORTH), (two, EAST)):
        shown = tenant.show(id, region)
        assert (shown["state"], shown["vpcPeeringState"]) == ("suspended", "Disconnected")
        assert shown["charge"]["chargeStatus"] == "arrear" and ("AccountInArrear" in shown["stateReason"]) == (tenant is one)
        assert tenant.routes(id, region) == [] and not shown["routesInSync"]
    assert one.state(local) == one.state(theirs) == "active" and one.state(pending) == "pending"
    assert one.bare("GET", "/whoami")["chargeStatus"] == "arrear"
    # Nothing new that has to be paid for; within a region everything is free.
    with impossible("AccountInArrear"):
        one.ask(a, two, two.vpc("10.6.0.0/16", EAST), remoteRegionId=EAST, bandwidth=1)
    with impossible("VpcPeerNotAcceptable") as why:
        two.accept(pending, EAST)
    assert "arrear" not in why.message
    with impossible("VpcPeerInvalidStateChange"):
        one.bandwidth(id, 7)
    one.peer(a, one.vpc("10.7.0.0/16"))
    # It is suspended, and still a peer: it counts for pair, quota and overlap.
    with exists("VpcPeerAlreadyExist"):
        two.ask(b, one, a, EAST, remoteRegionId=NORTH, bandwidth=1)

    sandbox.charge(one, "normal")
    shown = one.wait_for("active", id)
    assert shown["charge"]["chargeStatus"] == "normal" and shown["bandwidth"] == 100
    assert len(two.routes(id, EAST)) == 2
    two.accept(pending, EAST, clientToken="again")


def test_only_delete_is_possible_while_suspended(sandbox, one, two, request_):
    """B5: it can only be deleted: its texts cannot be changed either."""
    _, _, id = request_
    two.accept(id, EAST)
    sandbox.charge(one, "arrear")
    assert one.state(id) == "suspended"
    with impossible("VpcPeerInvalidStateChange"):
        one.modify(id, description="x")
    two.delete(id, EAST)
    assert one.state(id) == "peer_deleted"


def test_what_is_not_paid_for_is_deleted(start):
    """B5: after the period the suspended peering is gone at the payer, and deleted by the peer for the other."""
    sandbox = start(arrear_kept_s=1)
    one, two = sandbox.tenants
    a, b = one.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16", EAST)
    id = one.ask(a, two, b, remoteRegionId=EAST, bandwidth=1)["vpcPeeringId"]
    two.accept(id, EAST)
    one.wait_for("active", id)
    sandbox.charge(one, "arrear")
    assert one.state(id) == "suspended"
    until(lambda: one.state(id) is None)
    assert two.state(id, EAST) == "peer_deleted"
    sandbox.charge(one, "normal")
    assert one.state(id) is None and two.state(id, EAST) == "peer_deleted"
