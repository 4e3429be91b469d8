"""Runs boost_corr and speckled on the same raw files and prints time, memory and differences side by side.

Called by scripts/compare-boost-corr, which prepares the programs. Needs h5py and numpy, nothing else.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

NUMBERS = {
    "g2": "xpcs/multitau/normalized_g2",
    "g2_err": "xpcs/multitau/normalized_g2_err",
    "scattering 2d": "xpcs/temporal_mean/scattering_2d",
    "scattering 1d": "xpcs/temporal_mean/scattering_1d",
    "intensity": "xpcs/spatial_mean/intensity_vs_time",
    "two-time g2": "xpcs/twotime/normalized_g2",
}


@dataclass
class Case:
    """One raw file with its qmap; simulated by `simulate` where it does not exist."""

    name: str
    raw: Path
    qmap: Path
    simulate: list[str] | None = None
    corr: list[str] = field(default_factory=list)


@dataclass
class Run:
    """What one program did."""

    seconds: float
    peak_bytes: int
    result: Path


def cases(folder: Path, times: float) -> list[Case]:
    """The two workloads that the project's speed is stated for, with so many times their frames."""
    events, frames = round(10_000 * times), round(2000 * times)
    size = {0.1: "quick", 1: "full"}.get(times, f"{times:g}")
    rigaku, dense = folder / f"rigaku500k-{size}", folder / f"hdf5-{size}"
    # Steady light: speed does not depend on the dynamics, and it is the fastest to simulate.
    common = ["--dynamics", "none", "--mask-fraction", "0.35"]
    return [
        Case(
            name=f"Rigaku 500k .bin, 0.5 % occupancy, 35 % of the pixels masked in, {events} frames",
            raw=rigaku / "sim.bin",
            qmap=rigaku / "sim_qmap.hdf",
            simulate=["--format", "rigaku", "--counts", "0.005", "--frames", str(events), *common],
        ),
        Case(
            name=f"HDF5 u16 bitshuffle-lz4, 1 Mpx, 35 % of the pixels masked in, {frames} frames",
            raw=dense / "sim.h5",
            qmap=dense / "sim_qmap.hdf",
            simulate=["--format", "hdf5", "--rows", "1024", "--cols", "1024", "--counts", "2", "--frames", str(frames),
                      *common],
        ),
    ]


def waits(log: Path) -> str | None:
    """The line in which speckled says that another program has its GPU."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in lines if line.endswith("; waiting until it is free")), None)


def end_if_it_waits(pid: int, log: Path, ended: threading.Event) -> None:
    """Kills a program that waits for its GPU: the wait would be measured."""
    while not ended.wait(0.5):
        if waits(log):
            os.kill(pid, signal.SIGKILL)
            return


def timed(command: list[str], log: Path) -> tuple[float, int]:
    """Wall time and the largest resident memory of any process of `command`, which must succeed."""
    ended = threading.Event()
    with log.open("wb") as out:
        start = time.monotonic()
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        watcher = threading.Thread(target=end_if_it_waits, args=(child.pid, log, ended), daemon=True)
        watcher.start()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - start
    ended.set()
    watcher.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    if busy := waits(log):
        sys.exit(f"error: nothing can be measured beside another program: {busy}")
    if child.returncode != 0:
        tail = log.read_text(errors="replace").splitlines()[-15:]
        why = " (killed: too little memory? try --max-memory)" if child.returncode == -9 else ""
        sys.exit("\n".join([*tail, f"error: exit code {child.returncode}{why}: {shlex.join(command)}"]))
    return seconds, usage.ru_maxrss * 1024


def run(label: str, program: list[str], case: Case, folder: Path) -> Run:
    output = folder / label
    output.mkdir(parents=True, exist_ok=True)
    command = [*program, "-r", str(case.raw), "-q", str(case.qmap), "-o", str(output), "-w", *case.corr]
    print(f"    {shlex.join(command)}", flush=True)
    started = time.time()
    seconds, peak = timed(command, folder / f"{label}.log")
    written = [path for path in output.glob("*_results.hdf") if path.stat().st_mtime >= started - 2]
    if len(written) != 1:
        sys.exit(f"error: {label} ended well but left {len(written)} results in {output}; see {folder / label}.log")
    return Run(seconds, peak, written[0])


def fastest(label: str, program: list[str], case: Case, folder: Path, repeat: int) -> Run:
    """The fastest of several runs: other work on the machine only ever adds time."""
    return min((run(label, program, case, folder) for _ in range(repeat)), key=lambda one: one.seconds)


def read_through(path: Path) -> int:
    """Puts the file into the page cache, so that neither program waits for the disk; returns its bytes."""
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            total += len(chunk)
    return total


def difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Largest and median relative difference, over the values that both have."""
    if ours.shape != theirs.shape:
        return f"shapes differ: {ours.shape}, boost_corr {theirs.shape}"
    ours, theirs = ours.astype(float), theirs.astype(float)
    both = np.isfinite(ours) & np.isfinite(theirs)
    scale = np.maximum(np.abs(ours), np.abs(theirs))[both]
    apart = np.abs(ours - theirs)[both]
    relative = np.divide(apart, scale, out=np.zeros_like(apart), where=scale > 0)
    text = f"max {relative.max():.1e}   median {np.median(relative):.1e}" if relative.size else "no finite values"
    missing = int((np.isnan(ours) != np.isnan(theirs)).sum())
    return text + (f"   {missing} values are NaN in one only" if missing else "")


def compare_results(ours: Path, theirs: Path) -> list[str]:
    lines = []
    with h5py.File(ours) as a, h5py.File(theirs) as b:
        for name, path in NUMBERS.items():
            if path in a and path in b:
                lines.append(f"    {name:<16}{difference(comparable(a, path), comparable(b, path))}")
    return lines


def comparable(file: h5py.File, path: str) -> np.ndarray:
    """The values that mean the same in both: boost_corr zeroes pixels outside the mask when it crops, and beyond half
    of the series a delay can have a single pair, where errors are rounding noise."""
    values = file[path][()]
    if path.endswith("scattering_2d"):
        return values.reshape(values.shape[-2:])[file["xpcs/qmap/mask"][()].astype(bool)]
    if path.startswith("xpcs/multitau/normalized_g2"):
        return values[file["xpcs/multitau/delay_list"][()].ravel() <= frames_of(file) / 2]
    return values


def frames_of(file: h5py.File) -> int:
    return file["xpcs/spatial_mean/intensity_vs_time"].shape[1]


def report(speckled: Run, boost: Run) -> None:
    with h5py.File(speckled.result) as file:
        frames = frames_of(file)
    print(f"\n    {'':<16}{'boost_corr':>14}{'speckled':>14}{'ratio':>10}")
    rows = [
        ("wall time", boost.seconds, speckled.seconds, "{:.2f} s", boost.seconds / speckled.seconds),
        ("frames/s", frames / boost.seconds, frames / speckled.seconds, "{:.0f}", boost.seconds / speckled.seconds),
        ("peak memory", boost.peak_bytes / 1e9, speckled.peak_bytes / 1e9, "{:.2f} GB",
         boost.peak_bytes / speckled.peak_bytes),
    ]
    for name, theirs, ours, form, ratio in rows:
        print(f"    {name:<16}{form.format(theirs):>14}{form.format(ours):>14}{ratio:>9.1f}x")
    print("\n    relative differences, speckled to boost_corr (bfloat16 rounds at 1e-3; docs/numbers.md):")
    print("\n".join(compare_results(speckled.result, boost.result)), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/compare-boost-corr")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--speckled", required=True)
    parser.add_argument("--boost-corr", required=True)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", const=0.1, dest="times", help="a tenth of the frames")
    size.add_argument("--times", type=float, default=1, metavar="N", help="so many times the frames, for a GPU")
    parser.add_argument("--gpu", type=int, default=-1, metavar="N", help="both on this GPU [default: the CPU]")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="runs of each program; the fastest counts")
    parser.add_argument("--max-memory", type=float, help="GB for boost_corr [default: a quarter of what is free]")
    parser.add_argument("--raw", type=Path, help="a raw file of your own instead of simulated ones")
    parser.add_argument("--qmap", type=Path, help="its qmap")
    parser.add_argument("corr", nargs="*", help="after --: options for both programs, as -- -t Twotime")
    options = parser.parse_args()
    if (options.raw is None) != (options.qmap is None):
        parser.error("--raw and --qmap go together")
    return options


def free_memory_gb() -> float:
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024 / 1e9


def main() -> None:
    options = arguments()
    memory = options.max_memory or round(free_memory_gb() / 4, 1)
    boost = [options.boost_corr, "-i", str(options.gpu), "--max-memory", str(memory)]
    speckled = [options.speckled, "corr", "-i", str(options.gpu)]
    if options.raw:
        todo = [Case(str(options.raw), options.raw, options.qmap)]
    else:
        todo = cases(options.dir, options.times)
    print(f"{os.cpu_count()} processors, {free_memory_gb():.1f} GB of memory free")
    for case in todo:
        case.corr = options.corr
        print(f"\n{case.name}", flush=True)
        if case.simulate and not (case.raw.parent / "complete").exists():
            case.raw.parent.mkdir(parents=True, exist_ok=True)
            command = [options.speckled, "simulate", *case.simulate, "--output", str(case.raw.parent), "--overwrite"]
            print(f"    {shlex.join(command)}", flush=True)
            timed(command, case.raw.parent / "simulate.log")
            (case.raw.parent / "complete").touch()
        print(f"    {read_through(case.raw) / 1e6:.1f} MB")
        logs = options.dir / "runs" / case.raw.name
        ours = fastest("speckled", speckled, case, logs, options.repeat)
        theirs = fastest("boost_corr", boost, case, logs, options.repeat)
        report(ours, theirs)


main()
