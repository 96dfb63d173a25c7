"""The OpenAPI document is true: every response to any caller is described by it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import schemathesis

from cloud import EAST, NORTH, host

# How thoroughly each operation is tried. A follower adds only few responses to those of its leader.
EFFORT = ["--max-examples", "30"]
if "CPS_PEERING_TEST_ETCD" in os.environ:
    EFFORT = ["--max-examples", "10", "--phases", "examples,fuzzing"]
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
    "negative_data_rejection",
]


@pytest.fixture
def furnished(start):
    """Objects of every kind. For each path parameter, a value that exists."""
    # Unreachable hosts are not waited for, and there are more requests, and invalid ones, than limits allow.
    sandbox = start(delete_wait_ms=20, requests_per_s=0, failures_per_min=0)
    one, two = sandbox.tenants
    a, b, c = one.vpc("10.1.0.0/16", enableIpv6="yes"), one.vpc("10.2.0.0/16"), two.vpc("10.3.0.0/16", EAST)
    d = two.vpc("10.4.0.0/16")
    added = one.call("CreateSecondaryCidr", "cps", secondaryCidrSpec={"vpcId": b, "cidr": "10.22.0.0/16"})
    host(sandbox, "h1", NORTH, (a, "10.1.0.1/24"))
    host(sandbox, "h2", EAST, (c, "10.3.0.1/24"))
    active = one.peer(a, b, userTags=[{"key": "k", "value": "v"}])["vpcPeeringId"]
    across = one.ask(a, two, c, remoteRegionId=EAST, bandwidth=100)["vpcPeeringId"]
    two.accept(across, EAST)
    asked = two.ask(d, one, a)["vpcPeeringId"]
    rejected = one.ask(b, two, d)["vpcPeeringId"]
    two.reject(rejected)
    sandbox.tenant("third")
    one.bare("PUT", "/blockedAccounts/third")
    second = one.call("DescribeVpc", vpcId=b)["vpc"]["routeTableIds"][0]
    third = two.call("DescribeVpc", regionId=EAST, vpcId=c)["vpc"]["routeTableIds"][0]
    shared = {"path.accountId": "third", "path.host": "h1"}
    sandbox.values = {
        "one": shared | {
            "path.regionId": NORTH,
            "path.vpcPeeringId": asked,
            "path.vpcId": a,
            "path.secondaryCidrId": added["secondaryCidrId"],
            "path.routeTableId": second,
        },
        "two": shared | {
            "path.regionId": EAST,
            "path.vpcPeeringId": across,
            "path.vpcId": c,
            "path.routeTableId": third,
        },
        "operator": shared | {"path.peering": active},
    }
    return sandbox


def explore(sandbox, token, tmp_path, values, *options):
    """Tries what the document describes, and more."""
    # Requests for events may wait longer than the explorer does.
    values = values | {"query.wait": 0}
    pairs = ", ".join(f'"{name}" = {json.dumps(value)}' for name, value in values.items())
    config = tmp_path / "schemathesis.toml"
    config.write_text(f"seed = 1\nparameters = {{ {pairs} }}\n")
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "--no-color"),
        *("run", sandbox.url + "/openapi.json", "--header", f"Authorization: Bearer {token}"),
        *("--checks", ",".join(CHECKS), "--continue-on-failure", "--no-shrink", "--output-sanitize", "false"),
        *("--warnings", "off", "--suppress-health-check", "all"),
        *EFFORT,
        *options,
    ]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    print(ended.stdout)
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr


def test_every_operation_is_there_and_answers_what_it_says(sandbox, one, two):
    """Every documented operation is executed once as intended, and its response conforms to the document."""
    document = requests.get(sandbox.url + "/openapi.json", timeout=10).json()
    assert document["openapi"].startswith("3.1")
    described = {
        operation["operationId"]: (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    operations = schemathesis.openapi.from_dict(document)
    done = set()

    def do(who, name, body=None, query=None, **path):
        """Executes an operation; returns its `result`."""
        method, template = described[name]
        url = sandbox.url + template.format(**path)
        headers = {"Authorization": f"Bearer {who}"}
        response = requests.request(method, url, json=body, params=query, headers=headers, timeout=10)
        assert response.status_code == 200, f"{name}: {response.status_code} {response.text}"
        operations[template][method].validate_response(response)
        done.add(name)
        return response.json()["result"]

    mine, theirs, admin = one.token, two.token, sandbox.admin_token
    north, east = {"regionId": NORTH}, {"regionId": EAST}

    def spec(cidr):
        return {"vpcSpec": {"cidr": cidr, "name": cidr, "description": None, "enableIpv6": "yes"}}

    a, b = [do(mine, "createVpc", spec(f"10.{n}.0.0/16"), **north)["vpcId"] for n in (1, 2)]
    c = do(theirs, "createVpc", spec("10.3.0.0/16"), **east)["vpcId"]
    host(sandbox, "h1", NORTH, (a, "10.1.0.1/24"))
    do(mine, "describeVpcs", query={"pageSize": 10}, **north)
    do(mine, "describeVpc", vpcId=a, **north)
    do(mine, "modifyVpc", {"name": "a"}, vpcId=a, **north)
    added = do(mine, "createSecondaryCidr", {"secondaryCidrSpec": {"vpcId": b, "cidr": "10.22.0.0/16"}}, **north)
    do(mine, "describeSecondaryCidrs", query={"vpcId": b}, **north)
    do(mine, "deleteSecondaryCidr", **added, **north)

    wish = {"vpcPeeringName": "p", "vpcId": a, "remoteVpcId": b}
    peering = do(mine, "createVpcPeering", wish | {"dryRun": True}, **north)
    assert peering["dryRun"] and "vpcPeering" not in peering
    peering = do(mine, "createVpcPeering", wish | {"userTags": [{"key": "k", "value": "v"}]}, **north)
    id = {"vpcPeeringId": peering["vpcPeering"]["vpcPeeringId"]}
    do(mine, "modifyVpcPeering", {"description": "d"}, **id, **north)
    do(mine, "describeVpcPeering", **id, **north)
    assert do(mine, "describeVpcPeeringRoutes", **id, **north)["routes"]
    assert do(mine, "describeVpcPeeringTraffic", **id, **north)["traffic"]["total"]["outBytes"] == 0
    tables = do(mine, "describeRouteTables", **north)["routeTables"]
    do(mine, "describeRouteTable", routeTableId=tables[0]["routeTableId"], **north)
    wish |= {"remoteVpcId": c, "remoteRegionId": EAST, "remoteAccountId": two.id, "bandwidth": 10}
    for answer in ("rejectVpcPeering", "acceptVpcPeering"):
        asked = do(mine, "createVpcPeering", wish | {"vpcPeeringName": answer}, **north)["vpcPeering"]["vpcPeeringId"]
        do(theirs, answer, vpcPeeringId=asked, **east)
    do(mine, "modifyVpcPeeringPrefixes", {"exportPrefixes": ["10.1.0.0/16"]}, vpcPeeringId=asked, **north)
    do(mine, "modifyVpcPeeringBandwidth", {"bandwidth": 20}, vpcPeeringId=asked, **north)
    assert do(mine, "describeVpcPeerings", **north)["totalCount"] == 3
    do(mine, "describeQuota", query={"type": "vpcpeering"}, **north)

    do(mine, "whoami"), do(admin, "whoami"), do(mine, "describeRegions")
    do(mine, "blockAccount", accountId="third")
    do(mine, "describeBlockedAccounts")
    do(mine, "unblockAccount", accountId="third")
    assert do(theirs, "describeAuditEntries", query={"limit": 1000})["entries"]

    january = {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z", "format": "json"}
    do(mine, "describeMetering", query=january)
    do(mine, "describePrices")
    assert do(mine, "describeEvents", **north)["events"]
    hook = {"url": "https://192.88.99.1/", "types": ["peering.active"]}
    refused = sandbox.http("POST", f"/v1/regions/{NORTH}/webhooks", mine, json=hook)
    assert (refused.status_code, refused.json()["error"]["details"][0]["entry"]) == (400, "url")
    # Events of these types do not occur here: nothing is sent.
    hook = {"url": "https://hooks.invalid/", "types": ["peering.expired"]}
    made = do(mine, "createWebhook", hook, **north)["webhook"]["webhookId"]
    do(mine, "describeWebhooks", **north)
    do(mine, "describeWebhook", webhookId=made, **north)
    do(mine, "modifyWebhook", {"enabled": False}, webhookId=made, **north)
    do(mine, "deleteWebhook", webhookId=made, **north)
    made = do(admin, "addWebhook", hook)["webhook"]["webhookId"]
    do(admin, "listWebhooks")
    do(admin, "showWebhook", webhookId=made)
    do(admin, "setWebhook", {"enabled": False}, webhookId=made)
    do(admin, "removeWebhook", webhookId=made)
    do(admin, "accountMetering", accountId=one.id)

    third = {"accountId": "third"}
    do(admin, "createAccount", third)
    key = do(admin, "addKey", **third)
    do(admin, "removeKey", accessKey=key["accessKey"], **third)
    token = do(admin, "addToken", **third)
    do(admin, "removeToken", tokenId=token["tokenId"], **third)
    do(admin, "setChargeStatus", {"chargeStatus": "arrear"}, **third)
    do(admin, "setQuota", {"maxLimit": 7}, **third, **north)
    do(admin, "showAccount", **third)
    do(admin, "resetQuota", **third, **north)
    do(admin, "listAccounts")
    inventory = do(admin, "inventory")
    do(admin, "apply", inventory, query={"dryRun": "true"})
    assert do(admin, "apply", {"regions": [{"id": "cn-south-1"}]})["changes"]
    do(admin, "hosts")
    do(admin, "listPeerings")
    do(admin, "showPeering", peering="p")
    do(admin, "peeringRoutes", peering="p")
    do(admin, "peeringTraffic", peering="p")
    do(admin, "setPeeringPrefixes", {"exportPrefixes": []}, peering=asked)
    do(admin, "setPeeringBandwidth", {"bandwidth": 30}, peering=asked)
    do(admin, "deletePeering", peering=asked)
    do(admin, "createPeering", {"vpcPeeringName": "q", "vpcId": b, "remoteVpcId": c, "bandwidth": 5})
    do(admin, "showCluster")
    do(admin, "releaseCluster")
    for name in ["drainHost", "uncordonHost", "pauseHost", "resumeHost"]:
        do(admin, name, host="h1")
    do(admin, "maintainHost", query={"forSeconds": 3600}, host="h1")
    do(admin, "endHostMaintenance", host="h1")
    do(admin, "removeHost", query={"confirm": 2}, host="h1")
    if sandbox.temporary:
        response = sandbox.http("POST", "/admin/v1/backups", admin)
        assert (response.status_code, response.json()["error"]["status"]) == (400, "FAILED_PRECONDITION")
        operations["/admin/v1/backups"]["POST"].validate_response(response)
        done.add("backUp")
    else:
        do(admin, "backUp")
    assert do(admin, "audit", query={"limit": 1000})["entries"]
    assert do(admin, "events")["events"]
    # Without a rollout there is nothing to stop or to continue.
    for operation in ("showRollout", "stopRollout", "continueRollout"):
        assert do(admin, operation)["state"] == "none"
    do(mine, "deleteVpcPeering", **id, **north)
    do(mine, "deleteVpcPeering", vpcPeeringId=asked, **north)
    do(mine, "deleteVpc", vpcId=a, **north)
    # The clock of a test does not leap: see the controller's own tests of it.
    # These are about hosts that answer, and about Prometheus' format.
    elsewhere = {"diagnose", "hostSnapshot", "replaceHost", "metrics", "describePath", "describeAnyPath"}
    assert done == set(described) - {"showClock", "confirmClock"} - elsewhere


@pytest.mark.parametrize("who", ["one", "two"])
def test_tenants(furnished, who, tmp_path):
    """Tenants' operations: of a receiver of a request, and of an account with a VPC in another region."""
    token = furnished.tenants[["one", "two"].index(who)].token
    explore(furnished, token, tmp_path, furnished.values[who], "--exclude-path-regex", "^/admin/")


def test_operators(furnished, tmp_path):
    """Operators' operations."""
    values = furnished.values["operator"]
    explore(furnished, furnished.admin_token, tmp_path, values, "--include-path-regex", "^/admin/")
