"""JD Cloud's Python SDK, unmodified: every call it publishes, and the responses as it sees them."""

import re

import pytest
import requests
from jdcloud_sdk.services.cps.apis.CreateSecondaryCidrRequest import (
    CreateSecondaryCidrParameters,
    CreateSecondaryCidrRequest,
)
from jdcloud_sdk.services.cps.apis.CreateVpcRequest import CreateVpcParameters, CreateVpcRequest
from jdcloud_sdk.services.cps.models.SecondaryCidrSpec import SecondaryCidrSpec
from jdcloud_sdk.services.cps.models.VpcSpec import VpcSpec
from jdcloud_sdk.services.vpc.apis.CreateVpcPeeringRequest import CreateVpcPeeringParameters, CreateVpcPeeringRequest
from jdcloud_sdk.services.vpc.apis.DescribeVpcPeeringsRequest import (
    DescribeVpcPeeringsParameters,
    DescribeVpcPeeringsRequest,
)
from jdcloud_sdk.services.vpc.apis.ModifyVpcPeeringRequest import ModifyVpcPeeringParameters, ModifyVpcPeeringRequest

from cloud import EAST, NORTH, OwnRequest, Refusal, exists, impossible, invalid, unknown, until

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def test_the_sdks_own_parameters_with_null_for_what_is_not_set(one):
    """The SDK writes `null` for every field that is not set, and repeats the path in the body."""
    parameters = CreateVpcParameters(NORTH, VpcSpec("10.1.0.0/16", "a", None))
    a = one.request(CreateVpcRequest(parameters), "cps")["vpcId"]
    parameters = CreateVpcParameters(NORTH, VpcSpec("10.2.0.0/16", "b", "said", "yes"))
    b = one.request(CreateVpcRequest(parameters), "cps")["vpcId"]
    parameters = CreateSecondaryCidrParameters(NORTH, SecondaryCidrSpec(subnetId=b, cidr="10.9.0.0/16"))
    one.request(CreateSecondaryCidrRequest(parameters), "cps")

    made = one.request(CreateVpcPeeringRequest(CreateVpcPeeringParameters(NORTH, "p", a, b)))["vpcPeering"]
    assert (made["description"], made["tags"], made["bandwidth"]) == ("", [], None)
    assert len(made["remoteVpcInfo"]["addressPrefix"]) == 3

    parameters = ModifyVpcPeeringParameters(NORTH, made["vpcPeeringId"])
    assert one.request(ModifyVpcPeeringRequest(parameters)) == {}
    parameters.setDescription("words")
    one.request(ModifyVpcPeeringRequest(parameters))
    parameters = DescribeVpcPeeringsParameters(NORTH)
    parameters.setPageSize(10)
    listed = one.request(DescribeVpcPeeringsRequest(parameters))
    assert [(it["vpcPeeringName"], it["description"]) for it in listed["vpcPeerings"]] == [("p", "words")]


def test_a_peering_has_jd_clouds_fields_and_ours(one):
    """One peering within an account, field by field, from create, get and list."""
    a, b = one.vpc("10.1.0.0/16", name="a"), one.vpc("10.2.0.0/16", name="b", enableIpv6="yes")
    made = one.peer(a, b, name="p", description="d", userTags=[{"key": "k", "value": "v"}])
    peering = one.wait_for("active", made["vpcPeeringId"])
    assert re.fullmatch(r"vpcpr-[a-z0-9]{10}", peering["vpcPeeringId"])
    assert TIME.fullmatch(peering.pop("createdTime")) and TIME.fullmatch(peering.pop("activatedTime"))
    remote = peering.pop("remoteVpcInfo")
    # Both VPCs are connected as a whole.
    for side in (peering["vpcInfo"], remote):
        assert side.pop("effectivePrefixes") == side["addressPrefix"]
        assert side.pop("exportPrefixes") == side.pop("importPrefixes") == []
    assert [cidr.split(":")[0] for cidr in remote.pop("addressPrefix")] == ["10.2.0.0/16", "fd43"]
    assert remote == {"vpcId": b, "vpcName": "b", "regionId": NORTH, "accountId": one.id}
    assert peering.pop("vpcInfo") == {
        "vpcId": a,
        "vpcName": "a",
        "addressPrefix": ["10.1.0.0/16"],
        "regionId": NORTH,
        "accountId": one.id,
    }
    assert peering == {
        "vpcPeeringId": made["vpcPeeringId"],
        "vpcPeeringName": "p",
        "vpcPeeringState": "Connected",
        "description": "d",
        "tags": [{"key": "k", "value": "v"}],
        "state": "active",
        "stateReason": None,
        "role": "initiator",
        "expiredTime": None,
        "bandwidth": None,
        "charge": None,
        "routesInSync": True,
        # There are no hosts that could report.
        "lastReport": None,
        "reportAgeSeconds": None,
        "lastConfirmed": None,
        "pathHealth": None,
        "message": "",
        "deletionProtection": False,
    }
    shown = one.show(made["vpcPeeringId"])
    assert one.list() == {"vpcPeerings": [shown], "totalCount": 1}


def test_between_regions_and_accounts_each_sees_its_own_side(one, two):
    """V1: `vpcInfo` is always the caller's own side; `charge` exists between regions only."""
    a, b = one.vpc("10.1.0.0/16", name="a"), two.vpc("10.2.0.0/16", EAST, name="b")
    made = one.ask(a, two, b, remoteRegionId=EAST, bandwidth=100)
    ours, theirs = made, two.show(made["vpcPeeringId"], EAST)
    assert (ours["role"], theirs["role"]) == ("initiator", "receiver")
    assert (ours["vpcInfo"]["vpcId"], ours["remoteVpcInfo"]["vpcId"]) == (a, b)
    assert (theirs["vpcInfo"]["vpcId"], theirs["remoteVpcInfo"]["vpcId"]) == (b, a)
    assert theirs["remoteVpcInfo"]["regionId"] == NORTH and theirs["remoteVpcInfo"]["accountId"] == one.id
    assert ours["charge"] == {
        "chargeMode": "postpaid_by_duration",
        "chargeStatus": "normal",
        "chargeStartTime": None,
        "chargeRetireTime": None,
    }
    assert TIME.fullmatch(ours["expiredTime"])
    accepted = two.accept(made["vpcPeeringId"], EAST)
    assert accepted["vpcInfo"]["vpcId"] == b
    active = one.wait_for("active", made["vpcPeeringId"])
    assert TIME.fullmatch(active["charge"]["chargeStartTime"]) and active["charge"]["chargeRetireTime"] is None


@pytest.mark.parametrize("slash", ["", "/"])
def test_collections_with_and_without_a_slash(one, slash):
    """JD Cloud's two services write their collections differently."""
    a, b = one.vpc("10.1.0.0/16"), one.vpc("10.2.0.0/16")
    body = {"vpcPeeringName": "p", "vpcId": a, "remoteVpcId": b}
    made = one.own("POST", f"/vpcPeerings{slash}", **body)["vpcPeering"]["vpcPeeringId"]
    assert one.own("GET", f"/vpcPeerings{slash}")["vpcPeerings"][0]["vpcPeeringId"] == made
    assert one.own("GET", f"/quotas{slash}", type="vpcpeering")["quota"]["count"] == 1
    assert one.own("GET", f"/vpcs{slash}")["totalCount"] == 2
    assert one.own("GET", f"/secondaryCidrs{slash}") == {"secondaryCidrs": []}
    assert one.own("GET", f"/routeTables{slash}")["totalCount"] == 2
    assert [it["regionId"] for it in one.request(OwnRequest("GET", f"/regions{slash}", {}))["regions"]] == [EAST, NORTH]


@pytest.mark.parametrize("colon", [":", "%3A", "%3a"])
def test_actions_with_and_without_an_encoded_colon(one, two, colon):
    """`:acceptVpcPeering` and the like may arrive as `%3A…`, which is signed as either."""
    a, b = one.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16", EAST)
    id = one.ask(a, two, b, remoteRegionId=EAST, bandwidth=10)["vpcPeeringId"]
    path = f"/vpcPeerings/{id}{colon}"
    assert one.own("PUT", f"{path}modifyVpcPeeringBandwidth", bandwidth=20)["vpcPeering"]["bandwidth"] == 20
    accepted = two.own("POST", f"{path}acceptVpcPeering", regionId=EAST)["vpcPeering"]
    assert accepted["vpcPeeringState"] == "Connected"
    with unknown(None):
        two.own("POST", f"{path}nonsense", regionId=EAST)
    for method, action in (("PUT", "acceptVpcPeering"), ("POST", "modifyVpcPeeringBandwidth")):
        with Refusal(405, "METHOD_NOT_ALLOWED", None):
            two.own(method, f"{path}{action}", regionId=EAST)


def test_actions_repeat_the_path_in_the_body(one, two):
    """What the body repeats must equal the path."""
    a, b = one.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16")
    id = one.ask(a, two, b)["vpcPeeringId"]
    path = f"/v1/regions/{NORTH}/vpcPeerings/{id}:acceptVpcPeering"
    for wrong in ({"regionId": EAST}, {"vpcPeeringId": "vpcpr-0000000000"}, {"nonsense": 1}):
        response = two.sandbox.http("POST", path, two.token, json=wrong)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["details"][0]["entry"] == next(iter(wrong))
    for body in ({"regionId": NORTH, "vpcPeeringId": id, "clientToken": None}, None):
        if two.state(id) == "pending":
            assert two.sandbox.http("POST", path, two.token, json=body).status_code == 200
    assert two.state(id) == "active"


def test_lists_are_filtered(one, two):
    """V1: every filter alone, together, with several values, and tags."""
    a, b, c = one.vpc("10.1.0.0/16"), one.vpc("10.2.0.0/16"), one.vpc("10.3.0.0/16")
    d, e = two.vpc("10.4.0.0/16"), two.vpc("10.5.0.0/16", EAST)
    tags = [{"key": "team", "value": "net"}, {"key": "empty", "value": None}]
    ab = one.peer(a, b, name="ab", userTags=tags)["vpcPeeringId"]
    ac = one.peer(a, c, name="ac")["vpcPeeringId"]
    ad = one.ask(a, two, d, name="ad")["vpcPeeringId"]
    ae = one.ask(a, two, e, name="ae", remoteRegionId=EAST, bandwidth=1)["vpcPeeringId"]
    db = two.ask(d, one, b, name="db")["vpcPeeringId"]
    one.wait_for("active", ab), one.wait_for("active", ac)

    assert one.ids() == {ab, ac, ad, ae, db} and two.ids() == {ad, db} and two.ids(EAST) == {ae}
    assert one.ids(EAST) == set()
    assert one.ids(vpcPeeringIds=[ab, ac, "vpcpr-0000000000"]) == {ab, ac}
    assert one.ids(vpcPeeringNames=["ad", "db"]) == {ad, db}
    assert one.ids(vpcId=[a]) == {ab, ac, ad, ae} and two.ids(vpcId=[d]) == {ad, db}
    # From the caller's point of view: its own side is the `vpcId`.
    assert one.ids(vpcId=[b]) == {db} and one.ids(remoteVpcId=[b]) == {ab} and two.ids(remoteVpcId=[b]) == {db}
    assert one.ids(state=["active"]) == {ab, ac} and one.ids(state=["pending", "active"]) == {ab, ac, ad, ae, db}
    assert one.ids(state=["Initiated"]) == {ad, ae, db}
    assert one.ids(role=["receiver"]) == {db} and two.ids(role=["receiver"]) == {ad}
    assert one.ids(role=["initiator"], state=["pending"], vpcId=[a]) == {ad, ae}
    for unknown_word in ({"state": ["activ"]}, {"role": ["owner"]}):
        with invalid() as why:
            one.ids(**unknown_word)
        assert why.entry == next(iter(unknown_word))
    for tags, found in [
        ([{"key": "team", "values": ["net", "x"]}], {ab}),
        ([{"key": "team", "values": []}], {ab}),
        ([{"key": "team", "values": ["x"]}], set()),
    ]:
        assert {it["vpcPeeringId"] for it in one.list(tags=tags)["vpcPeerings"]} == found
    for filters in ([{"name": "nonsense", "values": ["x"]}], [{"values": ["x"]}]):
        with invalid():
            one.list(filters=filters)
    with invalid():
        one.list(pageSise=10)


def test_lists_are_paged(start):
    """V1: the newest come first; pages do not overlap; after the last page is the last page."""
    one = start().tenants[0]
    a = one.vpc("10.0.0.0/16")
    made = [one.peer(a, one.vpc(f"10.{n}.0.0/16"), name=f"p{n}")["vpcPeeringId"] for n in range(1, 24)]

    def page(number, size=10):
        answer = one.list(pageNumber=number, pageSize=size)
        assert answer["totalCount"] == 23
        return [it["vpcPeeringId"] for it in answer["vpcPeerings"]]

    pages = [page(number) for number in (1, 2, 3)]
    assert [len(it) for it in pages] == [10, 10, 3]
    assert sorted(id for it in pages for id in it) == sorted(made)
    assert page(9) == pages[2] and page(1, 100) == pages[0] + pages[1] + pages[2]
    assert len(one.list()["vpcPeerings"]) == 20
    assert page(1, 1) == pages[0][:1]
    times = [it["createdTime"] for it in one.list(pageSize=100)["vpcPeerings"]]
    assert times == sorted(times, reverse=True)
    for wrong in ({"pageSize": 0}, {"pageSize": 101}, {"pageNumber": 0}, {"pageNumber": "x"}):
        with invalid() as why:
            one.list(**wrong)
        assert why.entry == next(iter(wrong))
    # By markers, in other orders: no duplicates, and none is missing.
    marker, seen = None, []
    while marker or not seen:
        answer = one.list(pageSize=7, sort="name", **({"marker": marker} if marker else {}))
        seen += [it["vpcPeeringName"] for it in answer["vpcPeerings"]]
        marker = answer.get("nextMarker")
    assert seen == sorted(f"p{n}" for n in range(1, 24))


def test_modify(one, two):
    """Name and description, together and alone; invalid ones are refused and change nothing."""
    a, b, c = one.vpc("10.1.0.0/16"), one.vpc("10.2.0.0/16"), one.vpc("10.3.0.0/16")
    id = one.peer(a, b, name="p")["vpcPeeringId"]
    one.peer(a, c, name="taken")

    def words():
        shown = one.show(id)
        return shown["vpcPeeringName"], shown["description"]

    assert one.modify(id, vpcPeeringName="中文_名称", description="第一 + second = ?&%") == {}
    assert words() == ("中文_名称", "第一 + second = ?&%")
    one.modify(id, description="")
    assert words() == ("中文_名称", "")
    one.modify(id, vpcPeeringName="对" * 32, description="描" * 256)
    assert words() == ("对" * 32, "描" * 256)
    for wrong, reason in [
        ({"vpcPeeringName": ""}, "InvalidName"),
        ({"vpcPeeringName": "x" * 33}, "InvalidName"),
        ({"vpcPeeringName": "a\nb"}, "InvalidName"),
        ({"description": "x" * 257}, "InvalidDescription"),
        ({"bandwidth": 1}, "InvalidParameter"),
        ({"vpcPeeringName": 7}, "InvalidParameter"),
    ]:
        with invalid(reason) as why:
            one.modify(id, **wrong)
        assert why.entry == next(iter(wrong))
    with exists("VpcPeerNameExist"):
        one.modify(id, vpcPeeringName="taken")
    assert words() == ("对" * 32, "描" * 256)
    for asked in ("vpcpr-0000000000", "nonsense ü", "a" * 300):
        with unknown():
            one.modify(asked, description="x")
        with unknown():
            one.show(asked)
    with unknown():
        one.modify(id, EAST, description="x")


def test_wrong_values_are_named(one):
    """A refusal to create names the field and the rule."""
    a, b = one.vpc("10.1.0.0/16"), one.vpc("10.2.0.0/16", EAST)
    good = {"vpcPeeringName": "p", "vpcId": a, "remoteVpcId": b, "remoteRegionId": EAST, "bandwidth": 10}
    for wrong, reason in [
        ({"vpcPeeringName": "x" * 33}, "InvalidName"),
        ({"description": "x" * 257}, "InvalidDescription"),
        ({"userTags": [{"key": f"k{n}", "value": "v"} for n in range(11)]}, "InvalidTag"),
        ({"clientToken": "x" * 37}, "InvalidClientToken"),
        ({"clientToken": ""}, "InvalidClientToken"),
        ({"bandwidth": "10"}, "InvalidParameter"),
        ({"bandwidth": 1.5}, "InvalidParameter"),
        ({"bandwidth": -1}, "InvalidParameter"),
        ({"bandwidth": 2**40}, "InvalidParameter"),
        ({"vpcId": "not an id"}, "InvalidParameter"),
        ({"nonsense": True}, "InvalidParameter"),
    ]:
        with invalid(reason) as why:
            one.call("CreateVpcPeering", **(good | wrong))
        assert why.entry == next(iter(wrong)), why.message
    for field in ("vpcPeeringName", "vpcId", "remoteVpcId"):
        with invalid(None) as why:
            one.call("CreateVpcPeering", **(good | {field: None}))
        assert field in why.message
    with invalid("InvalidTag") as why:
        one.call("CreateVpcPeering", **good, userTags=[{"key": "k", "value": "1"}, {"key": "k", "value": "2"}])
    assert why.entry == "userTags[1]"
    with invalid("VpcPeerSelf"):
        one.peer(a, a)
    assert one.ids() == set()


def test_vpcs(one, two):
    """The VPCs of both of JD Cloud's services: create, list, get, modify, delete."""
    a = one.vpc("10.1.0.0/16", name="a", description="first")
    b = one.vpc("10.2.0.0/16", EAST, name="b", enableIpv6="yes")
    two.vpc("10.1.0.0/16", name="a")
    for service in ("vpc", "cps"):
        listed = one.call("DescribeVpcs", service)
        assert [(it["vpcId"], it["vpcName"], it["name"]) for it in listed["vpcs"]] == [(a, "a", "a")]
        assert listed["totalCount"] == 1
        shown = one.call("DescribeVpc", service, regionId=EAST, vpcId=b)["vpc"]
        assert (shown["region"], shown["cidr"], shown["addressPrefix"]) == (EAST, "10.2.0.0/16", "10.2.0.0/16")
        assert re.fullmatch(r"fd43:5[0-9a-f]{3}:[0-9a-f]+::/48", shown["ipv6Cidr"])
        assert shown["cidrs"] == [shown["cidr"], shown["ipv6Cidr"]]
        assert TIME.fullmatch(shown["createTime"]) and shown["createTime"] == shown["createdTime"]
        with unknown("VpcNotFound"):
            one.call("DescribeVpc", service, vpcId=b)
        with unknown("VpcNotFound"):
            two.call("DescribeVpc", service, vpcId=a)
    named = [{"name": "vpcNames", "values": ["a", "z"]}]
    assert one.call("DescribeVpcs", filters=named)["totalCount"] == 1
    assert one.call("DescribeVpcs", "cps", name="z")["totalCount"] == 0

    one.call("ModifyVpc", "cps", vpcId=a, name="甲", description=None)
    shown = one.call("DescribeVpc", "cps", vpcId=a)["vpc"]
    assert (shown["name"], shown["description"]) == ("甲", "first")
    with unknown("VpcNotFound"):
        two.call("ModifyVpc", "cps", vpcId=a, name="mine")
    with unknown("VpcNotFound"):
        two.call("DeleteVpc", "cps", vpcId=a)
    # Deleting it again is no error, as long as it is known.
    for _ in range(2):
        assert one.call("DeleteVpc", "cps", vpcId=a) == {}
    with unknown("VpcNotFound"):
        two.call("DeleteVpc", "cps", vpcId=a)
    for wrong, reason in [
        ({"cidr": "10.1.0.1/16"}, "InvalidCidr"),
        ({"cidr": "0.0.0.0/0"}, "InvalidCidr"),
        ({"cidr": "10.1.0.0/33"}, "InvalidParameter"),
        ({"name": ""}, "InvalidName"),
        ({"enableIpv6": "perhaps"}, "InvalidParameter"),
    ]:
        with invalid(reason):
            one.call("CreateVpc", "cps", vpcSpec={"cidr": "10.1.0.0/16", "name": "n", "description": "d"} | wrong)
    with unknown("RegionNotFound"):
        one.vpc("10.1.0.0/16", "cn-south-1")


def test_a_client_token_makes_one_vpc(one):
    """`clientToken` with a VPC: the first result, once."""
    spec = {"cidr": "10.1.0.0/16", "name": "a", "description": "d"}
    made = [one.call("CreateVpc", "cps", vpcSpec=spec, clientToken="t")["vpcId"] for _ in range(2)]
    assert made[0] == made[1] and one.call("DescribeVpcs", "cps")["totalCount"] == 1


def test_secondary_cidrs_and_route_policies(one):
    """C4, L10, V2: when a CIDR is added to a VPC or removed, the route policies of its peerings follow."""
    a, b = one.vpc("10.1.0.0/16", enableIpv6="yes"), one.vpc("10.2.0.0/16")
    id = one.peer(a, b)["vpcPeeringId"]
    one.wait_for("active", id)
    # One has IPv6, the other has not: there is nothing to reach by IPv6.
    assert one.routes(id) == [(a, "10.2.0.0/16"), (b, "10.1.0.0/16")]

    def add(cidr):
        spec = {"subnetId": b, "cidr": cidr, "name": None}
        return one.call("CreateSecondaryCidr", "cps", secondaryCidrSpec=spec)["secondaryCidrId"]

    added = add("10.22.0.0/16")
    assert one.routes(id) == [(a, "10.2.0.0/16"), (a, "10.22.0.0/16"), (b, "10.1.0.0/16")]
    listed = one.call("DescribeSecondaryCidrs", "cps", subnetId=b)["secondaryCidrs"]
    assert [(it["secondaryCidrId"], it["cidr"], it["vpcCidr"]) for it in listed] == [
        (added, "10.22.0.0/16", "10.2.0.0/16")
    ]
    with impossible("VpcPeerCidrConflict") as why:
        add("10.1.7.0/24")
    assert "10.1.7.0/24" in why.message and "10.1.0.0/16" in why.message
    with invalid("InvalidCidr"):
        add("10.2.9.0/24")
    assert one.show(id)["remoteVpcInfo"]["addressPrefix"] == ["10.2.0.0/16", "10.22.0.0/16"]

    one.call("DeleteSecondaryCidr", "cps", secondaryCidrId=added)
    assert one.routes(id) == [(a, "10.2.0.0/16"), (b, "10.1.0.0/16")]
    one.call("DeleteSecondaryCidr", "cps", secondaryCidrId=added)
    with unknown("CidrNotFound"):
        one.call("DeleteSecondaryCidr", "cps", secondaryCidrId="cidr-0000000000")
    add("fd00:2::/48")
    assert len(one.routes(id)) == 4
    with impossible("VpcInUse"):
        one.call("DeleteVpc", "cps", vpcId=b)


@pytest.mark.parametrize("service", ["vpc", "cps"])
def test_route_tables_follow_peerings(one, service):
    """C4: route tables of both services: local rules, and those of forwarding peerings."""
    a, b = one.vpc("10.1.0.0/16", name="a"), one.vpc("10.2.0.0/16", EAST)
    id = one.peer(a, b, remoteRegionId=EAST, bandwidth=5)["vpcPeeringId"]
    one.wait_for("active", id)
    tables = one.call("DescribeRouteTables", service)["routeTables"]
    assert [it["vpcId"] for it in tables] == [a] and tables[0]["vpcName"] == "a"
    local = {"destinationCidr": "10.1.0.0/16", "nextHopType": "local", "nextHop": ""}
    peered = {"destinationCidr": "10.2.0.0/16", "nextHopType": "vpc_peering", "nextHop": id}
    table = one.call("DescribeRouteTable", service, routeTableId=tables[0]["routeTableId"])["routeTable"]
    assert table == tables[0] and table["routes"] == table["routeTableRules"] == [local, peered]
    one.delete(id)
    until(lambda: one.call("DescribeRouteTables", service)["routeTables"][0]["routes"] == [local])
    with unknown("RouteTableNotFound"):
        one.call("DescribeRouteTable", service, routeTableId="rtb-x")


def test_the_api_gateways_unwritten_paths(one, sandbox):
    """Unknown paths, wrong methods and invalid JSON have the form of a response, too."""
    with unknown(None):
        one.own("GET", "/nothing")
    with unknown("RegionNotFound"):
        one.list("cn-south-1")
    for method, path, data, code, status in [
        ("PATCH", "/v1/whoami", None, 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/nothing", None, 404, "NOT_FOUND"),
        ("POST", f"/v1/regions/{NORTH}/vpcPeerings/", "{", 400, "INVALID_ARGUMENT"),
        ("POST", f"/v1/regions/{NORTH}/vpcPeerings/", "[]", 400, "INVALID_ARGUMENT"),
        ("POST", f"/v1/regions/{NORTH}/vpcPeerings/", "x" * 300_000, 413, "REQUEST_TOO_LARGE"),
    ]:
        response = sandbox.http(method, path, one.token, data=data)
        answer = response.json()
        assert (response.status_code, answer["error"]["code"], answer["error"]["status"]) == (code, code, status)
        assert response.headers["x-jdcloud-request-id"] == answer["requestId"]
        assert response.headers["content-type"] == "application/json"


def test_every_answer_has_an_id_of_its_own(one, sandbox):
    """`requestId` is in body and header, and the audit trail finds the request by it."""
    a, b = one.vpc("10.1.0.0/16"), one.vpc("10.2.0.0/16")
    body = {"vpcPeeringName": "p", "vpcId": a, "remoteVpcId": b}
    path = f"/v1/regions/{NORTH}/vpcPeerings/"
    answers = [sandbox.http("POST", path, one.token, json=body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 409]
    ids = [answer.json()["requestId"] for answer in answers]
    assert ids == [answer.headers["x-jdcloud-request-id"] for answer in answers] and ids[0] != ids[1]
    for id, outcome in zip(ids, ["done", "refused"]):
        (entry,) = one.bare("GET", f"/auditEntries?request={id}")["entries"]
        assert (entry["request"], entry["outcome"], entry["actor"]) == (id, outcome, f"account/{one.id}")


def test_nobody_is_recognised_without_a_token(sandbox):
    """No, a wrong or a malformed header `Authorization`; unauthenticated callers learn nothing."""
    url = sandbox.url + f"/v1/regions/{NORTH}/vpcPeerings/"
    for wrong in (None, "Bearer ", "Bearer x", "Basic YTpi", "JDCLOUD3-HMAC-SHA256 ", "JDCLOUD9-HMAC-SHA256 x"):
        response = requests.get(url, headers={"Authorization": wrong} if wrong else {}, timeout=10)
        assert (response.status_code, response.json()["error"]["status"]) == (401, "UNAUTHENTICATED"), wrong
    for path in (f"/v1/regions/{NORTH}/vpcs/x", "/v1/regions/nowhere/vpcs", "/admin/v1/accounts", "/v1/whoami"):
        assert requests.get(sandbox.url + path, timeout=10).status_code == 401


def test_operators_and_tenants_keep_apart(sandbox, one):
    """A tenant's token has no access to the operators' API, and operators have no VPCs."""
    for path in ("/accounts", "/inventory", "/hosts", "/audit", "/peerings", f"/accounts/{one.id}"):
        response = sandbox.http("GET", "/admin/v1" + path, one.token)
        assert (response.status_code, response.json()["error"]["status"]) == (403, "HTTP_FORBIDDEN")
    response = sandbox.http("GET", f"/v1/regions/{NORTH}/vpcs", sandbox.admin_token)
    assert (response.status_code, response.json()["error"]["status"]) == (403, "HTTP_FORBIDDEN")
    assert one.bare("GET", "/whoami")["accountId"] == one.id
