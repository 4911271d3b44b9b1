"""What a run ran on, for whoever reads its figures later."""

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from normwise.version import __version__

_STATISTICS = Path("/proc/stat")  # its first line: cpu, and hundredths of seconds of each kind
_SHORTEST_S = 0.2
_DRIVER = Path("/proc/driver/nvidia/version")  # its first line names it


def describe_machine(device: torch.device, threads: int, workers: int) -> dict[str, Any]:
    """Processor, device and system, and how much of them one trial had."""
    cuda = device.type == "cuda"
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "workers": workers,
        "device": torch.cuda.get_device_name(device) if cuda else str(device),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def stamp() -> dict[str, Any]:
    """Machine, threads, versions, commit and day: what a measured figure holds for."""
    return {
        "machine": processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "triton": _triton(),
        "cuda": torch.version.cuda,
        "driver": _DRIVER.read_text().splitlines()[0] if _DRIVER.is_file() else None,
        "normwise": __version__,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _triton() -> str | None:
    """Its version; None where it is not installed."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of these sources; None where they are installed, whatever tree that is in."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != here.parent.parent:
            return None
        return git("describe", "--always", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return None


class OtherWork:
    """What the machine does for others while this process works, from when this is made."""

    def __init__(self) -> None:
        self._began, self._before = time.monotonic(), _others_s()

    def cores(self) -> float | None:
        """How many cores other processes have had so far, in the mean.

        None if the system does not tell, or before there is something to tell of: Linux counts
        in hundredths of a second.
        """
        took, now = time.monotonic() - self._began, _others_s()
        if now is None or self._before is None or took < _SHORTEST_S:
            return None
        return max(0.0, now - self._before) / took


def _others_s() -> float | None:
    """Processor time since the machine started, but for that of this process and its children.

    A child counts as ours once it has ended and was waited for. What a host takes from a
    virtual machine is others' work.
    """
    try:
        user, nice, system, _idle, _waiting, *interrupts_and_stolen = map(
            int, _STATISTICS.read_text().split()[1:9]
        )
    except (OSError, ValueError):  # another system, or one that keeps it to itself
        return None
    ticks = user + nice + system + sum(interrupts_and_stolen)
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had on a device, within what this process is allowed; None if not told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in lines:
            free.append(1024 * int(lines["MemAvailable"].split()[0]))
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file():
        allowed = (group / "memory.max").read_text().strip()
        if allowed != "max":
            free.append(int(allowed) - int((group / "memory.current").read_text()))
    return min(free, default=None)
