"""Quotas in whole replicas: further rows of the fleet's program that no plan breaks and that prices can use.

A quota of 37 chips holds four replicas of 8 chips, not 4.6. For a row sum a_j n_j <= b of whole n and any d, the row
sum floor(a_j / d) n_j <= floor(b / d) holds as well (Chvatal and Gomory's rounding; V. Chvatal, "Edmonds polytopes and
a hierarchy of combinatorial problems", 1973). The linear relaxation and the mixtures of whole plans break it, so that a
price of such a row says what the price of the quota alone cannot.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tidefleet.planning.fleet.matrix import Floats, Ints
from tidefleet.planning.fleet.milp import FleetMilp


def rounded(milp: FleetMilp) -> FleetMilp:
    """The same MILP with a row more for each quota and each size of replica that does not divide it."""
    matrix = milp.matrix
    column = matrix.column
    rows: list[Ints] = []
    columns: list[Ints] = []
    values: list[Floats] = []
    upper: list[float] = []
    for one in milp.shared:
        entry = np.flatnonzero(matrix.row == one.row)
        chips, limit = matrix.value[entry], matrix.row_upper[one.row]
        if one.kind != "quota" or not len(entry) or not matrix.integer[column[entry]].all():
            continue
        if (chips != np.rint(chips)).any() or (chips < 1).any() or chips @ matrix.upper[column[entry]] <= limit:
            continue
        for size in np.unique(chips[chips > 1]):
            if (limit + 1e-9) % size < 1e-6 or limit < 0:
                continue
            some = chips >= size
            rows.append(np.full(int(some.sum()), len(upper)))
            columns.append(column[entry[some]])
            values.append(np.floor(chips[some] / size))
            upper.append(float(np.floor(limit / size + 1e-9)))
    if not upper:
        return milp
    more = matrix.with_more_rows(np.concatenate(rows), np.concatenate(columns), np.concatenate(values), np.array(upper))
    return replace(milp, matrix=more)
