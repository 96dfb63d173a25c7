"""Controllers for tests: a sandbox, or two that share a store in etcd."""

import json
import os
import secrets
import socket
import subprocess
import tempfile
from pathlib import Path

import requests

from cloud import EAST, NORTH, Tenant, result, until


def toml(value):
    """A value in TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(value)}" for name, value in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def write(path, **settings):
    """A settings file."""
    path.write_text("".join(f"{name} = {toml(value)}\n" for name, value in settings.items()))
    return path


class Controller:
    """A process of the controller, with a folder of its own."""

    def __init__(self, folder, *arguments):
        self.log = folder / "log"
        with self.log.open("wb") as log:
            program = os.environ["CPS_PEERING_CONTROLLER"]
            self.process = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, stderr=log)

    def stop(self):
        """Stops it. A panic is an error of its own, whatever the responses were."""
        if self.process.poll() is None:
            self.process.terminate()
        code = self.process.wait(10)
        self.process.stdout.close()
        log = self.log.read_text()
        if code or "panicked" in log:
            raise RuntimeError(f"the controller ended with {code}:\n{log}")


class Controllers:
    """The controllers of a test, with two regions and two accounts."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="cps-peering-clients-")
        self.running = []

    def run(self, folder, *arguments):
        """Starts a controller; it ends with the others."""
        self.running.append(Controller(folder, *arguments))
        return self.running[-1]

    def stop(self):
        """Ends all of them. Nothing is left behind."""
        errors = []
        for controller in self.running:
            try:
                controller.stop()
            except Exception as error:
                errors.append(error)
        self.folder.cleanup()
        if errors:
            raise errors[0]

    def http(self, method, path, token, **arguments):
        """The response to a request with a token."""
        headers = {"Authorization": f"Bearer {token}"} | arguments.pop("headers", {})
        return requests.request(method, self.url + path, headers=headers, timeout=10, **arguments)

    def operator(self, method, path, body=None, **arguments):
        """The operators' request."""
        return result(self.http(method, "/admin/v1" + path, self.admin_token, json=body, **arguments))

    def charge(self, tenant, status):
        """Sets an account's charge status, as the billing system does."""
        return self.operator("PUT", f"/accounts/{tenant.id}/chargeStatus", {"chargeStatus": status})

    def tenant(self, name):
        """A further account, with a key and a token."""
        self.operator("POST", "/accounts", {"accountId": name})
        key = self.operator("POST", f"/accounts/{name}/keys")
        token = self.operator("POST", f"/accounts/{name}/tokens")["token"]
        account = {"id": name, "access_key": key["accessKey"], "secret_key": key["secretKey"], "token": token}
        return Tenant(self, account)


class Sandbox(Controllers):
    """The controller's own sandbox."""

    # Whether its store ends with it.
    temporary = True

    def __init__(self, **settings):
        super().__init__()
        folder = Path(self.folder.name)
        arguments = ["--dev"]
        if settings:
            # The first three are the sandbox's own, whatever the settings contain.
            told = {"listen": "127.0.0.1:0", "store": "-", "operator_token_file": "-"} | settings
            arguments += ["--settings", str(write(folder / "controller.toml", **told))]
        line = self.run(folder, *arguments).process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("the controller did not start")
        told = json.loads(line)
        self.url, self.endpoint = told["url"], told["url"].removeprefix("http://")
        self.admin_token, self.regions = told["admin_token"], told["regions"]
        self.tenants = [Tenant(self, account) for account in told["accounts"]]


class Pair(Controllers):
    """Two controllers that share a store in etcd. All requests go to the follower."""

    temporary = False

    def __init__(self, etcd, **settings):
        super().__init__()
        self.etcd, self.settings = etcd, settings
        self.prefix = f"/clients/{secrets.token_hex(8)}/"
        self.admin_token = secrets.token_hex(16)
        self.key = secrets.token_hex(32)
        try:
            self.begin("leader")
            self.endpoint = self.begin("follower")
            self.url = f"http://{self.endpoint}"
            self.regions = [NORTH, EAST]
            self.operator("POST", "/apply", {"regions": [{"id": id} for id in self.regions]})
            self.tenants = [self.tenant(name) for name in ("account-1", "account-2")]
        except BaseException:
            self.stop()
            raise

    def begin(self, role):
        """Starts one, and waits until it leads or follows; returns its address."""
        folder = Path(self.folder.name) / role
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        token, key = folder / "token", folder / "store.key"
        for path, text in (token, self.admin_token), (key, self.key):
            path.write_text(text)
            path.chmod(0o600)
        etcd = {
            "endpoints": [self.etcd],
            "prefix": self.prefix,
            "advertise": f"http://{address}",
            "backups": str(folder / "backups"),
        }
        own = {"listen": address, "operator_token_file": str(token), "store_key_file": str(key), "tls": "off"}
        path = write(folder / "controller.toml", **own, etcd=etcd, **self.settings)
        process = self.run(folder, "--settings", str(path)).process

        def is_there():
            if process.poll() is not None:
                raise RuntimeError(f"the {role} ended with {process.returncode}")
            try:
                seen = requests.get(f"http://{address}/healthz", timeout=10).text
                # A follower may not know the leader yet: the leader says that there is no token.
                answer = requests.get(f"http://{address}/v1/whoami", timeout=10)
                return seen == f"ok {role}\n" and answer.status_code == 401
            except requests.ConnectionError:
                return False

        until(is_there, 30)
        return address


def start(**settings):
    """Controllers with given settings."""
    etcd = os.environ.get("CPS_PEERING_TEST_ETCD")
    return Pair(etcd, **settings) if etcd else Sandbox(**settings)
