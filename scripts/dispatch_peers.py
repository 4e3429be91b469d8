"""Measures how fast Parsl, HyperQueue and speckled hand out tasks, and prints one table.

Called by scripts/compare-dispatch, which prepares the environments and a directory to work in. Three commands:

    run       measures everything, one process a system and number of slots; needs the standard library only
    measure   that process; runs in the environment of the system that it measures
    end DIR   ends every process that works below DIR
"""

import argparse
import contextlib
import json
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

# Keys of our own benchmark's JSON come first: (key, what it is called in the table, unit, more is better).
ROWS = [
    ("noop_2_per_s", "no-op tasks, 2 slots", "/s", True),
    ("noop_128_per_s", "no-op tasks, 128 slots", "/s", True),
    ("true_2_per_s", "/bin/true, 2 slots", "/s", True),
    ("round_trip_p50_ms", "one no-op there and back, p50", "ms", False),
    ("round_trip_p99_ms", "one no-op there and back, p99", "ms", False),
    ("first_result_s", "start to first result", "s", False),
    ("fsync_p50_ms", "fsync of this disk, p50", "ms", False),
    ("executor_2_per_s", "no-op tasks, 2 slots, executor alone", "/s", True),
    ("default_noop_2_per_s", "no-op tasks, 2 slots, as shipped", "/s", True),
    ("default_first_result_s", "start to first result, as shipped", "s", False),
    ("function_2_per_s", "Python functions, 2 slots", "/s", True),
    ("default_round_trip_p50_ms", "one no-op there and back by the API's own wait, p50", "ms", False),
]
TITLES = {"parsl": "Parsl", "hyperqueue": "HyperQueue", "speckled": "speckled"}
NOTES = {
    "parsl": """HighThroughputExecutor, one block of LocalProvider on the loopback, encrypted as by default. No-op: a
        python_app that returns None. /bin/true: a python_app that calls subprocess.run, faster than a bash_app, which
        starts a shell as well. Set for speed: no logging, prefetch_capacity of 64 or the slots, blocks started at once
        (strategy_period 0.1). As shipped: prefetch_capacity 0 and blocks looked after every 5 s. Executor alone:
        HighThroughputExecutor.submit, without Parsl's DataFlowKernel. Tasks are in memory only.""",
    "hyperqueue": """server and one worker of LocalCluster in one process, the client in another. The wheel has no hq
        program and no task that starts no process (zero-worker is a choice when hq is compiled): no-op is /bin/true
        without output files, the least that it can run; /bin/true is with them, as by default. A graph job, since the
        Python API has no arrays. Python functions: Job.function, an interpreter each. The API's own wait looks once a
        second; the other rows ask for the job's state every millisecond (20 ms for rates). Tasks are in memory only:
        LocalCluster keeps no journal.""",
    "speckled": "`speckled bench dispatch`.",
}
ROUND_TRIPS = 300
# A system that hangs must not hang the comparison: many times what each took on two slow cores.
LIMIT_S = 600


# ---- inside the environment of one system


def percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile by nearest rank."""
    ordered = sorted(seconds)
    return {f"{name}_p{p}_ms": ordered[math.ceil(p / 100 * len(ordered)) - 1] * 1e3 for p in (50, 99)}


def rate(batch, target_s: float, first: int) -> float:
    """Tasks a second of `batch(count)`, which returns its seconds, over about `target_s`.

    Small batches go first, until they get no faster: workers that report for duty may still be loading modules."""
    best = 0.0
    for _ in range(20):
        found = first / batch(first)
        if found < best * 1.1:
            break
        best = max(best, found)
    count = max(first, int(max(best, found) * target_s))
    while (seconds := batch(count)) < target_s * 0.65:
        count = math.ceil(count * min(target_s / seconds, 4))
    return count / seconds


def noop():
    return None


def run_true():
    import subprocess

    subprocess.run(["/bin/true"], check=True)


@contextlib.contextmanager
def parsl_running(slots: int, shipped: bool):
    import parsl
    from parsl.executors import HighThroughputExecutor
    from parsl.launchers import SimpleLauncher
    from parsl.providers import LocalProvider

    executor = HighThroughputExecutor(
        label="htex",
        address="127.0.0.1",
        loopback_address="127.0.0.1",
        max_workers_per_node=slots,
        # By default it starts no more workers than there are cores.
        cores_per_worker=min(1.0, os.cpu_count() / slots),
        provider=LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1, launcher=SimpleLauncher()),
        **({} if shipped else {"prefetch_capacity": max(64, slots)}),
    )
    config = parsl.Config(
        executors=[executor],
        strategy="none",
        initialize_logging=False,
        usage_tracking=0,
        **({} if shipped else {"strategy_period": 0.1}),
    )
    with parsl.load(config):
        yield executor


def wait_for_slots(executor, slots: int) -> None:
    while sum(manager["worker_count"] for manager in executor.connected_managers()) < slots:
        time.sleep(0.1)


def parsl_batch(submit):
    def batch(count: int) -> float:
        start = time.monotonic()
        for future in [submit() for _ in range(count)]:
            future.result()
        return time.monotonic() - start

    return batch


def measure_parsl(plan: str, target_s: float, started: float) -> dict[str, float]:
    from parsl import python_app

    slots = 128 if plan == "wide" else 2
    with parsl_running(slots, shipped=plan == "shipped") as executor:
        app = python_app(noop)
        app().result()
        first = time.monotonic() - started
        wait_for_slots(executor, slots)
        noops = rate(parsl_batch(app), target_s, 4 * slots + 200)
        if plan == "wide":
            return {"noop_128_per_s": noops}
        if plan == "shipped":
            return {"default_first_result_s": first, "default_noop_2_per_s": noops}
        return {
            "first_result_s": first,
            "noop_2_per_s": noops,
            "true_2_per_s": rate(parsl_batch(python_app(run_true)), target_s, 200),
            "executor_2_per_s": rate(parsl_batch(lambda: executor.submit(noop, {})), target_s, 200),
            **percentiles("round_trip", [parsl_batch(app)(1) for _ in range(ROUND_TRIPS)]),
        }


class NotYet(Exception):
    """Ends HyperQueue's own wait after its first look at the job."""


class HyperQueue:
    """A client of a cluster in a process of its own, as a user's program is not the server either."""

    def __init__(self, server_dir: Path):
        from hyperqueue import Client
        from hyperqueue.task.function import PythonEnv

        self.client = Client(server_dir, python_env=PythonEnv(python_bin=sys.executable))

    def run(self, job, pause_s: float) -> float:
        """Seconds from submit to the end of the job's last task."""
        start = time.monotonic()
        submitted = self.client.submit(job)
        while not self.ended(submitted.id):
            time.sleep(pause_s)
        seconds = time.monotonic() - start
        # The server keeps every task of every job until it is told to forget.
        self.client.forget(submitted)
        return seconds

    def ended(self, job_id: int) -> bool:
        # Client.wait_for_jobs sleeps a second between looks; its callback may end it before.
        def look(jobs):
            if not all(job["completed"] for job in jobs.values()):
                raise NotYet

        try:
            if self.client.connection.wait_for_jobs((job_id,), look):
                sys.exit("error: a task of HyperQueue failed")
        except NotYet:
            return False
        return True

    def batch(self, add):
        from hyperqueue import Job

        def batch(count: int) -> float:
            job = Job()
            for _ in range(count):
                add(job)
            return self.run(job, 0.02 if count > 1 else 0.001)

        return batch

    def own_wait(self, add) -> float:
        from hyperqueue import Job

        job = Job()
        add(job)
        start = time.monotonic()
        self.client.wait_for_jobs([self.client.submit(job)])
        return time.monotonic() - start


def hyperqueue_cluster(server_dir: Path, slots: int) -> None:
    """Runs until stdin is closed."""
    from hyperqueue import LocalCluster
    from hyperqueue.cluster import WorkerConfig

    with LocalCluster(str(server_dir), WorkerConfig(cores=slots)):
        (server_dir / "ready").touch()
        sys.stdin.read()


def measure_hyperqueue(plan: str, target_s: float, started: float) -> dict[str, float]:
    slots = 128 if plan == "wide" else 2
    server_dir = Path("server").absolute()
    server_dir.mkdir()
    command = [sys.executable, __file__, "cluster", str(server_dir), str(slots)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as cluster:
        while not (server_dir / "ready").exists():
            if cluster.poll() is not None:
                sys.exit("error: the cluster of HyperQueue did not start")
            time.sleep(0.01)
        found = measure_hyperqueue_client(HyperQueue(server_dir), plan, target_s, started)
        cluster.stdin.close()
    return found


def measure_hyperqueue_client(hq: HyperQueue, plan: str, target_s: float, started: float) -> dict[str, float]:
    def least(job):
        job.program(["/bin/true"], stdout=None, stderr=None)

    one = hq.batch(least)
    one(1)
    first = time.monotonic() - started
    if plan == "wide":
        return {"noop_128_per_s": rate(one, target_s, 500)}
    return {
        "first_result_s": first,
        "noop_2_per_s": rate(one, target_s, 200),
        "true_2_per_s": rate(hq.batch(lambda job: job.program(["/bin/true"])), target_s, 200),
        "function_2_per_s": rate(hq.batch(lambda job: job.function(noop)), target_s, 10),
        **percentiles("round_trip", [one(1) for _ in range(ROUND_TRIPS)]),
        "default_round_trip_p50_ms": percentiles("own", [hq.own_wait(least) for _ in range(5)])["own_p50_ms"],
    }


PLANS = {
    "parsl": (measure_parsl, ["usual", "wide", "shipped"]),
    "hyperqueue": (measure_hyperqueue, ["usual", "wide"]),
}


# ---- outside


def say(text: str) -> None:
    print(f"    {text}", file=sys.stderr, flush=True)


def below(folder: Path) -> list[int]:
    """Processes whose working directory is in `folder`, but this one.

    Their parents do not tell: Parsl's workers leave the session and the process group that started them."""
    found = []
    for entry in Path("/proc").iterdir():
        # A process can end meanwhile, and another user's says nothing.
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                where = Path(os.readlink(entry / "cwd").removesuffix(" (deleted)"))
                if where.is_relative_to(folder):
                    found.append(int(entry.name))
    return found


def end(folder: Path) -> None:
    """Ends what works in `folder`; by force after two seconds, since HyperQueue does not listen to SIGTERM."""
    deadline = time.monotonic() + 2
    sign = signal.SIGTERM
    while pids := below(folder):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        time.sleep(0.1)
        if time.monotonic() > deadline:
            sign = signal.SIGKILL
        if time.monotonic() > deadline + 10:
            sys.exit(f"error: processes {pids} do not end")


def busy() -> float:
    """Share of the processors that is in use, over half a second."""

    def ticks() -> list[int]:
        return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]

    before = ticks()
    time.sleep(0.5)
    spent = [now - then for then, now in zip(before, ticks())]
    return 1 - (spent[3] + spent[4]) / max(1, sum(spent))


def announce(text: str) -> None:
    """Names the next measurement, and warns of what would spoil it."""
    others = busy()
    say(text + (f" (other work uses {others:.0%} of the processors!)" if others > 0.1 else ""))


def bounded(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Stdout of `command`, run in `folder`; nothing that it started is left."""
    folder.mkdir(parents=True)
    log = folder / "log"
    with log.open("wb") as stderr, (folder / "out").open("wb") as stdout:
        child = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=stdout,
                                 stderr=stderr)
        try:
            code = child.wait(LIMIT_S)
            why = f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, why = None, f"not done after {LIMIT_S} s"
        finally:
            end(folder)
            child.wait()
    if code != 0:
        tail = log.read_text(errors="replace").splitlines()[-15:]
        sys.exit("\n".join([*tail, f"error: {why}: {shlex.join(command)}"]))
    return (folder / "out").read_text()


def measure_peer(system: str, venv: Path, folder: Path, target_s: float) -> dict[str, float]:
    # PATH: Parsl starts its own programs by name. Cached bytecode is part of a usual start.
    environment = {**os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    found = {}
    for plan in PLANS[system][1]:
        announce(f"{TITLES[system]}, {plan}")
        work = folder / f"{system}-{plan}"
        command = [str(venv / "bin/python"), __file__, "measure", system, plan, "--seconds", str(target_s),
                   "--result", str(work / "result.json"), "--started", str(time.monotonic())]
        bounded(command, work, environment)
        found |= json.loads((work / "result.json").read_text())
    return found


def measure_speckled(program: Path, folder: Path) -> dict[str, float]:
    announce("speckled")
    out = bounded([str(program), "bench", "dispatch", "--json"], folder / "speckled", dict(os.environ))
    try:
        found = json.loads(out)
    except json.JSONDecodeError:
        sys.exit(f"error: {program} bench dispatch --json printed no JSON: {out[:200]!r}")
    return {key: float(found[key]) for key, *_ in ROWS if isinstance(found.get(key), int | float)}


def better(key: str, values: list[float]) -> float:
    """Other work on the machine only ever makes it slower."""
    more = next(row[3] for row in ROWS if row[0] == key)
    return max(values) if more else min(values)


def best(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: better(key, [run[key] for run in runs if key in run])
            for key, *_ in ROWS if any(key in run for run in runs)}


def has_benchmark(program: Path) -> bool:
    return subprocess.run([program, "bench", "dispatch", "--help"], capture_output=True).returncode == 0


def version(system: str, program: Path) -> str:
    if system == "speckled":
        return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    code = f"import importlib.metadata as m; print(m.version({system!r}))"
    return subprocess.run([program / "bin/python", "-c", code], capture_output=True, text=True,
                          check=True).stdout.strip()


def machine() -> dict:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown")
    return {"processors": os.cpu_count(), "cpu": model, "architecture": platform.machine(),
            "kernel": platform.release(), "python": platform.python_version()}


def shown(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def table(systems: dict[str, dict]) -> list[str]:
    peers = [name for name in systems if name != "speckled"]
    ours = systems.get("speckled", {}).get("measures")
    rows = [["", *(f"{TITLES[name]} {systems[name]['version']}" for name in systems)]]
    if ours:
        rows[0] += [f"to {TITLES[name]}" for name in peers]
    for key, title, unit, more in ROWS:
        values = {name: system["measures"].get(key) for name, system in systems.items()}
        if all(value is None for value in values.values()):
            continue
        row = [title, *(shown(value, unit) for value in values.values())]
        for name in peers if ours else []:
            mine, theirs = values["speckled"], values[name]
            ratio = (mine / theirs if more else theirs / mine) if mine and theirs else None
            row.append("-" if ratio is None else f"{ratio:.1f} x")
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["   ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
            for row in rows]


def run(options: argparse.Namespace) -> None:
    programs = {"parsl": options.parsl, "hyperqueue": options.hyperqueue}
    if options.speckled and has_benchmark(options.speckled):
        programs["speckled"] = options.speckled
    elif options.speckled:
        say(f"{options.speckled} has no `bench dispatch`: the peers alone are measured")
    runs = {name: [] for name in programs}
    for number in range(1, options.repeat + 1):
        say(f"run {number} of {options.repeat}")
        folder = Path(str(number)).absolute()
        for name, program in programs.items():
            runs[name].append(measure_speckled(program, folder) if name == "speckled" else
                              measure_peer(name, program, folder, options.seconds))
    systems = {name: {"version": version(name, programs[name]), "measures": best(found), "runs": found,
                      "what": " ".join(NOTES[name].split())} for name, found in runs.items()}
    here = machine()
    print(f"{here['processors']} processors, {here['cpu']}; the better of {options.repeat}\n")
    print("\n".join(table(systems)))
    for name, system in systems.items():
        print(f"\n{TITLES[name]}: {system['what']}")
    if options.json:
        options.json.write_text(json.dumps({"machine": here, "systems": systems}, indent=2) + "\n")


def measure(options: argparse.Namespace) -> None:
    found = PLANS[options.system][0](options.plan, options.seconds, options.started)
    options.result.write_text(json.dumps(found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/compare-dispatch")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run")
    one.set_defaults(act=run)
    one.add_argument("--parsl", type=Path, required=True)
    one.add_argument("--hyperqueue", type=Path, required=True)
    one.add_argument("--speckled", type=Path)
    one.add_argument("--repeat", type=int, default=2)
    one.add_argument("--seconds", type=float, default=8.0)
    one.add_argument("--json", type=Path)
    one = commands.add_parser("measure")
    one.set_defaults(act=measure)
    one.add_argument("system", choices=PLANS)
    one.add_argument("plan")
    one.add_argument("--seconds", type=float, required=True)
    one.add_argument("--started", type=float, required=True, help="of the clock that all processes share")
    one.add_argument("--result", type=Path, required=True)
    one = commands.add_parser("cluster")
    one.set_defaults(act=lambda options: hyperqueue_cluster(options.server_dir, options.slots))
    one.add_argument("server_dir", type=Path)
    one.add_argument("slots", type=int)
    one = commands.add_parser("end")
    one.set_defaults(act=lambda options: end(options.folder.resolve()))
    one.add_argument("folder", type=Path)
    options = parser.parse_args()
    if getattr(options, "repeat", 1) < 1 or getattr(options, "seconds", 1) <= 0:
        parser.error("--repeat and --seconds must be more than nothing")
    return options


if __name__ == "__main__":
    chosen = arguments()
    try:
        chosen.act(chosen)
    except KeyboardInterrupt:
        sys.exit(130)
