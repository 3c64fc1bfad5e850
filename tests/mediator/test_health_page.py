"""`/metrics`, `/healthz` and `/readyz` of a mediator on loopback, and the dashboard that is drawn of them."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mediator.shell.credentials import relay_secret
from mediator.shell.memberstore import MemberStore
from mediator.shell.metrics import HealthPage, Meters
from mediator.shell.server import Server
from mediator.shell.store import STORE_FILE, Store
from mediator.shell.storethread import StoreThread
from netctl.model.errors import LocalError
from tests.mediator.loopbackkit import ANN, HOST, STRANGER, Member, Run, Site, end
from tests.support.freeports import free_port
from tests.support.patience import BUSY_S

DASHBOARD = Path(__file__).parents[2] / "packaging/grafana/mediator.json"
WITH_A_BUS = ("netctl_mediator_bus_", "netctl_mediator_other_mediators")


class Full(StoreThread):
    """As on a disk without room."""

    away: str | None = None

    @property
    def takes_nothing(self) -> str | None:
        return self.away


@asynccontextmanager
async def serving(site: Site, store: MemberStore, address: str) -> AsyncIterator[None]:
    server = Server(
        document=site.document,
        state=site.state,
        listen=HOST,
        secret=relay_secret(site.state),
        store=store,
        metrics=address,
    )
    await server.start(await server.load())
    task = asyncio.create_task(server.run())
    try:
        yield
    finally:
        await end(task)


async def page(address: str, path: str) -> tuple[int, str]:
    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=BUSY_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(fetch)


def samples(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            reason = sample.labels.get("reason") or sample.labels.get("result", "")
            found[f"{sample.name} {reason}".strip()] = sample.value
    return found


def named(text: str) -> set[str]:
    return {name.partition(" ")[0] for name in samples(text)}


def on_the_dashboard() -> set[str]:
    return {
        name
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
        for name in re.findall(r"netctl_\w+", target["expr"])
    }


def test_what_happens_is_counted_and_the_dashboard_names_nothing_else(run: Run, site: Site) -> None:
    address = f"{HOST}:{free_port()}"
    store = Full(Store(site.state / STORE_FILE))

    async def main() -> None:
        async with (
            serving(site, store, address),
            Member(ANN, site.entry()) as ann,
            Member(STRANGER, site.entry()) as stranger,
        ):
            await ann.view()
            await stranger.refused()
            status, text = await page(address, "/metrics")
            now = samples(text)
            assert status == 200
            assert now["netctl_mediator_logins_total"] == now["netctl_mediator_online"] == 1
            assert now["netctl_mediator_dropped_total login.unknown-key"] >= 1
            assert now["netctl_mediator_store_seconds_count kept"] >= 2
            assert now["netctl_mediator_news_total"] >= 1
            assert now["netctl_mediator_members"] == 2
            wanted = {name for name in on_the_dashboard() if not name.startswith(WITH_A_BUS)}
            assert len(wanted) > 10
            assert wanted <= named(text)
            assert await page(address, "/healthz") == (200, "ok\n")
            assert await page(address, "/readyz") == (200, "ok\n")
            store.away = "the disk is full."
            assert await page(address, "/readyz") == (503, "the disk is full.\n")
            assert await page(address, "/healthz") == (200, "ok\n")
            assert samples((await page(address, "/metrics"))[1])["netctl_mediator_store_away"] == 1
            assert (await page(address, "/"))[0] == 404

    run(main())


@pytest.mark.parametrize("address", ["9587", "host:", "host:0", "host:x", "host:70000"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(LocalError, match="--metrics wants HOST:PORT"):
        HealthPage(address, Meters(), dict, lambda: 0, lambda: None)
