"""Change the norms of a model that exists: find, plan, swap, undo."""

from normwise.surgery.adapting import adapt
from normwise.surgery.calibrating import recalibrate
from normwise.surgery.folding import fold
from normwise.surgery.freezing import freeze, sync, unfreeze
from normwise.surgery.optimizers import update_optimizer
from normwise.surgery.recognition import register
from normwise.surgery.replacing import Change, Plan
from normwise.surgery.sites import Site, find
from normwise.surgery.swapping import plan, receipt, swap, undo

__all__ = [
    "Change",
    "Plan",
    "Site",
    "adapt",
    "find",
    "fold",
    "freeze",
    "plan",
    "recalibrate",
    "receipt",
    "register",
    "swap",
    "sync",
    "unfreeze",
    "undo",
    "update_optimizer",
]
