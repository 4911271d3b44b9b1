"""The polynomial of `beyond` in csrc/activations.h: erfc(t) exp(t²) in u = (t - 3.5) / (t + 3.5).

    python tools/fit_erfc.py

Least squares on Chebyshev points, weighted anew until the largest relative error is as
small as a polynomial of this degree has it. Prints the coefficients, the constant first.
"""

import numpy as np
from scipy.special import erfcx

CENTRE, DEGREE, LARGEST = 3.5, 9, 10.0


def main() -> None:
    """Fit, and say how good the fit is."""
    end = (LARGEST - CENTRE) / (LARGEST + CENTRE)
    points = np.cos((np.arange(400) + 0.5) / 400 * np.pi)
    u = (points + 1) / 2 * (end + 1) - 1
    exact = erfcx(CENTRE * (1 + u) / (1 - u))
    powers = np.vander(u, DEGREE + 1, increasing=True)
    weight = 1 / exact
    for _ in range(60):
        coefficients, *_ = np.linalg.lstsq(powers * weight[:, None], exact * weight, rcond=None)
        error = np.abs(powers @ coefficients - exact) / exact
        weight = weight * (0.2 + error / error.max()) ** 0.5
        weight = weight / (weight * exact).max()
    print("\n".join(f"{np.float32(c):.9g}" for c in coefficients))
    print(f"largest relative error {error.max():.1e}")


if __name__ == "__main__":
    main()
