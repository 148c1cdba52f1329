"""Planning by slices as Mélange does it: each class's demand is cut, and a slice goes whole to one type of replica.

Sets: classes i of demand, types j of replica.
Parameters: l[i] replicas of a reference type that a class keeps busy; c[j] demand that a replica of a type carries, in
  the same unit; p[j] USD per hour of a replica; m[j] replicas that there are; f slices per class.
Variables: x[i,j] whole, slices of class i on type j, in [0, f];  n[j] whole, replicas of type j, in [0, m[j]].
Minimise   sum_j p[j] n[j]
Subject to sum_j x[i,j] = f                                 for each class
           sum_i (l[i] / f) x[i,j] <= c[j] n[j]             for each type

Source: Griggs et al., arXiv 2404.14527, whose assignment matrix is binary, a row a slice; slices of one class are
alike, so they are counted here. The slices of a type share its replicas: with one type the program asks for the demand
over what a replica carries, rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidefleet.planning.fleet.matrix import Matrix
from tidefleet.planning.fleet.solver import Answer, solve

NEARLY = 1e-9
SECONDS = 5.0
"""Most time for one program."""


@dataclass(frozen=True, slots=True)
class Type:
    """Replicas of one type.

    Attributes:
        carries: c; usd_per_hour: p; most: m.
    """

    carries: float
    usd_per_hour: float
    most: int


def replicas_by_slices(loads: Sequence[float], types: Sequence[Type], *, factor: int = 8) -> tuple[int, ...]:
    """Replicas of each type; all that there are where these cannot carry the demand.

    Args:
        loads: l, of each class.
        types: of replica.
        factor: f.

    Raises:
        ValueError: a load is negative, a type carries nothing, or factor is not positive.
    """
    if min(loads, default=0.0) < 0.0 or factor < 1 or any(one.carries <= 0.0 or one.most < 0 for one in types):
        raise ValueError(
            f"replicas_by_slices: loads {tuple(loads)}, factor {factor} and types {tuple(types)}; expected loads from "
            "0 on, a positive factor and types that carry something, e.g. (4.5,), 8 and (Type(0.9, 40.0, 64),)"
        )
    if len(types) == 1:
        return (min(types[0].most, math.ceil(sum(loads) / types[0].carries - NEARLY)),)
    found = solve(_program(loads, types, factor), seconds=SECONDS)
    if not isinstance(found, Answer):
        return tuple(one.most for one in types)
    return tuple(np.rint(found.values[-len(types) :]).astype(np.int64).tolist())


def _program(loads: Sequence[float], types: Sequence[Type], factor: int) -> Matrix:
    """The program above: the columns of x by class and type, then those of n; the rows of classes, then of types."""
    classes, kinds = len(loads), len(types)
    starts, row, value = [0], list[int](), list[float]()
    for i in range(classes):
        for j in range(kinds):
            row += [i, classes + j]
            value += [1.0, loads[i] / factor]
            starts.append(len(row))
    for j, one in enumerate(types):
        row.append(classes + j)
        value.append(-one.carries)
        starts.append(len(row))
    columns = classes * kinds + kinds
    return Matrix(
        cost=np.array([0.0] * (classes * kinds) + [one.usd_per_hour for one in types]),
        lower=np.zeros(columns),
        upper=np.array([float(factor)] * (classes * kinds) + [float(one.most) for one in types]),
        integer=np.ones(columns, dtype=np.bool_),
        owner=np.zeros(columns, dtype=np.int64),
        row_lower=np.array([float(factor)] * classes + [-np.inf] * kinds),
        row_upper=np.array([float(factor)] * classes + [0.0] * kinds),
        row_owner=np.zeros(classes + kinds, dtype=np.int64),
        start=np.array(starts, dtype=np.int64),
        row=np.array(row, dtype=np.int64),
        value=np.array(value),
    )
