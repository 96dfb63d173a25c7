"""Signed requests: those of JD Cloud's signers are accepted, and no others."""

import datetime
import hashlib
import hmac
import uuid

import pytest
import requests
from jdcloud_sdk.core.credential import Credential
from jdcloud_sdk.core.logger import Logger
from jdcloud_sdk.core.signer import Signer

from cloud import EAST, NORTH, Refusal, Refused, result, too_often, unauthenticated

PATH = f"/v1/regions/{NORTH}/vpcPeerings/"
VPCS = f"/v1/regions/{NORTH}/vpcs"
SPEC = '{"vpcSpec": {"cidr": "10.1.0.0/16", "name": "signed", "description": null}}'
MODIFIED = '{"vpcSpec": {"cidr": "10.2.0.0/16", "name": "signed", "description": null}}'
SCOPE = Refusal(401, "UNAUTHENTICATED", "CredentialScope")


def date(minutes=0):
    """Some minutes from now, in the header's format."""
    now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=minutes)
    return now.strftime("%Y%m%dT%H%M%SZ")


def sign(tenant, method, path, body="", region=NORTH, service="vpc", minutes=0, secret=None, key=None, **headers):
    """The headers that JD Cloud's own signer makes."""
    headers = {"Content-Type": "application/json"} | {name.replace("_", "-"): it for name, it in headers.items()}
    if minutes:
        headers["x-jdcloud-date"] = date(minutes)
    credential = Credential(key or tenant.access_key, secret or tenant.secret_key)
    url = tenant.sandbox.url + path
    Signer(Logger(0)).sign(method, service, region, url, headers, body, credential, "")
    return headers


def send(tenant, method, path, headers, body=""):
    """Sends exactly that: `requests` would rewrite paths and queries."""
    request = requests.Request(method, tenant.sandbox.url, headers=headers, data=body).prepare()
    request.url = tenant.sandbox.url + path
    with requests.Session() as session:
        return result(session.send(request, timeout=10))


def signed(tenant, method, path, body="", **more):
    """Signs and sends."""
    return send(tenant, method, path, sign(tenant, method, path, body, **more), body)


def v2(tenant, method, path, query="", body="", region=NORTH, service="vpc", minutes=0, secret=None):
    """The headers of the older signature, which covers date and nonce as well. Path and query as they are."""

    def mac(key, text):
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    headers = {
        "content-type": "application/json",
        "host": tenant.sandbox.endpoint,
        "x-jdcloud-date": date(minutes),
        "x-jdcloud-nonce": str(uuid.uuid4()),
    }
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    names = ";".join(sorted(headers))
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{hashlib.sha256(body.encode()).hexdigest()}"
    scope = f"{headers['x-jdcloud-date'][:8]}/{region}/{service}/jdcloud2_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"JDCLOUD2-HMAC-SHA256\n{headers['x-jdcloud-date']}\n{scope}\n{hashed}"
    key = f"JDCLOUD2{secret or tenant.secret_key}".encode()
    for step in scope.split("/"):
        key = mac(key, step)
    headers["Authorization"] = (
        f"JDCLOUD2-HMAC-SHA256 Credential={tenant.access_key}/{scope}, SignedHeaders={names}, "
        f"Signature={mac(key, text).hex()}"
    )
    return headers


# Whose it is


def test_wrong_secret_and_unknown_key_look_the_same(one, two):
    """Access keys cannot be enumerated: both are 401 with the same words."""
    words = set()
    for keys in [
        (one.access_key, "nonsense"),
        (one.access_key, two.secret_key),
        (one.access_key, one.secret_key.lower()),
        ("NOBODY", one.secret_key),
        (one.access_key[:-1], one.secret_key),
    ]:
        with unauthenticated() as why:
            one.call("DescribeVpcPeerings", keys=keys)
        assert why.details == []
        words.add(why.message)
    assert len(words) == 1
    assert one.list()["totalCount"] == 0


def test_a_key_that_was_taken_away_opens_nothing(sandbox, one):
    """From the operator's response on, requests signed with it are 401; other keys and tokens stay valid."""
    key = sandbox.operator("POST", f"/accounts/{one.id}/keys")
    keys = (key["accessKey"], key["secretKey"])
    assert one.call("DescribeVpcPeerings", keys=keys)["totalCount"] == 0
    before = sign(one, "GET", PATH, key=keys[0], secret=keys[1])
    sandbox.operator("DELETE", f"/accounts/{one.id}/keys/{keys[0]}")
    with unauthenticated():
        one.call("DescribeVpcPeerings", keys=keys)
    with unauthenticated():
        send(one, "GET", PATH, before)
    assert one.list()["totalCount"] == 0
    sandbox.operator("DELETE", f"/accounts/{one.id}/keys/{one.access_key}")
    with unauthenticated():
        one.list()
    assert one.bare("GET", "/whoami")["accountId"] == one.id


def test_a_token_that_was_taken_away_opens_nothing(sandbox, one):
    """The same with bearer tokens."""
    made = sandbox.operator("POST", f"/accounts/{one.id}/tokens")
    assert result(sandbox.http("GET", "/v1/whoami", made["token"]))["accountId"] == one.id
    sandbox.operator("DELETE", f"/accounts/{one.id}/tokens/{made['tokenId']}")
    with unauthenticated():
        result(sandbox.http("GET", "/v1/whoami", made["token"]))
    assert one.bare("GET", "/whoami")["accountId"] == one.id


# When it is


@pytest.mark.parametrize("minutes", [-24 * 60, -16, 16, 24 * 60])
def test_a_date_too_far_away(one, minutes):
    """More than 15 minutes off is 401 with that reason; with the date among the signed headers, as the SDK does then."""
    with unauthenticated() as why:
        one.call("DescribeVpcPeerings", header={"x-jdcloud-date": date(minutes)})
    assert "15 minutes" in why.message
    headers = v2(one, "GET", PATH, minutes=minutes)
    with unauthenticated():
        send(one, "GET", PATH, headers)


@pytest.mark.parametrize("minutes", [-14, 14])
def test_a_clock_that_is_a_little_off(one, minutes):
    """Less than that is accepted."""
    assert one.call("DescribeVpcPeerings", header={"x-jdcloud-date": date(minutes)})["totalCount"] == 0
    assert send(one, "GET", PATH, v2(one, "GET", PATH, minutes=minutes))["totalCount"] == 0


def test_a_date_that_was_not_signed(one):
    """The newer signature does not list the date among its headers, and covers it nevertheless."""
    headers = sign(one, "GET", PATH)
    assert "date" not in headers["Authorization"].split("SignedHeaders=")[1]
    with unauthenticated():
        send(one, "GET", PATH, headers | {"x-jdcloud-date": date(-1)})
    for wrong in ("yesterday", "", "2026-01-01T00:00:00Z", "20261399T000000Z"):
        with unauthenticated():
            send(one, "GET", PATH, headers | {"x-jdcloud-date": wrong})
    for missing in ("x-jdcloud-date", "x-jdcloud-nonce"):
        with unauthenticated() as why:
            send(one, "GET", PATH, {name: it for name, it in headers.items() if name != missing})
        assert missing in why.message
    assert send(one, "GET", PATH, headers)["totalCount"] == 0


# What it is for


def test_scopes(one):
    """A signature is valid for the region of the path and for this product's services only."""
    for service in ("vpc", "cps"):
        assert signed(one, "GET", PATH, service=service)["totalCount"] == 0
    for region in (EAST, "jdcloud-api", "cn-south-1"):
        with SCOPE as why:
            signed(one, "GET", PATH, region=region)
        assert region in why.message
    for service in ("vm", "", "VPC"):
        with SCOPE:
            signed(one, "GET", PATH, service=service)
    assert signed(one, "GET", "/v1/regions", region="jdcloud-api", service="cps")["regions"]
    with SCOPE:
        signed(one, "GET", "/v1/regions", region=NORTH)
    assert len(signed(one, "GET", "/v1/whoami", region="jdcloud-api")["regions"]) == 2


@pytest.mark.parametrize("signer", ["v2", "v3"])
def test_what_is_tampered_with(one, signer):
    """Another method, path, query, body or signed header than the signed one is 401, and nothing is changed."""

    def headers():
        if signer == "v2":
            return v2(one, "PUT", VPCS, body=SPEC)
        return sign(one, "PUT", VPCS, SPEC)

    other = headers()
    for method, path, body, change in [
        ("POST", VPCS, SPEC, {}),
        ("PUT", f"/v1/regions/{EAST}/vpcs", SPEC, {}),
        ("PUT", VPCS + "/", SPEC, {}),
        ("PUT", VPCS + "?dryRun=true", SPEC, {}),
        ("PUT", VPCS, MODIFIED, {}),
        ("PUT", VPCS, SPEC + " ", {}),
        ("PUT", VPCS, "", {}),
        ("PUT", VPCS, SPEC, {"content-type": "text/plain"}),
        ("PUT", VPCS, SPEC, {"host": "cps-peering.example.com"}),
        ("PUT", VPCS, SPEC, {"Authorization": other["Authorization"].replace(NORTH, EAST)}),
        ("PUT", VPCS, SPEC, {"Authorization": other["Authorization"].replace("/vpc/", "/cps/")}),
        ("PUT", VPCS, SPEC, {"Authorization": other["Authorization"][:-1] + "g"}),
        ("PUT", VPCS, SPEC, {"Authorization": other["Authorization"][:-2]}),
        ("PUT", VPCS, SPEC, {"Authorization": other["Authorization"].split(", Signature")[0]}),
        ("PUT", VPCS, SPEC, {"Authorization": other["Authorization"].replace("host", "date")}),
    ]:
        changed = {name.lower() for name in change}
        sent = {name: it for name, it in headers().items() if name.lower() not in changed} | change
        with unauthenticated():
            send(one, method, path, sent, body)
    assert one.call("DescribeVpcs", "cps")["totalCount"] == 0
    assert send(one, "PUT", VPCS, headers(), SPEC)["vpcId"]


def test_a_query_that_is_tampered_with(one):
    """Every part of a query is covered."""
    query = "?pageNumber=1&pageSize=10&filters.1.name=vpcId&filters.1.values.1=a"
    headers = sign(one, "GET", PATH + query)
    for wrong in (
        "",
        query + "&filters.1.values.2=b",
        query.replace("=a", "=b"),
        query.replace("pageSize=10", "pageSize=20"),
        query.removesuffix("&filters.1.values.1=a"),
    ):
        with unauthenticated():
            send(one, "GET", PATH + wrong, headers)
    assert send(one, "GET", PATH + query, headers)["totalCount"] == 0


# Once


@pytest.mark.parametrize("signer", ["v2", "v3"])
def test_the_very_same_bytes_are_taken_once(one, signer):
    """A replayed request is 401; also if it only reads."""
    headers = v2(one, "PUT", VPCS, body=SPEC) if signer == "v2" else sign(one, "PUT", VPCS, SPEC)
    made = send(one, "PUT", VPCS, headers, SPEC)["vpcId"]
    for _ in range(2):
        with unauthenticated() as why:
            send(one, "PUT", VPCS, headers, SPEC)
    headers = v2(one, "GET", VPCS) if signer == "v2" else sign(one, "GET", VPCS)
    assert [it["vpcId"] for it in send(one, "GET", VPCS, headers)["vpcs"]] == [made]
    with unauthenticated():
        send(one, "GET", VPCS, headers)


def test_a_nonce_that_is_made_up_changes_nothing(one):
    """The newer signature does not cover the nonce: with another one the same signature still changes nothing."""
    headers = sign(one, "PUT", VPCS, SPEC)
    made = send(one, "PUT", VPCS, headers, SPEC)["vpcId"]
    with too_often("RequestReplayed"):
        send(one, "PUT", VPCS, headers | {"x-jdcloud-nonce": "made-up"}, SPEC)
    assert [it["vpcId"] for it in one.call("DescribeVpcs", "cps")["vpcs"]] == [made]
    # Reading twice within a second is no error: nothing is changed.
    headers = sign(one, "GET", VPCS)
    for nonce in "ab":
        assert send(one, "GET", VPCS, headers | {"x-jdcloud-nonce": nonce})["totalCount"] == 1
    # The older signature covers it.
    headers = v2(one, "GET", VPCS)
    with unauthenticated():
        send(one, "GET", VPCS, headers | {"x-jdcloud-nonce": "made-up"})


def test_a_peering_that_was_deleted_does_not_come_back(one):
    """Replaying the request that created it gets 401, or 429 if it can be an honest client's within the same second."""
    a, b = one.vpc("10.1.0.0/16"), one.vpc("10.2.0.0/16")
    body = f'{{"vpcPeeringName": "p", "vpcId": "{a}", "remoteVpcId": "{b}"}}'
    headers = sign(one, "POST", PATH, body)
    id = send(one, "POST", PATH, headers, body)["vpcPeering"]["vpcPeeringId"]
    one.delete(id)
    for nonce, refused in (({}, unauthenticated()), ({"x-jdcloud-nonce": "made-up"}, too_often("RequestReplayed"))):
        with refused:
            send(one, "POST", PATH, headers | nonce, body)
    assert one.ids() == set()
    # A client that repeats a request within a second with a token gets the first result.
    body = body.replace("}", ', "clientToken": "t"}')
    headers = sign(one, "POST", PATH, body)
    first = send(one, "POST", PATH, headers, body)
    again = send(one, "POST", PATH, headers | {"x-jdcloud-nonce": "again"}, body)
    assert again["vpcPeering"]["vpcPeeringId"] == first["vpcPeering"]["vpcPeeringId"]


# How it is encoded


AWKWARD = [
    "私有网络",
    "a b",
    " leading and trailing ",
    "a+b",
    "a=b",
    "a==b=",
    "a:b",
    "a/b",
    "a,b;c",
    "~tilde-_.",
    "(brackets)[]{}",
    "quote'\"`",
    "100%25",
    "%41",
    "é😀",
    "a\\b|c^d",
    "!$*@",
]


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_characters(one, name):
    """In bodies, and in filters with all that the SDK's own encoding makes of them."""
    a, b, c = one.vpc("10.1.0.0/16", name=name), one.vpc("10.2.0.0/16"), one.vpc("10.3.0.0/16")
    id = one.peer(a, b, name=name, userTags=[{"key": name, "value": name}])["vpcPeeringId"]
    one.peer(a, c, name="plain")
    shown = one.show(id)
    assert (shown["vpcPeeringName"], shown["vpcInfo"]["vpcName"]) == (name, name)
    assert shown["tags"] == [{"key": name, "value": name}]
    one.modify(id, description=name)
    assert one.show(id)["description"] == name
    assert one.ids(vpcPeeringNames=[name, "other"]) == {id}
    assert one.ids(vpcPeeringNames=["other", name]) == {id}
    tagged = one.list(tags=[{"key": name, "values": [name]}])["vpcPeerings"]
    assert [it["vpcPeeringId"] for it in tagged] == [id]
    assert one.call("DescribeVpcs", "cps", name=name)["totalCount"] == 1


@pytest.mark.parametrize("sign_", ["?name=a&b", "?name=a?b", "?name=a#b"])
def test_what_the_sdk_does_not_encode(one, sign_):
    """`&`, `?` and `#` in a value: the SDK encodes the last only. Whatever it makes of them, it is not 401 or 500."""
    name = sign_.split("=", 1)[1]
    try:
        assert one.call("DescribeVpcs", "cps", name=name)["totalCount"] == 0
    except Refused as refused:
        assert refused.is_(400, "INVALID_ARGUMENT") and "&" in name


@pytest.mark.parametrize(
    "path",
    [
        PATH + "?filters.1.name=vpcPeeringNames&filters.1.values.1=a%20b",
        PATH + "?filters.1.name=vpcPeeringNames&filters.1.values.1=a+b",
        PATH + "?filters.1.values.1=a%2Bb&filters.1.name=vpcPeeringNames",
        PATH + "?pageSize=10&pageNumber=1",
        PATH + "?pageNumber=",
    ],
)
@pytest.mark.parametrize("signer", ["v2", "v3"])
def test_spellings(one, path, signer):
    """One request, however its path and query are encoded: signed as written, or as the SDK rewrites it."""
    headers = sign(one, "GET", path) if signer == "v3" else v2(one, "GET", *path.partition("?")[::2])
    assert send(one, "GET", path, headers)["totalCount"] == 0


def test_the_older_signature_works_throughout(one, two):
    """A peering's whole life, signed with JDCLOUD2."""
    a = send(one, "PUT", VPCS, v2(one, "PUT", VPCS, body=SPEC, service="cps"), SPEC)["vpcId"]
    b = two.vpc("10.2.0.0/16")
    body = f'{{"vpcPeeringName": "对", "vpcId": "{a}", "remoteVpcId": "{b}", "remoteAccountId": "{two.id}"}}'
    made = send(one, "POST", PATH, v2(one, "POST", PATH, body=body), body.encode())["vpcPeering"]
    id = made["vpcPeeringId"]
    for path in (PATH + id + ":acceptVpcPeering", PATH + id + "%3AacceptVpcPeering"):
        if two.state(id) == "pending":
            # Signed with the colon encoded, and sent as it is.
            headers = v2(two, "POST", PATH + id + "%3AacceptVpcPeering")
            assert send(two, "POST", path, headers)["vpcPeering"]["role"] == "receiver"
    assert send(one, "GET", PATH + id, v2(one, "GET", PATH + id))["vpcPeering"]["state"] == "active"
    with unauthenticated():
        send(one, "DELETE", PATH + id, v2(one, "DELETE", PATH + id, secret="nonsense"))
    assert send(one, "DELETE", PATH + id, v2(one, "DELETE", PATH + id))["state"] == "deleted"
    assert two.state(id) == "peer_deleted"


def test_generations_are_not_mixed(one):
    """The algorithm's name and the credential's last part belong together."""
    for headers in (v2(one, "GET", PATH), sign(one, "GET", PATH)):
        wrong = headers["Authorization"]
        for old, new in (("JDCLOUD2-", "JDCLOUD3-"), ("JDCLOUD3-", "JDCLOUD2-"), ("jdcloud2_r", "jdcloud3_r")):
            mixed = wrong.replace(old, new)
            if mixed != wrong:
                with unauthenticated():
                    send(one, "GET", PATH, headers | {"Authorization": mixed})
