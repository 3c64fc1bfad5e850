"""Lines at the agent's local socket that no command of ours writes: each is refused in words, and the agent goes on."""

from __future__ import annotations

import json
import sys

import pytest

from tests.netns.onehost import one_host
from tests.support.hosts import needs_namespaces

pytestmark = [pytest.mark.netns, needs_namespaces]

STRANGE = ["null", "true", "[]", "{}", "-1", "1e999", '"\\ud800"', '"\\u0000"', '["x"]', "9" * 400]
OPERATIONS = (
    "plan",
    "apply",
    "prune",
    "confirm",
    "rollback",
    "leases",
    "leases.forget",
    "drill",
    "down",
    "up",
)
FIELDS = (
    "text",
    "file",
    "everyone",
    "binding",
    "at_most",
    "nonce",
    "member",
    "seconds",
    "network",
    "confirm_s",
)
SAY = """
import json, socket, sys
answers = []
for line in json.load(sys.stdin):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(200)
        client.connect("/run/netctl/agent.sock")
        client.sendall(line.encode("utf-8", "surrogatepass"))
        client.shutdown(socket.SHUT_WR)
        got = b""
        while part := client.recv(65536):
            got += part
        answers.append([line[:80], got.decode()])
print(json.dumps(answers))
"""


def test_whatever_is_asked_the_agent_answers_in_words_and_goes_on() -> None:
    lines = [
        "",
        "{",
        "[" * 100_000,
        "\x00\xff",
        '{"op": ' + "9" * 5000 + "}",
        '{"op": "status", "x": "\\ud800"}',
    ]
    lines += [f'{{"op": {value}}}' for value in STRANGE]
    for op in OPERATIONS:
        for value in STRANGE:
            lines.append(f'{{"op": "{op}", ' + ", ".join(f'"{field}": {value}' for field in FIELDS) + "}")
    with one_host() as one:
        one.start_agent()
        path = one.host.run("sh", "-c", "ls /run/netctl/*.sock").strip()
        code = SAY.replace("/run/netctl/agent.sock", path)
        output = one.host.run(sys.executable, "-c", code, text=json.dumps(lines))
        for line, answer in json.loads(output):
            for said in filter(None, answer.split("\n")):
                message = str(json.loads(said).get("error", {}).get("message"))
                assert not message.startswith("the agent itself failed"), (line, message)
        state = one.status()
        assert state["faults"] == 0
        assert one.agent is not None
        assert one.agent.poll() is None
