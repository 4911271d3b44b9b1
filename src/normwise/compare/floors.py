"""Floors under learning curves: a trial that falls below one cannot end near the others."""

from collections.abc import Mapping, Sequence

import numpy as np

from normwise.compare.trial import Outcome

FAR = 6.0  # robust standard deviations below the middle of what earlier trials scored
ENOUGH = 4  # fewer finished trials say too little about gains and scores


def floors(
    earlier: Sequence[Outcome], candidate: str, higher_is_better: bool
) -> Mapping[int, float]:
    """By epoch: with a score worse than this, a candidate's trial is not worth finishing.

        floor(e) = median(final) - 6 * spread - (2 * max(gain(e)) - median(gain(e)))

    gain(e) is what a trial gained between epoch e and its end (all signs turned where lower
    is better); the bracket is the largest gain ever made, and as much again as it exceeds
    the usual one. spread is 1.4826 times the median absolute deviation of the final scores,
    so it holds what candidates differ in as well as noise. A slow starter is safe: its own
    earlier trials are among those whose gains are known. So is whoever has been doing well,
    however late it blooms this time: the candidates in the upper half have no floor.

    earlier  trials of earlier seeds, the candidates' own among them; those without a score
             do not count. With fewer than 4, or without any spread, there is no floor.
    """
    sign = 1.0 if higher_is_better else -1.0
    finished = [o for o in earlier if o.score is not None and o.curve]
    if len(finished) < ENOUGH:
        return {}
    curves = [
        {int(entry["epoch"]): sign * entry["score"] for entry in o.curve if "score" in entry}
        for o in finished
    ]
    finals = np.array([sign * o.score for o in finished if o.score is not None])
    middle = float(np.median(finals))
    own = [score for o, score in zip(finished, finals, strict=True) if o.candidate == candidate]
    if own and np.median(own) >= middle:
        return {}
    distances = np.abs(finals - middle)
    # Where more than half end at the very same score, the others still show a spread.
    spread = max(1.4826 * float(np.median(distances)), 1.2533 * float(distances.mean()))
    if spread == 0:
        return {}
    shared = sorted(set(curves[0]).intersection(*curves))
    found = {}
    for epoch in shared[:-1]:
        gains = finals - np.array([curve[epoch] for curve in curves])
        most = 2 * float(gains.max()) - float(np.median(gains))
        found[epoch] = sign * (middle - FAR * spread - most)
    return found
