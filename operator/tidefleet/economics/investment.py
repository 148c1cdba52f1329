"""Whether money laid out comes back: net present value, internal rate of return, payback, what a chip can be sold for.

Cash flows are arrays whose last axis is months: entry m falls at the end of month m, entry 0 today. Money earned is
positive, money paid negative. Further axes are scenarios. Rates are effective yearly shares: 0.1 is 10 % a year, and a
month discounts by (1 + r)^(1/12).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tidefleet.economics.lognormal import checked

Floats = NDArray[np.float64]

MOST_MONTHS = 600
_GRID = 1001
_PARTS = 64
_ROUNDS = 9
"""64^9 parts of a stretch are finer than a float."""
_TOUCH = 1e-13
_ROOTS_TOLD = 4
_CASH = "-1000 today, then 100 a month"


def _flows(cash: ArrayLike) -> Floats:
    """Cash flows as numbers.

    Raises:
        ValueError: there are none, too many, or one is not finite.
    """
    flows = np.asarray(cash, dtype=np.float64)
    if flows.ndim == 0 or not 0 < flows.shape[-1] <= MOST_MONTHS + 1:
        months = 0 if flows.ndim == 0 else flows.shape[-1]
        raise ValueError(f"cash flows have {months} entries; expected 1 to {MOST_MONTHS + 1}, e.g. {_CASH}")
    wrong = flows[~np.isfinite(flows)]
    if wrong.size:
        raise ValueError(f"a cash flow is {wrong[0]:g}; expected finite USD, e.g. {_CASH}")
    return flows


def discount_factors(rate_per_year: float, months: int) -> Floats:
    """What 1 USD is worth today when it comes in 0, 1, ... ``months`` months: (1 + r)^(-m/12).

    Raises:
        ValueError: the rate is not in 0..10, or the months are not in 0..600.
    """
    rate = checked("rate_per_year", rate_per_year, most=10.0, example="0.1")
    checked("months", months, most=MOST_MONTHS, example="36")
    return np.exp(-np.arange(months + 1) / 12.0 * math.log1p(rate))


def net_present_value(cash: ArrayLike, rate_per_year: float) -> Floats:
    """USD that the cash flows are worth today, one for each scenario: sum of c_m (1 + r)^(-m/12).

    Raises:
        ValueError: a flow or the rate cannot be used.
    """
    flows = _flows(cash)
    return np.asarray(flows @ discount_factors(rate_per_year, flows.shape[-1] - 1), dtype=np.float64)


# --- rate of return --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Return:
    """The one rate at which the cash flows are worth nothing today.

    Attributes:
        rate_per_year: effective yearly share; may be negative, above -1.
        note: how sure it is to mean something; empty for flows that turn from paying to earning once.
    """

    rate_per_year: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class NoReturn:
    """No single rate answers; ``rates_per_year`` are those that fit, when there are several."""

    why: str
    rates_per_year: tuple[float, ...] = ()


def sign_changes(cash: ArrayLike) -> int:
    """How often one scenario's flows turn from paying to earning or back; zeros do not count."""
    signs = np.sign(_flows(cash))
    signs = signs[signs != 0]
    return int(np.count_nonzero(signs[1:] != signs[:-1]))


def internal_rate_of_return(cash: ArrayLike) -> Return | NoReturn:
    """The rate at which one scenario's flows are worth nothing today, or why there is none.

    With x = (1 + r)^(-1/12) the value is a polynomial in x. Descartes: it has at most as many positive roots as its
    coefficients change sign, and an even number fewer. Cauchy: all lie between |c_0|/(|c_0| + max |c|) and
    1 + max |c|/|c_n|. That range is searched in equal steps of ln x, the least distances from zero too, where two roots
    may hide between two steps; each is then narrowed down to.

    Raises:
        ValueError: a flow cannot be used, or there is more than one scenario.
    """
    flows = _flows(cash)
    if flows.ndim != 1:
        raise ValueError(f"cash flows have {flows.ndim} axes; expected the months of one scenario, e.g. {_CASH}")
    used = np.flatnonzero(flows)
    if not len(used):
        return NoReturn("no money is paid or earned")
    coefficients = flows[used[0] : used[-1] + 1]
    changes = sign_changes(coefficients)
    if changes == 0:
        return NoReturn(
            "money is only earned, none is laid out" if coefficients[0] > 0 else "money is only paid, none is earned"
        )
    rates = tuple(sorted(math.expm1(-12.0 * u) if u > -50.0 else math.inf for u in _roots(coefficients)))
    match rates:
        case ():
            return NoReturn(f"the cash flow changes sign {changes} times and no rate makes it worth nothing")
        case (rate,) if math.isinf(rate):
            return NoReturn("the money comes back at once: the rate is above any number")
        case (rate,):
            note = (
                "" if changes == 1 else f"the cash flow changes sign {changes} times; this is the only rate that fits"
            )
            return Return(rate, note if coefficients[0] < 0 else f"{note}; earned first, paid later".lstrip("; "))
        case _:
            told = ", ".join(f"{one:.4g}" for one in rates[:_ROOTS_TOLD])
            more = ", ..." if len(rates) > _ROOTS_TOLD else ""
            return NoReturn(f"the cash flow changes sign {changes} times and several rates fit: {told}{more}", rates)


def internal_rates_of_return(cash: ArrayLike) -> tuple[Return | NoReturn, ...]:
    """The rate of each scenario.

    Raises:
        ValueError: a flow cannot be used.
    """
    flows = _flows(cash)
    return tuple(internal_rate_of_return(one) for one in flows.reshape(-1, flows.shape[-1]))


def _roots(coefficients: Floats) -> list[float]:
    """All u = ln x with sum of c_t e^(u t) = 0; the first and the last coefficient are not 0."""
    powers = np.arange(len(coefficients))
    logs = np.log(np.abs(coefficients), out=np.full(len(coefficients), -np.inf), where=coefficients != 0)
    signs = np.sign(coefficients)

    def value(u: ArrayLike) -> Floats:
        """Scaled by its largest term, so that it never overflows; the sign is right."""
        exponents = np.multiply.outer(np.asarray(u, dtype=np.float64), powers) + logs
        return np.asarray((np.exp(exponents - exponents.max(axis=-1, keepdims=True)) * signs).sum(axis=-1))

    most = float(logs.max())
    low = float(logs[0] - np.logaddexp(logs[0], most)) - 1e-9
    high = float(np.logaddexp(0.0, most - logs[-1])) + 1e-9
    if np.count_nonzero(np.diff(signs[signs != 0])) == 1:
        return [_narrowed(value, low, high)]
    grid = np.linspace(low, high, _GRID)
    values = value(grid)
    turns = np.flatnonzero(values[:-1] * values[1:] < 0)
    found = [_narrowed(value, float(grid[i]), float(grid[i + 1])) for i in turns]
    found += [float(one) for one in grid[values == 0]]
    sizes = np.abs(values)
    dips = np.flatnonzero((sizes[1:-1] <= sizes[:-2]) & (sizes[1:-1] <= sizes[2:]) & (sizes[1:-1] > 0)) + 1
    for i in dips:
        if values[i - 1] * values[i] > 0 and values[i + 1] * values[i] > 0:
            found += _both(value, float(grid[i - 1]), float(grid[i + 1]), float(np.sign(values[i])))
    return sorted(found)


def _narrowed(value: Callable[[ArrayLike], Floats], low: float, high: float) -> float:
    """The root between two points of different sign, by cutting the stretch into parts, again and again."""
    sign = float(np.sign(value(low)))
    for _ in range(_ROUNDS):
        points = np.linspace(low, high, _PARTS + 1)
        past = value(points) * sign <= 0
        past[0], past[-1] = False, True
        first = int(np.argmax(past))
        low, high = float(points[first - 1]), float(points[first])
    return 0.5 * (low + high)


def _both(value: Callable[[ArrayLike], Floats], low: float, high: float, sign: float) -> list[float]:
    """Roots between two points of one sign, around the least distance from 0: two, one that only touches, or none."""
    left, right = low, high
    for _ in range(_ROUNDS):
        points = np.linspace(left, right, _PARTS + 1)
        depths = value(points) * sign
        least = int(np.argmin(depths))
        if depths[least] < -_TOUCH:
            at = float(points[least])
            return [_narrowed(value, low, at), _narrowed(value, at, high)]
        left, right = float(points[max(0, least - 1)]), float(points[min(_PARTS, least + 1)])
    return [0.5 * (left + right)] if depths[least] < _TOUCH else []


# --- payback ---------------------------------------------------------------------------------------------------------


def payback_months(cash: ArrayLike, rate_per_year: float = 0.0) -> Floats:
    """Months until what was laid out is back for good, one for each scenario, within a month in proportion.

    0 where nothing is ever laid out; ``nan`` where the sum is below 0 at the end.

    Args:
        rate_per_year: discounts the flows first; 0: plain payback.

    Raises:
        ValueError: a flow or the rate cannot be used.
    """
    flows = _flows(cash)
    months = flows.shape[-1] - 1
    total = np.cumsum(flows * discount_factors(rate_per_year, months), axis=-1)
    noise = 1e-12 * np.abs(flows).sum(axis=-1, keepdims=True)
    below = total < -noise
    last = months - np.argmax(below[..., ::-1], axis=-1)
    after = np.minimum(last + 1, months)
    owed = -np.take_along_axis(total, last[..., None], -1)[..., 0]
    then = np.take_along_axis(total, after[..., None], -1)[..., 0]
    step = np.where(then + owed > 0, then + owed, 1.0)
    answer = np.where(below.any(axis=-1), last + np.clip(owed / step, 0.0, 1.0), 0.0)
    return np.where(below[..., -1], np.nan, answer)


# --- what bought things are worth ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Residual:
    """What a chip can be sold for.

    Attributes:
        loss_per_year: share of its worth that a chip loses in a year, in [0, 1].
        floor_share: of the price it was bought at, below which it never falls; at most 1.
    """

    loss_per_year: float
    floor_share: float = 0.0

    def share(self, age_months: ArrayLike) -> Floats:
        """Worth over the price paid: max(floor, (1 - d)^(age/12)).

        Raises:
            ValueError: a share is not in 0..1, or an age is negative.
        """
        loss = checked("loss_per_year", self.loss_per_year, most=1.0, example="0.35")
        floor = checked("floor_share", self.floor_share, most=1.0, example="0.05")
        ages = np.asarray(age_months, dtype=np.float64)
        if not (np.isfinite(ages) & (ages >= 0)).all():
            raise ValueError("age_months is negative or not a number; expected 0 or more, e.g. 12")
        return np.maximum(floor, np.power(1.0 - loss, ages / 12.0))
