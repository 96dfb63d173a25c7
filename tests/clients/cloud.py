"""Tenants of a controller, and its responses."""

import importlib
import json
import time
import time

import requests
from jdcloud_sdk.core.config import Config
from jdcloud_sdk.core.credential import Credential
from jdcloud_sdk.core.jdcloudrequest import JDCloudRequest
from jdcloud_sdk.core.logger import Logger
from jdcloud_sdk.services.cps.client.CpsClient import CpsClient
from jdcloud_sdk.services.vpc.client.VpcClient import VpcClient

NORTH, EAST = "cn-north-1", "cn-east-2"


class Refused(Exception):
    """An error response."""

    def __init__(self, answer):
        error = answer["error"]
        super().__init__(f"{error['code']} {error['status']}: {error['message']}")
        self.request_id = answer["requestId"]
        self.code, self.status, self.message = error["code"], error["status"], error["message"]
        self.details = error["details"]
        self.reasons = [detail.get("reason") for detail in self.details]

    def is_(self, code, status, reason=None):
        """Whether it is this error, for this reason alone."""
        return (self.code, self.status) == (code, status) and (reason is None or self.reasons == [reason])


class Unexpected(Exception):
    """A response without the usual form."""


def until(look, seconds=10):
    """Polls until there is a result, and returns it."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds} s still {seen!r}")
        time.sleep(0.02)


def result(response):
    """The result in a response; an error is raised."""
    answer = response.json()
    if response.headers.get("content-type") != "application/json":
        raise Unexpected(f"content type {response.headers.get('content-type')}")
    if response.headers.get("x-jdcloud-request-id") != answer.get("requestId"):
        raise Unexpected(f"request id {response.headers.get('x-jdcloud-request-id')} with {answer}")
    if set(answer) == {"requestId", "error"} and answer["error"]["code"] == response.status_code >= 400:
        raise Refused(answer)
    if set(answer) == {"requestId", "result"} and response.status_code == 200:
        return answer["result"]
    raise Unexpected(f"{response.status_code} with {answer}")


def host(sandbox, name, region, *ports, maintenance=False):
    """A host with an unreachable agent, and ports: pairs of VPC and gateway."""
    number = int(name.removeprefix("h"))
    host = {
        "id": name,
        "region": region,
        "underlay": f"192.0.2.{number}",
        "agent": "http://127.0.0.1:1",
        "maintenance": maintenance,
    }
    ports = [
        {"vpc": vpc, "host": name, "interface": f"eth{place}", "gateways": [gateway]}
        for place, (vpc, gateway) in enumerate(ports)
    ]
    return sandbox.operator("POST", "/apply", {"hosts": [host], "ports": ports})


class Ear(Logger):
    """Records what the SDK logs: its responses contain less of an error than the wire."""

    def __init__(self):
        super().__init__(0)
        self.heard = []

    def log(self, level, message):
        self.heard.append(message)


class OwnRequest(JDCloudRequest):
    """A request that JD Cloud's SDK does not have, made as its own are."""

    def __init__(self, method, path, parameters, header=None):
        super().__init__(path, method, header)
        self.parameters = parameters


class Tenant:
    """An account that uses JD Cloud's SDK."""

    def __init__(self, sandbox, account):
        self.sandbox = sandbox
        self.id, self.token = account["id"], account["token"]
        self.access_key, self.secret_key = account["access_key"], account["secret_key"]

    def request(self, request, service="vpc", keys=None):
        """Sends a request of the SDK; an identical one within a second is repeated after it, as the error says."""
        try:
            return self._request(request, service, keys)
        except Refused as refused:
            if not refused.is_(429, "RATE_LIMIT", "RequestReplayed"):
                raise
            time.sleep(1.1)
            return self._request(request, service, keys)

    def _request(self, request, service, keys):
        ear = Ear()
        client = {"vpc": VpcClient, "cps": CpsClient}[service]
        credential = Credential(*(keys or (self.access_key, self.secret_key)))
        response = client(credential, Config(self.sandbox.endpoint, "http", 10), ear).send(request)
        answer = json.loads(ear.heard[-1])
        if response.request_id is None or response.request_id != answer.get("requestId"):
            raise Unexpected(f"the SDK reads request id {response.request_id} in {answer}")
        if response.error is not None:
            refused = Refused(answer)
            if (response.error.code, response.error.status) != (refused.code, refused.status):
                raise Unexpected(f"the SDK reads {response.error.__dict__} in {answer}")
            raise refused
        # The SDK reads an empty result as none.
        if set(answer) != {"requestId", "result"} or (response.result or {}) != answer["result"]:
            raise Unexpected(f"the SDK reads {response.result} in {answer}")
        return answer["result"]

    def call(self, name, service="vpc", /, header=None, keys=None, regionId=NORTH, **parameters):
        """Calls an operation of the SDK."""
        module = importlib.import_module(f"jdcloud_sdk.services.{service}.apis.{name}Request")
        request = getattr(module, f"{name}Request")({"regionId": regionId, **parameters}, header)
        return self.request(request, service, keys)

    def own(self, method, path, /, header=None, regionId=NORTH, **parameters):
        """Calls an operation of this product, with the SDK; the path is relative to the region."""
        request = OwnRequest(method, "/regions/{regionId}" + path, {"regionId": regionId, **parameters}, header)
        return self.request(request)

    def bare(self, method, path, **arguments):
        """A request with the account's token; the path is relative to `/v1`."""
        return result(self.sandbox.http(method, "/v1" + path, self.token, **arguments))

    def vpc(self, cidr, region=NORTH, name=None, **spec):
        """Creates a VPC; returns its id."""
        spec = {"cidr": cidr, "name": name or f"net {cidr}", "description": None, **spec}
        return self.call("CreateVpc", "cps", regionId=region, vpcSpec=spec)["vpcId"]

    def peer(self, vpc, remote, region=NORTH, name=None, **more):
        """Creates a peering, or a request for one."""
        name = name or f"{vpc[-8:]}+{remote[-8:]}"
        parameters = {"vpcPeeringName": name, "vpcId": vpc, "remoteVpcId": remote, **more}
        return self.call("CreateVpcPeering", regionId=region, **parameters)["vpcPeering"]

    def ask(self, vpc, other, remote, region=NORTH, **more):
        """Requests a peering with another account."""
        return self.peer(vpc, remote, region, remoteAccountId=other.id, **more)

    def show(self, peering, region=NORTH):
        """A peering, as this account sees it."""
        return self.call("DescribeVpcPeering", regionId=region, vpcPeeringId=peering)["vpcPeering"]

    def state(self, peering, region=NORTH):
        """The state of a peering, as this account sees it; none if it does not."""
        try:
            return self.show(peering, region)["state"]
        except Refused as refused:
            if refused.is_(404, "NOT_FOUND", "VpcPeerNotFound"):
                return None
            raise

    def wait_for(self, state, peering, region=NORTH):
        """Waits until a peering has a state."""
        until(lambda: self.state(peering, region) == state)
        return self.show(peering, region)

    def list(self, region=NORTH, **parameters):
        """Peerings, as this account sees them."""
        return self.call("DescribeVpcPeerings", regionId=region, **parameters)

    def ids(self, region=NORTH, **filters):
        """The ids of the peerings that match filters."""
        filters = [{"name": name, "values": values} for name, values in filters.items()]
        return {it["vpcPeeringId"] for it in self.list(region, filters=filters, pageSize=100)["vpcPeerings"]}

    def modify(self, peering, region=NORTH, **words):
        return self.call("ModifyVpcPeering", regionId=region, vpcPeeringId=peering, **words)

    def delete(self, peering, region=NORTH):
        return self.call("DeleteVpcPeering", regionId=region, vpcPeeringId=peering)

    def accept(self, peering, region=NORTH, **more):
        path = "/vpcPeerings/{vpcPeeringId}:acceptVpcPeering"
        return self.own("POST", path, regionId=region, vpcPeeringId=peering, **more)["vpcPeering"]

    def reject(self, peering, region=NORTH, **more):
        path = "/vpcPeerings/{vpcPeeringId}:rejectVpcPeering"
        return self.own("POST", path, regionId=region, vpcPeeringId=peering, **more)

    def bandwidth(self, peering, mbit, region=NORTH, **more):
        path = "/vpcPeerings/{vpcPeeringId}:modifyVpcPeeringBandwidth"
        return self.own("PUT", path, regionId=region, vpcPeeringId=peering, bandwidth=mbit, **more)["vpcPeering"]

    def routes(self, peering, region=NORTH):
        """The route policies of a peering: pairs of VPC and CIDR."""
        path = "/vpcPeerings/{vpcPeeringId}/routes"
        routes = self.own("GET", path, regionId=region, vpcPeeringId=peering)["routes"]
        assert all(it["nextHopType"] == "vpc_peering" and it["nextHop"] == peering for it in routes)
        return [(it["vpcId"], it["destinationCidr"]) for it in routes]

    def quota(self, region=NORTH):
        """How many peerings the account has, and its limit."""
        quota = self.call("DescribeQuota", regionId=region, type="vpcpeering")["quota"]
        return quota["count"], quota["maxLimit"]


class Refusal:
    """`with refusal(…) as why:` expects an error response; `why` then has its details."""

    def __init__(self, code, status, reason):
        self.expected = code, status, reason

    def __enter__(self):
        return self

    def __exit__(self, kind, refused, traceback):
        if kind is None:
            raise AssertionError(f"expected {self.expected}, and it was done")
        if not isinstance(refused, Refused):
            return False
        code, status, reason = self.expected
        found = (refused.code, refused.status, refused.reasons)
        if found != (code, status, [] if reason is None else [reason]):
            raise AssertionError(f"expected {self.expected}, and it is {found}: {refused}")
        self.message, self.details = refused.message, refused.details
        self.entry = refused.details[0]["entry"] if refused.details else None
        assert refused.message and refused.request_id
        return True


def invalid(reason="InvalidParameter"):
    return Refusal(400, "INVALID_ARGUMENT", reason)


def impossible(reason):
    return Refusal(400, "FAILED_PRECONDITION", reason)


def unknown(reason="VpcPeerNotFound"):
    return Refusal(404, "NOT_FOUND", reason)


def forbidden(reason="VpcPeerPurviewError"):
    return Refusal(403, "HTTP_FORBIDDEN", reason)


def exists(reason):
    return Refusal(409, "ALREADY_EXISTS", reason)


def too_often(reason=None):
    return Refusal(429, "RATE_LIMIT", reason)


def unauthenticated(reason=None):
    return Refusal(401, "UNAUTHENTICATED", reason)
