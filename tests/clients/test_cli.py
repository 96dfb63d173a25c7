"""JD Cloud's command line, unmodified. It exits with 0 whatever the response is, so its output is examined."""

import json
import os
import subprocess

import pytest

from cloud import EAST, NORTH, until


@pytest.fixture
def jdc(sandbox, tmp_path):
    """Makes command lines of accounts, each with a home directory of its own."""
    assert "JDC" in os.environ, "jdc imports `imp`, which Python has up to 3.11: install such a Python"

    def of(tenant, region=NORTH):
        home = tmp_path / f"{tenant.id} {region}"
        home.mkdir()

        def run(*arguments):
            command = [os.environ["JDC"], *arguments]
            environment = {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
            ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            assert ended.returncode == 0, ended.stdout + ended.stderr
            return ended.stdout

        def call(service, operation, *arguments):
            """The result of a call; an unexpected error ends the test."""
            answer = json.loads(run(service, operation, *arguments))
            assert answer["request_id"] and answer["error"] is None, answer
            return answer["result"]

        def refused(service, operation, *arguments):
            """The error of a call."""
            answer = json.loads(run(service, operation, *arguments))
            assert answer["request_id"] and answer["result"] is None, answer
            return answer["error"]["code"], answer["error"]["status"], answer["error"]["message"]

        said = run(
            *("configure", "add", "--profile", "default", "--access-key", tenant.access_key),
            *("--secret-key", tenant.secret_key, "--region-id", region, "--endpoint", sandbox.endpoint),
            *("--scheme", "http", "--timeout", "10"),
        )
        assert "successfully" in said, said
        call.refused = refused
        return call

    return of


def test_a_peerings_life(jdc, one):
    """VPCs, create, list with a filter, get, modify, quota and delete of a peering within an account."""
    call = jdc(one)
    nets = [{"cidr": f"10.{n}.0.0/16", "name": f"网 {n}", "description": "d"} for n in (1, 2)]
    a, b = [call("cps", "create-vpc", "--vpc-spec", json.dumps(net))["vpcId"] for net in nets]
    assert {it["name"] for it in call("cps", "describe-vpcs")["vpcs"]} == {"网 1", "网 2"}
    assert call("vpc", "describe-vpc", "--vpc-id", a)["vpc"]["vpcName"] == "网 1"

    wish = ["--vpc-peering-name", "对等 连接", "--vpc-id", a, "--remote-vpc-id", b, "--description", "a+b=c"]
    made = call("vpc", "create-vpc-peering", *wish)["vpcPeering"]
    id = made["vpcPeeringId"]
    assert (made["vpcPeeringName"], made["description"]) == ("对等 连接", "a+b=c")
    one.wait_for("active", id)
    filters = json.dumps([{"name": "vpcPeeringNames", "values": ["对等 连接"]}])
    listed = call("vpc", "describe-vpc-peerings", "--page-number", "1", "--page-size", "10", "--filters", filters)
    assert (listed["totalCount"], listed["vpcPeerings"][0]["vpcPeeringState"]) == (1, "Connected")
    call("vpc", "modify-vpc-peering", "--vpc-peering-id", id, "--vpc-peering-name", "新名")
    shown = call("vpc", "describe-vpc-peering", "--vpc-peering-id", id)["vpcPeering"]
    assert (shown["vpcPeeringName"], shown["description"]) == ("新名", "a+b=c")
    quota = call("vpc", "describe-quota", "--type", "vpcpeering", "--parent-resource-id", a)["quota"]
    assert (quota["count"], quota["maxLimit"], quota["parentResourceId"]) == (1, 50, a)
    tables = call("cps", "describe-route-tables", "--vpc-id", a)["routeTables"]
    assert [route["nextHop"] for route in tables[0]["routes"]] == ["", id]

    for _ in range(2):
        call("vpc", "delete-vpc-peering", "--vpc-peering-id", id)
    assert call("vpc", "describe-vpc-peerings")["totalCount"] == 0
    call("cps", "delete-vpc", "--vpc-id", a)
    assert call("cps", "describe-vpcs")["totalCount"] == 1


def test_our_fields_go_through_input_json(jdc, one, two):
    """What JD Cloud's clients have no option for: between regions and accounts, with a bandwidth and a token."""
    a, b = one.vpc("10.1.0.0/16"), two.vpc("10.2.0.0/16", EAST)
    wish = {
        "vpcPeeringName": "p",
        "vpcId": a,
        "remoteVpcId": b,
        "remoteRegionId": EAST,
        "remoteAccountId": two.id,
        "bandwidth": 100,
        "clientToken": "token",
    }
    # The options that jdc requires are overridden.
    options = ["--vpc-peering-name", "-", "--vpc-id", "-", "--remote-vpc-id", "-"]
    ours = jdc(one)
    made = [
        ours("vpc", "create-vpc-peering", *options, "--input-json", json.dumps(wish))["vpcPeering"] for _ in range(2)
    ]
    assert made[0]["vpcPeeringId"] == made[1]["vpcPeeringId"]
    assert (made[0]["state"], made[0]["bandwidth"]) == ("pending", 100)
    theirs = jdc(two, EAST)
    (seen,) = theirs("vpc", "describe-vpc-peerings")["vpcPeerings"]
    assert (seen["role"], seen["remoteVpcInfo"]["accountId"]) == ("receiver", one.id)
    theirs("vpc", "delete-vpc-peering", "--vpc-peering-id", seen["vpcPeeringId"])
    until(lambda: one.state(seen["vpcPeeringId"]) == "peer_deleted")
    code, status, message = ours.refused(
        "vpc", "create-vpc-peering", *options, "--input-json", json.dumps(wish | {"bandwidth": 200})
    )
    assert (code, status) == (409, "ABORTED") and "clientToken" in message


def test_errors_are_told(jdc, one, two):
    """jdc exits with 0 on errors; it prints code, status and message."""
    call = jdc(one)
    code, status, message = call.refused("vpc", "describe-vpc-peering", "--vpc-peering-id", "vpcpr-0000000000")
    assert (code, status) == (404, "NOT_FOUND") and "vpcpr-0000000000" in message
    a, b = one.vpc("10.1.0.0/16"), one.vpc("10.1.128.0/17")
    code, status, message = call.refused(
        "vpc", "create-vpc-peering", "--vpc-peering-name", "p", "--vpc-id", a, "--remote-vpc-id", b
    )
    assert (code, status) == (400, "FAILED_PRECONDITION")
    assert "10.1.0.0/16" in message and "10.1.128.0/17" in message
    one.sandbox.operator("DELETE", f"/accounts/{one.id}/keys/{one.access_key}")
    assert call.refused("cps", "describe-vpcs")[:2] == (401, "UNAUTHENTICATED")
