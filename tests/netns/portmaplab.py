"""A router that opens ports: Debian's miniupnpd on a box of the lab, speaking what a test wants it to speak.

miniupnpd maps nothing on an outside that is private or reserved, as the lab's is: the box gets one more address,
routed to it inside the lab.
"""

from __future__ import annotations

from netctl.lab.internet import Lab
from tests.support.patience import wait_for

OUTSIDE = "11.22.33.44"
TABLE = "miniupnpd"
CHAINS = f"""
table inet {TABLE} {{
  chain forward {{ type filter hook forward priority 0; policy accept; jump mini_forward; }}
  chain mini_forward {{ }}
  chain prerouting {{ type nat hook prerouting priority -100; policy accept; jump mini_pre; }}
  chain postrouting {{ type nat hook postrouting priority 90; policy accept; jump mini_post; }}
  chain mini_pre {{ }}
  chain mini_post {{ }}
}}
"""
CONFIG = f"""
ext_ifname=wan
ext_ip={OUTSIDE}
listening_ip=lan
port=5000
enable_upnp={{upnp}}
enable_natpmp={{natpmp}}
secure_mode=yes
upnp_table_name={TABLE}
upnp_nat_table_name={TABLE}
upnp_forward_chain=mini_forward
upnp_nat_chain=mini_pre
upnp_nat_postrouting_chain=mini_post
notify_interval=60
uuid=00000000-0000-4000-8000-000000000001
serial=1
allow 1024-65535 192.168.0.0/16 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""
NO_PCP = """
table ip nopcp {
  chain input { type filter hook input priority 0; policy accept; udp dport 5351 @th,64,8 2 drop; }
}
"""
PROTOCOLS = ("PCP", "NAT-PMP", "UPnP")


def prepare(lab: Lab, box: str) -> None:
    """Make a box of the lab fit for a miniupnpd."""
    router = lab.node(box)
    wan = next(found.wan for found in lab.topology.boxes if found.name == box)
    lab.network.holder.run(["ip", "route", "replace", f"{OUTSIDE}/32", "via", str(wan)])
    router.run(["ip", "addr", "replace", f"{OUTSIDE}/32", "dev", "lo"])
    router.run(["nft", "insert", "rule", "ip", "lab_nat", "forward", "ct", "status", "dnat", "accept"])


def start_router(lab: Lab, box: str, protocol: str) -> None:
    """miniupnpd on this box, of which only `protocol` is to be had."""
    router = lab.node(box)
    router.run(["nft", "-f", "-"], CHAINS)
    if protocol == "NAT-PMP":
        router.run(["nft", "-f", "-"], NO_PCP)
    yes = {True: "yes", False: "no"}
    config = CONFIG.format(upnp=yes[protocol == "UPnP"], natpmp=yes[protocol != "UPnP"])
    router.write("/run/miniupnpd.conf", config)
    argv = ["miniupnpd", "-d", "-f", "/run/miniupnpd.conf", "-P", "/run/miniupnpd.pid"]
    lab.services[f"miniupnpd on {box}"] = router.spawn(argv, "/run/miniupnpd.log")
    port = ":1900" if protocol == "UPnP" else ":5351"
    wait_for(f"miniupnpd listens on {port}", lambda: port in router.attempt(["ss", "-Hlun"]).stdout)


def stop_router(lab: Lab, box: str) -> None:
    """End it; what it mapped ends with its table."""
    router = lab.node(box)
    router.kill(lab.services.pop(f"miniupnpd on {box}"))
    for table in (f"inet {TABLE}", "ip nopcp"):
        router.attempt(["nft", "delete", "table", *table.split()])


def mapped(lab: Lab, box: str) -> str:
    """The rules of its mappings."""
    return lab.node(box).attempt(["nft", "list", "chain", "inet", TABLE, "mini_pre"]).stdout
