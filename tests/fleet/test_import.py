"""wg-quick files become one document that plans to what they say."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.cli.main import main
from netctl.config import load_document, resolve
from netctl.fleet.merge import Imported, merge
from netctl.fleet.wgquick import QuickFile, read_wgquick
from netctl.model.errors import ConfigError


def pair(number: int) -> tuple[str, str]:
    private = X25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    raw = private.private_bytes_raw(), private.public_key().public_bytes_raw()
    return base64.b64encode(raw[0]).decode(), base64.b64encode(raw[1]).decode()


KEYS = {name: pair(number) for number, name in enumerate(("a", "b", "c", "phone"), 1)}


def interface(name: str, address: str, more: str = "") -> str:
    return f"[Interface]\nPrivateKey = {KEYS[name][0]}\nAddress = {address}\nListenPort = 51820\n{more}"


def peer(name: str, allowed: str, endpoint: str = "", more: str = "") -> str:
    where = f"Endpoint = {endpoint}\n" if endpoint else ""
    return f"\n[Peer]\nPublicKey = {KEYS[name][1]}\nAllowedIPs = {allowed}\n{where}{more}"


def read(**texts: str) -> Imported:
    return merge([read_wgquick(text, f"{name}.conf", name, "wg0") for name, text in texts.items()])


MESH = {
    "a": interface("a", "10.9.0.1/24, fd00:9::1/64")
    + peer("b", "10.9.0.2/32, fd00:9::2/128", "192.0.2.2:51820")
    + peer("c", "10.9.0.3/32, fd00:9::3/128, 192.168.50.0/24", "[2001:db8::3]:51820"),
    "b": interface("b", "10.9.0.2/24, fd00:9::2/64", "MTU = 1380\n")
    + peer("a", "10.9.0.1/32, fd00:9::1/128", "a.example.net:51820")
    + peer("c", "10.9.0.3/32, fd00:9::3/128, 192.168.50.0/24", "[2001:db8::3]:51820"),
    "c": interface("c", "10.9.0.3/24, fd00:9::3/64")
    + peer("a", "10.9.0.1/32, fd00:9::1/128", "a.example.net:51820")
    + peer("b", "10.9.0.2/32, fd00:9::2/128", "192.0.2.2:51820"),
}


def test_a_mesh_plans_to_no_change() -> None:
    imported = read(**MESH)
    assert imported.differences == ()
    document = load_document(imported.text).document
    link = resolve(document, "b", None).state.wireguard
    assert link is not None
    assert str(link.key) == KEYS["b"][1]
    assert {str(address) for address in link.addresses} == {"10.9.0.2", "fd00:9::2"}
    peers = {str(key): peer for key, peer in link.peers.items()}
    assert {str(p) for p in peers[KEYS["c"][1]].allowed_ips} == {
        "10.9.0.3/32",
        "fd00:9::3/128",
        "192.168.50.0/24",
    }
    assert str(peers[KEYS["c"][1]].endpoint) == "[2001:db8::3]:51820"
    assert link.mtu == 1380
    assert not any(private in imported.text for private, _ in KEYS.values())


def test_a_hub_with_spokes_and_a_phone_without_a_file() -> None:
    imported = read(
        a=interface("a", "10.9.0.1/24")
        + peer("b", "10.9.0.2/32")
        + peer("c", "10.9.0.3/32")
        + "\n# Phone\n"
        + peer("phone", "10.9.0.9/32").lstrip(),
        b=interface("b", "10.9.0.2/32") + peer("a", "10.9.0.0/24", "192.0.2.1:51820"),
        c=interface("c", "10.9.0.3/32") + peer("a", "10.9.0.0/24", "192.0.2.1:51820"),
    )
    assert imported.differences == ()
    document = load_document(imported.text).document
    assert document.networks["wg0"].hub == "a"
    assert document.members["phone"].endpoints == ()
    assert [str(address) for address in document.networks["wg0"].addresses["phone"]] == ["10.9.0.9"]


def test_a_file_without_its_key_is_known_by_its_address() -> None:
    texts = dict(MESH)
    texts["c"] = texts["c"].replace(f"PrivateKey = {KEYS['c'][0]}\n", "PostUp = wg set %i private-key /key\n")
    document = load_document(read(**texts).text).document
    assert str(document.members["c"].wireguard) == KEYS["c"][1]


def test_what_differs_is_said() -> None:
    texts = dict(MESH)
    texts["a"] = texts["a"].split("\n[Peer]")[0] + peer("b", "0.0.0.0/0, ::/0", "192.0.2.7:51820")
    said = "\n".join(read(**texts).differences)
    assert "a: would get a tunnel to c, which its file has not" in said
    assert "a: 0.0.0.0/0 through b is not carried: netctl has no default route" in said
    assert "b at 192.0.2.7:51820 instead of 192.0.2.2:51820" in said


def test_two_networks_stay_two() -> None:
    other = interface("c", "10.8.0.1/24") + peer("phone", "10.8.0.2/32")
    one = interface("a", "10.9.0.1/24") + peer("b", "10.9.0.2/32")
    document = load_document(read(a=one, c=other).text).document
    assert {name: network.member_names for name, network in document.networks.items()} == {
        "wg0": ("a", "peer"),
        "wg0-2": ("c", "peer-2"),
    }


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("Address = 10.0.0.1/24\n", 1, "a file begins with [Interface]"),
        ("[Interface]\nAddres = 10.0.0.1/24\n", 2, "unknown key"),
        ("[Interface]\nAddress = 10.0.0.1/33\n", 2, "does not appear to be"),
        ("[Interface]\nAddress 10.0.0.1\n", 2, "expected KEY = VALUE"),
        ("[Interface]\nListenPort = 70000\n", 2, "a number from 1 to 65535"),
        ("[Interface]\nAddress = 10.0.0.1/24\n[Pear]\n", 3, "unknown section"),
        ("[Interface]\nAddress = 10.0.0.1/24\n\n[Peer]\nAllowedIPs = 10.0.0.2/32\n", 4, "no PublicKey"),
        ("[Interface]\nMTU = 1420\nMTU = 1400\n", 3, "said twice"),
        ("[Interface]\nPrivateKey = SECRETSECRET\n", 2, "a PrivateKey is 32 bytes in base64"),
        ("[Interface]\nPrivateKey = eA==\n", 2, "a PrivateKey is 32 bytes in base64"),
        ("[Interface]\n[Interface]\n", 2, "a second [Interface]"),
        ("[Interface]\nAddress=10.0.0.1/24\n[Peer]\nEndpoint = 2001:db8::1:51820\n", 4, "in brackets"),
        ("", 1, "is this a wg-quick file?"),
    ],
)
def test_a_bad_file_is_said_by_line_and_shows_no_secret(text: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_wgquick(text, "x.conf", "x", "wg0")
    shown = str(caught.value)
    assert f"x.conf:{line}:1" in shown
    assert says in shown
    assert "SECRET" not in shown


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"a": MESH["a"], "b": MESH["a"]}, "the key is that of a.conf too"),
        (
            {"a": interface("a", "10.9.0.1/24") + peer("b", "192.168.7.0/24")},
            "cannot be told from its AllowedIPs",
        ),
        (
            {
                "a": interface("a", "10.9.0.1/24") + peer("b", "10.8.0.2/32"),
                "b": interface("b", "10.8.0.2/24") + peer("a", "10.9.0.1/32"),
            },
            "are one network by their peers, and have",
        ),
        ({"a": "[Interface]\nAddress = 10.0.0.1/24\n"}, "no PrivateKey here"),
    ],
    ids=["one key twice", "no address", "two pools", "no key"],
)
def test_files_that_do_not_go_together(texts: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("[", r"\[")):
        read(**texts)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in MESH.items():
        (tmp_path / "fleet" / name).mkdir(parents=True)
        (tmp_path / "fleet" / name / "wg0.conf").write_text(text)
    psk = f"PresharedKey = {base64.b64encode(bytes(32)).decode()}\n"
    (tmp_path / "fleet/a/wg0.conf").write_text(MESH["a"] + psk)
    target = tmp_path / "networks.yaml"
    assert main(["import", str(tmp_path / "fleet"), "--to", str(target)]) == 0
    said = capsys.readouterr()
    assert "a/wg0.conf:15:1: presharedkey is not carried: no secret belongs into the document" in said.err
    assert "3 members, 1 network from 3 files; it plans to what the files say" in said.err
    assert main(["validate", str(target)]) == 0
    assert main(["fmt", "--check", str(target)]) == 0
    assert main(["import", str(tmp_path / "fleet"), "--to", str(target)]) == 1
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "fleet/b/wg0.conf").write_text("[Interface]\nAddres = 1\n")
    assert main(["import", str(tmp_path / "fleet")]) == 1
    said = capsys.readouterr()
    assert "b/wg0.conf:2:1: [interface].Addres: unknown key" in said.err
    assert said.out == ""


def test_a_file_is_all_read() -> None:
    read_file: QuickFile = read_wgquick(MESH["b"], "b.conf", "b", "wg0")
    assert read_file.mtu == 1380
    assert [peer.endpoint is not None for peer in read_file.peers] == [True, True]
