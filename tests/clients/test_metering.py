"""B4 and B6: charges of an account, as JSON and CSV, with amounts from a price table."""

import csv
import io
from datetime import datetime

import requests

from cloud import EAST, NORTH, invalid, result, until

PRICES = [{"regions": [EAST, NORTH], "tiers": [{"up_to_mbit": 100, "per_mbit_hour": "3.6"}, {"per_mbit_hour": "7.2"}]}]


def invoice(sandbox, tenant, **query):
    """The account's bill; the operator's is the same."""
    own = sandbox.http("GET", "/v1/metering", tenant.token, params=query).json()["result"]
    if all(not line["open"] for line in own["lines"]):
        assert sandbox.operator("GET", f"/accounts/{tenant.id}/metering", params=query) == own
    return own


def test_periods_are_gapless_and_amounts_are_the_price_tables(start):
    """B4, B6: active time is charged by bandwidth, to the initiator alone; nothing while suspended, nothing within a region."""
    sandbox = start(currency="EUR", prices=PRICES)
    one, two = sandbox.tenants
    a, b, c = one.vpc("10.1.0.0/16"), one.vpc("10.2.0.0/16"), two.vpc("10.3.0.0/16", EAST)
    one.wait_for("active", one.peer(a, b)["vpcPeeringId"])
    id = one.ask(a, two, c, remoteRegionId=EAST, bandwidth=100)["vpcPeeringId"]
    assert invoice(sandbox, one)["lines"] == []
    two.accept(id, EAST)
    one.wait_for("active", id)
    # Within a second the highest bandwidth counts.
    until(lambda: float((invoice(sandbox, one)["lines"] or [{"seconds": 0}])[0]["seconds"]) > 1)
    one.bandwidth(id, 200)
    until(lambda: len(invoice(sandbox, one)["lines"]) == 2)
    sandbox.charge(one, "arrear")
    assert [line["open"] for line in invoice(sandbox, one)["lines"]] == [False, False]
    sandbox.charge(one, "normal")
    one.wait_for("active", id)
    until(lambda: len(invoice(sandbox, one)["lines"]) == 3)
    two.delete(id, EAST)

    told = invoice(sandbox, one)
    assert told["currency"] == "EUR" and invoice(sandbox, two)["lines"] == []
    lines = told["lines"]
    assert [(line["vpcPeeringId"], line["bandwidth"], line["open"]) for line in lines] == [
        *((id, mbit, False) for mbit in (100, 200, 200)),
    ]
    first, second, third = lines
    assert first["to"] == second["from"] and second["to"] <= third["from"]
    for line, a_second in zip(lines, (0.1, 0.3, 0.3)):
        length = datetime.fromisoformat(line["to"]) - datetime.fromisoformat(line["from"])
        assert abs(length.total_seconds() - float(line["seconds"])) < 1e-9
        assert abs(float(line["amount"]) - float(line["seconds"]) * a_second) <= 1e-6
    assert abs(float(told["total"]) - sum(float(line["amount"]) for line in lines)) < 2e-6

    table = sandbox.http("GET", "/v1/metering", one.token, params={"format": "csv"})
    assert table.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [(row["seconds"], row["amount"], row["currency"]) for row in rows] == [
        (line["seconds"], line["amount"], "EUR") for line in lines
    ]
    # Two adjacent windows charge the same as one.
    middle = second["from"]
    parts = [invoice(sandbox, one, to=middle), invoice(sandbox, one, **{"from": middle})]
    assert sum((part["lines"] for part in parts), []) == lines


def test_a_wrong_window_is_told(sandbox, one):
    """The field and the rule are named."""

    def ask(**query):
        return result(sandbox.http("GET", "/v1/metering", one.token, params=query))

    for query in ({"from": "yesterday"}, {"from": "2026-02-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, {"format": "xml"}):
        with invalid():
            ask(**query)
    assert requests.get(sandbox.url + "/v1/metering", timeout=10).status_code == 401
