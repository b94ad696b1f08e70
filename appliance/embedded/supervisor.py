"""Who starts what on one machine, in which order, and who stops it."""

import fcntl
import http.client
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from appliance import env
from appliance.embedded import postgres, process, valkey
from appliance.settings import BASE_DIR
from retrieval import keys
from retrieval.errors import ServicesUnavailable

log = logging.getLogger("cloister.supervisor")

STOP_TIMEOUT_S = 20.0
TURN_TIMEOUT_S = 600.0
RESTARTS_BEFORE_GIVING_UP = 5
RESTART_WINDOW_S = 60.0


class AlreadyRunning(ServicesUnavailable):
    """Another process supervises this data folder; use it, or stop it first.

    `serves`: it is there for others (`up`), not for the length of a command of its own.
    """

    def __init__(self, pid: int, *, serves: bool) -> None:
        super().__init__(f"this data folder is in use by process {pid}")
        self.pid = pid
        self.serves = serves


@dataclass(frozen=True)
class Program:
    """One process of the appliance beside the servers."""

    name: str
    command: tuple[str, ...]
    database_role: str = "worker"
    env: Mapping[str, str] = field(default_factory=dict)


def _worker(name: str, queues: str) -> Program:
    # One task at a time and no prefetch: what a killed worker held comes back as a row, and a
    # slow picture never holds up the ones behind it.
    arguments = (
        f"-A workers.app worker -Q {queues} -P solo -n {name}@%h -l WARNING "
        "--prefetch-multiplier 1 --without-gossip --without-mingle --without-heartbeat"
    ).split()
    return Program(name, (sys.executable, "-m", "celery", *arguments))


CHECKPOINTS_EVERY_S = 300
"""How much of the log a superuser of the database could rewrite unseen: what is younger."""

LARGEST_WORKER_BYTES = 1.25 * 1024**3
"""Of memory, while one de-identifies the largest photographs that are taken."""
BESIDE_WORKERS_BYTES = 4 * 1024**3
"""For the database, the web side and the two workers that encode."""
MOST_WORKERS = 32
"""The embedded database takes 100 connections, and a worker may hold two."""


def workers_that_deidentify(cores: int, memory_bytes: int) -> int:
    """One for each core, as each takes one; fewer where memory is short.

    Two at least: one slow picture holds up nobody.
    """
    fit = int((memory_bytes - BESIDE_WORKERS_BYTES) / LARGEST_WORKER_BYTES)
    return max(2, min(cores, fit, MOST_WORKERS))


def _here(limits: Path = Path("/sys/fs/cgroup")) -> int:
    """limits: of the container, if this is one; the machine's memory and cores are its host's."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups of version 2 and 1
        with suppress(OSError, ValueError):
            memory_bytes = min(memory_bytes, int((limits / name).read_text()))
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota_us, period_us = map(int, (limits / "cpu.max").read_text().split())
        cores = min(cores, max(1, quota_us // period_us))
    return workers_that_deidentify(cores, memory_bytes)


QUERY_WORKERS = (_worker("query", "query"),)
# Of two queues a worker takes in turns: who reviews never waits for a long import.
INGEST_WORKERS = (
    *(_worker(f"deidentify-{number + 1}", "deidentify,cover") for number in range(_here())),
    _worker("encode", "encode,report"),
    Program("reconcile", (sys.executable, "manage.py", "reconcile")),
    Program("maintain", (sys.executable, "manage.py", "maintain")),
)
WORKERS = QUERY_WORKERS + INGEST_WORKERS
CHECKPOINTS = Program(
    "checkpoint",
    (sys.executable, "manage.py", "audit", "checkpoint", "--every", str(CHECKPOINTS_EVERY_S)),
    database_role="web",
)


def web(port: int) -> Program:
    # Its socket would lie in the home folder, one for all the appliances of a user.
    options = (
        f"--bind 127.0.0.1:{port} --workers 2 --threads 4 --worker-class gthread"
        " --no-control-socket"
    )
    return Program(
        "web",
        (sys.executable, "-m", "gunicorn", "appliance.wsgi", *options.split()),
        database_role="web",
    )


@contextmanager
def running(
    var: Path, *, programs: tuple[Program, ...] = (), serves: bool = False
) -> Iterator["Appliance"]:
    """Hold the data folder, with its servers up and migrated and `programs` beside them.

    `serves`: other commands may use what runs here, until this ends.

    Servers named by DATABASE_URL or BROKER_URL are used as they are. Raises AlreadyRunning
    where another process holds the folder, ServicesUnavailable where something does not start;
    whatever did start is stopped again.
    """
    var.mkdir(parents=True, exist_ok=True)
    with _hold(var, serves=serves), ExitStack() as stack:
        _require_key_file(var)
        _forget_uploads(var)
        appliance = Appliance(var)
        stack.callback(appliance.stop)
        if env.uses_embedded_database():
            appliance.servers.append(postgres.start(var))
            postgres.make_database(var)
            prepare_database()
        if env.uses_embedded_broker():
            appliance.servers.append(valkey.start(var))
        for program in programs:
            appliance.start(program)
        yield appliance


@contextmanager
def attached(var: Path, *, programs: tuple[Program, ...] = ()) -> Iterator["Appliance | None"]:
    """The services of `var` for the length of a command: those of `up` (None), or our own.

    Where another command holds the folder, its turn is waited for: what it runs ends with it.
    """
    if not (env.uses_embedded_database() or env.uses_embedded_broker()):
        yield None
        return
    with ExitStack() as stack:
        yield _take_turn(var, programs, stack)


def _take_turn(var: Path, programs: tuple[Program, ...], stack: ExitStack) -> "Appliance | None":
    deadline = time.monotonic() + TURN_TIMEOUT_S
    while True:
        try:
            return stack.enter_context(running(var, programs=programs))
        except AlreadyRunning as holder:
            if holder.serves:
                _wait_for_database()
                return None
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _require_key_file(var: Path) -> None:
    """The key file is made with the data folder, and never again: a new one opens nothing old."""
    path = env.key_file()
    store = var / "store"
    if not path.exists() and store.exists() and any(store.iterdir()):
        raise ServicesUnavailable(f"the key file {path} is gone; put its copy back")
    keys.create_key_file(path)


def require_free_port(port: int) -> None:
    """Raise ServicesUnavailable where something else answers already, before anything starts."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServicesUnavailable(f"port {port} is taken; choose another: --port") from error


@contextmanager
def _hold(var: Path, *, serves: bool) -> Iterator[None]:
    """Lock the folder for this process; the kernel lets go when we die, however we die."""
    with (var / "supervisor.lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _holder(var) from None
        lock.truncate(0)
        lock.write(json.dumps({"pid": os.getpid(), "serves": serves}))
        lock.flush()
        yield


def _holder(var: Path) -> AlreadyRunning:
    try:
        told = json.loads((var / "supervisor.lock").read_text(encoding="utf-8"))
        return AlreadyRunning(int(told["pid"]), serves=bool(told["serves"]))
    except (ValueError, KeyError):
        return AlreadyRunning(0, serves=False)  # it has not yet written who it is


def _forget_uploads(var: Path) -> None:
    """What a killed web process was just receiving is gone at the next start."""
    shutil.rmtree(var / "quarantine", ignore_errors=True)
    env.private_folder(var / "quarantine")


def prepare_database() -> None:
    """Migrate as the owner, in a process of its own: this one never has the owner's rights."""
    done = subprocess.run(
        [sys.executable, "manage.py", "prepare_database"],
        cwd=BASE_DIR,
        env={**os.environ, "CLOISTER_DATABASE_ROLE": "owner"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ServicesUnavailable(f"the database could not be prepared: {last_line}")


def _wait_for_database(timeout_s: float = 60.0) -> None:
    """Somebody else is starting the services: wait until their last step, the broker, is done."""
    address = env.socket_folder(env.data_folder()) / "valkey.sock"
    deadline = time.monotonic() + timeout_s
    while env.uses_embedded_broker() and not valkey.answers(address):
        if time.monotonic() > deadline:
            raise ServicesUnavailable("the running appliance does not answer")
        time.sleep(0.2)


class Appliance:
    """The started processes of one data folder."""

    def __init__(self, var: Path) -> None:
        self.var = var
        self.servers: list[process.Child] = []
        self._programs: dict[str, tuple[Program, process.Child]] = {}
        self._restarts: list[float] = []
        self._stop_asked = False

    def start(self, program: Program) -> None:
        child = process.start(
            program.name,
            program.command,
            log=self.var / "log" / f"{program.name}.log",
            env={
                "CLOISTER_DATABASE_ROLE": program.database_role,
                "PYTHONPATH": str(BASE_DIR),
                "DJANGO_SETTINGS_MODULE": "appliance.settings",
                **program.env,
            },
            cwd=BASE_DIR,
        )
        self._programs[program.name] = (program, child)

    def wait_for_web(self, port: int) -> None:
        """Return once the pages are served. Raises ServicesUnavailable where they never are."""
        _, child = self._programs["web"]

        def answers() -> bool:
            web = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                web.request("GET", "/healthz")
                return web.getresponse().status == http.HTTPStatus.OK
            except (OSError, http.client.HTTPException):
                return False
            finally:
                web.close()

        process.wait_until(answers, child, timeout_s=120.0)

    def watch(self) -> None:
        """Restart what ends by itself, until a stop signal. Raises ServicesUnavailable where
        a server ends, or where programs keep ending faster than they can be of use."""
        self._stop_on_signals()
        while not self._stop_asked:
            self.revive()
            time.sleep(0.25)

    def revive(self) -> None:
        """Restart the programs that ended. Raises as `watch`."""
        for server in self.servers:
            if not server.is_alive():
                raise ServicesUnavailable(f"{server.name} ended; see {server.log}")
        for program, child in list(self._programs.values()):
            if not child.is_alive():
                self._restart(program, child)

    def _restart(self, program: Program, child: process.Child) -> None:
        now = time.monotonic()
        self._restarts = [t for t in self._restarts if now - t < RESTART_WINDOW_S] + [now]
        if len(self._restarts) > RESTARTS_BEFORE_GIVING_UP:
            raise ServicesUnavailable(f"{program.name} keeps ending; see {child.log}")
        log.warning("%s ended with status %s: restarted", program.name, child.process.returncode)
        self.start(program)

    def _stop_on_signals(self) -> None:
        def ask(_signal: int, _frame: FrameType | None) -> None:
            self._stop_asked = True

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, ask)

    def stop_programs(self) -> None:
        """All are asked at once, then waited for."""
        children = [child for _, child in self._programs.values()]
        for child in children:
            if child.is_alive():
                child.process.send_signal(child.stop_signal)
        for child in children:
            child.stop(STOP_TIMEOUT_S)
        self._programs.clear()

    def stop(self) -> None:
        """Programs first, then the servers they talked to, last one first."""
        self.stop_programs()
        for server in reversed(self.servers):
            server.stop(STOP_TIMEOUT_S)
