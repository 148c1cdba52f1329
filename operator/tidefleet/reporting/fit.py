"""What a prompt token takes, from what requests took. Pure."""

from __future__ import annotations

from tidefleet.reporting.values import Speed

_ALIKE = 1e-6
"""Share of the determinant's largest value below which prompts and answers of all requests have one proportion."""


def seconds_per_prompt_token(speed: Speed) -> float:
    """Accelerator-seconds of one uncached prompt token, of requests of one model on one accelerator.

    Where routers told what cached tokens saved, saved / cached. Else least squares without a constant,
    s = a x + b y, over uncached prompt tokens x and output tokens y of each request:

        a = (Sxs Syy - Sys Sxy) / (Sxx Syy - Sxy^2)

    kept between 0 and Ss / Sx, which it would be if answers took no time. Where the two cannot be told apart, since all
    requests have one proportion of them, both count alike: Ss / (Sx + Sy).
    """
    if speed.saved > 0.0 and speed.cached > 0.0:
        return speed.saved / speed.cached
    if speed.x <= 0.0 or speed.s <= 0.0:
        return 0.0
    determinant = speed.xx * speed.yy - speed.xy**2
    if determinant <= _ALIKE * speed.xx * speed.yy:
        return speed.s / (speed.x + speed.y)
    found = (speed.xs * speed.yy - speed.ys * speed.xy) / determinant
    return min(speed.s / speed.x, max(0.0, found))
