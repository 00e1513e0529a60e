"""The minimax polynomials of cnncc/codegen/functions.py: prints their coefficients. (Needs mpmath.)

Remez's exchange: a polynomial, or a quotient of two, whose weighted error takes its greatest size, with
alternating signs, at one more point than it has coefficients.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from mpmath import mp

from cnncc.codegen.functions import FORMATS

Function = Callable[[Any], Any]
mp.dps = 50


def remez(f: Function, low: Any, high: Any, count: int, weight: Function, under: int = 0) -> list[Any]:
    """The coefficients, the constants first, with the least maximum of |p / q - f| * weight.

    p has `count` of them, q, whose constant is 1 and not among them, `under`.
    """
    def chebyshev(n: int) -> list[Any]:
        return [(low + high - (high - low) * mp.cos(mp.pi * i / n)) / 2 for i in range(n + 1)]

    def below(x: Any) -> Any:
        return 1 + sum(c * x ** (k + 1) for k, c in enumerate(p[count:]))
    p: list[Any] = []
    points = chebyshev(count + under)
    while True:
        rows = [[x ** k for k in range(count)] + [-f(x) * x ** (k + 1) for k in range(under)]
                + [(-1) ** i * below(x) / weight(x)] for i, x in enumerate(points)]
        *p, _ = mp.lu_solve(mp.matrix(rows), mp.matrix([f(x) for x in points]))
        grid = chebyshev(40 * (count + under))
        errors = [(mp.polyval(p[:count][::-1], x) / below(x) - f(x)) * weight(x) for x in grid]
        runs: list[int] = []            # of each run of equal signs the place of the greatest error
        for i, e in enumerate(errors):
            if runs and mp.sign(errors[runs[-1]]) == mp.sign(e):
                runs[-1] = max(runs[-1], i, key=lambda j: abs(errors[j]))
            else:
                runs.append(i)
        while len(runs) > count + under + 1:
            runs.pop(min(0, -1, key=lambda end: abs(errors[runs[end]])))
        before, points = points, [grid[i] for i in runs]
        if len(points) <= count + under or max(map(abs, map(operator.sub, before, points))) < 1e-9:
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
    reach = FORMATS["f32"].far
    fits["f32 erf"] = remez(erf, 0 * one, one * reach ** 2, 6, lambda z: 1 / erf(z), under=5)
    reach = FORMATS["f64"].far
    fits["f64 erf"] = remez(erf, 0 * one, one, 12, lambda z: one)
    fits["f64 erfc"] = remez(erfc, one / (1 + one * reach / 2), one * 2 / 3, 13,
                             lambda t: mp.exp(-(2 / t - 2) ** 2))
    for name, p in fits.items():
        print(name, ", ".join(f"{float(c):.{9 if name[:3] == 'f32' else 17}e}" for c in p))


if __name__ == "__main__":
    main()
