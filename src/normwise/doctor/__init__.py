"""Know what is wrong with the norms of a model."""

from normwise.doctor.diagnosis import doctor
from normwise.doctor.findings import Finding, Findings
from normwise.doctor.probes import Causality, PaddingError, is_causal, padding_error

__all__ = [
    "Causality",
    "Finding",
    "Findings",
    "PaddingError",
    "doctor",
    "is_causal",
    "padding_error",
]
