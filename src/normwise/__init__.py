"""Find the right normalization layer for a network, on its own data, and run it fast."""

from normwise import data, functional
from normwise.catalogue import catalogue, make
from normwise.compare import (
    Comparison,
    Study,
    Task,
    Windows,
    compare,
    lightning_task,
    trainer_task,
)
from normwise.doctor import Finding, doctor, is_causal, padding_error
from normwise.errors import NormError
from normwise.layers import *
from normwise.running import Running
from normwise.surgery import (
    adapt,
    find,
    fold,
    freeze,
    plan,
    recalibrate,
    receipt,
    register,
    swap,
    sync,
    undo,
    unfreeze,
    update_optimizer,
)
from normwise.version import __version__
