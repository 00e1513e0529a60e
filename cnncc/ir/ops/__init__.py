"""The ops: one entry says what an op computes; shapes, reference, loops, cost and code follow from it.

Attributes are normalised by the frontend: `strides`, `dilations`, `begin`, `end` (padding) and `kernel` are
tuples with one number per spatial dimension; axes are not negative.
"""

from cnncc.ir.op import NAMES, OPS, Shape
from cnncc.ir.ops import (
    composed,
    elementwise,
    folds,
    formulas,
    indexing,
    losses,
    movement,
    quantized,
    recurrent,
    training,
    updates,
)

__all__ = ["NAMES", "OPS", "Shape", "composed", "elementwise", "folds", "formulas", "indexing", "losses",
           "movement", "quantized", "recurrent", "training", "updates"]
