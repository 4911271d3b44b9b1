"""What a run ran on, for whoever reads its figures later."""

import os
import platform
from pathlib import Path
from typing import Any

import torch


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


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
