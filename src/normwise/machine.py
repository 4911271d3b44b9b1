"""What a run ran on, for whoever reads its figures later."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from normwise.version import __version__


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
        "normwise": __version__,
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


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


def busy_cores() -> float | None:
    """How many cores others have been using in the last minute; None if the system won't say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


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
