"""Change the norms of a model that exists: find, plan, swap."""

from normwise.surgery.recognition import register
from normwise.surgery.sites import Site, find
from normwise.surgery.swapping import Change, Plan, plan, receipt, swap

__all__ = ["Change", "Plan", "Site", "find", "plan", "receipt", "register", "swap"]
