"""The minimax polynomials of cnncc/codegen/functions.py: prints their coefficients. (Needs mpmath.)

Remez's exchange: a polynomial whose weighted error takes its greatest size, with alternating signs, at one
more point than it has coefficients.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from mpmath import mp

Function = Callable[[Any], Any]
mp.dps = 50


def remez(f: Function, low: Any, high: Any, count: int, weight: Function) -> list[Any]:
    """`count` coefficients, the constant first, with the least maximum of |p - f| * weight."""
    def chebyshev(n: int) -> list[Any]:
        return [(low + high - (high - low) * mp.cos(mp.pi * i / n)) / 2 for i in range(n + 1)]
    points = chebyshev(count)
    while True:
        rows = [[x ** k for k in range(count)] + [(-1) ** i / weight(x)] for i, x in enumerate(points)]
        *p, _ = mp.lu_solve(mp.matrix(rows), mp.matrix([f(x) for x in points]))
        grid = chebyshev(40 * count)
        errors = [(mp.polyval(p[::-1], x) - f(x)) * weight(x) for x in grid]
        runs: list[int] = []            # of each run of equal signs the place of the greatest error
        for i, e in enumerate(errors):
            if runs and mp.sign(errors[runs[-1]]) == mp.sign(e):
                runs[-1] = max(runs[-1], i, key=lambda j: abs(errors[j]))
            else:
                runs.append(i)
        while len(runs) > count + 1:
            runs.pop(min(0, -1, key=lambda end: abs(errors[runs[end]])))
        before, points = points, [grid[i] for i in runs]
        if len(points) <= count or max(map(abs, map(operator.sub, before, points))) < 1e-9:
            return p


def atan(z: Any) -> Any:
    t = mp.sqrt(z)
    return (mp.atan(t) / t - 1) / z if z > 1e-20 else -mp.mpf(1) / 3


def erf(z: Any) -> Any:
    return mp.erf(mp.sqrt(z)) / mp.sqrt(z) if z > 1e-20 else 2 / mp.sqrt(mp.pi)


def erfc(t: Any) -> Any:
    x = 2 / t - 2
    return mp.erfc(x) * mp.exp(x * x)


def exp(r: Any) -> Any:
    return (mp.exp(r) - 1 - r) / r ** 2 if abs(r) > 1e-12 else mp.mpf(1) / 2 + r / 6


def main() -> None:
    one = mp.mpf(1)
    half = mp.log(2) / 2 * 1.0001
    fits = {"f32 exp": remez(exp, -half, half, 5, lambda r: r * r / mp.exp(r) + 1e-9),
            "ATAN": remez(atan, 0 * one, mp.tan(mp.pi / 8) ** 2, 11, lambda z: z + 0.001)}
    for name, near, far, reach in (("f32", 7, 6, 4), ("f64", 12, 13, 6)):
        fits[f"{name} erf"] = remez(erf, 0 * one, one, near, lambda z: one)
        fits[f"{name} erfc"] = remez(erfc, one / (1 + one * reach / 2), one * 2 / 3, far,
                                     lambda t: mp.exp(-(2 / t - 2) ** 2))
    for name, p in fits.items():
        print(name, ", ".join(f"{float(c):.{9 if name[:3] == 'f32' else 17}e}" for c in p))


if __name__ == "__main__":
    main()
