"""The live view of the day: what the fleet does, what it costs, what was decided; 100 columns and 30 rows."""

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo import words
from demo.nightly import lent_now
from demo.picture import moved
from demo.record import Moment, PoolNow, Record, usd_per_hour, usd_per_million
from demo.stage import Time

WIDTH = 100
_SPARK = 48
_TOLD = 7
_NEUTRAL = frozenset({"Reconciling", "Flipping", "PricingFresh"})
COLOURS = {"chat": "cyan", "code": "magenta", "reasoning": "yellow"}


class Screen:
    """Renders a record; rich calls it for each refresh.

    Args:
        rates: The day's demand of each pool, bin by bin, for the sparkline.
        end: Simulated time at which the day ends.
    """

    def __init__(self, record: Record, clock: Time, rates: dict[str, list[float]], end: float) -> None:
        self._record, self._clock, self._rates, self._end = record, clock, rates, end

    def __rich__(self) -> RenderableType:
        record, now = self._record, min(self._clock.now(), self._end)
        with record.lock:
            pools = [record.pools[name] for name in sorted(record.pools)]
            parts: list[RenderableType] = [self._header(now)]
            parts += [self._pool(one, now) for one in pools]
            parts.append(self._lent())
            parts += [self._decisions(), *self._complaints(pools)]
        return Group(*parts)

    def _header(self, now: float) -> RenderableType:
        start = self._clock.start
        share = max(0.0, (now - start) / (self._end - start))
        line = Table.grid(expand=False)
        line.add_column(width=62, no_wrap=True)
        line.add_column(width=38, justify="right", no_wrap=True)
        day = Text.assemble(
            ("tidefleet", "bold"), "  ", (words.clock(now), "bold reverse"), f" {words.date(now)}  ",
            ("the evening before" if now < start else f"{self._clock.scale:.0f} x real time", "dim"),
        )  # fmt: skip
        done = round(share * 20)
        bar = Text.assemble(
            ("━" * done, "green"), ("━" * (20 - done), "bright_black"), f" {share:4.0%}  ",
            (f"leader {self._record.leader.removeprefix('operator-') or '-'}", "dim"),
        )  # fmt: skip
        line.add_row(day, bar)
        return line

    def _pool(self, pool: PoolNow, now: float) -> RenderableType:
        moments, colour = self._record.moments.get(pool.name, []), COLOURS.get(pool.name, "blue")
        latest = moments[-1] if moments else None
        ready = pool.condition("Ready")
        state = Text("● ready", "green") if pool.is_ready else Text(f"● {ready.reason if ready else 'new'}", "yellow")
        title = Text.assemble((f" {pool.name} ", f"bold reverse {colour}"), "  ", (pool.model, "dim"), "  ", state)
        rows = Table.grid(padding=(0, 1))
        rows.add_column(width=7, style="dim", no_wrap=True)
        rows.add_column(width=14, justify="right", no_wrap=True)
        rows.add_column(width=72, no_wrap=True, overflow="ellipsis")
        if latest is None:
            rows.add_row("", "", Text("the operator has not planned it yet", "dim"))
        else:
            rows.add_row("demand", Text(f"{words.rate(latest.offered)} req/s"), self._sparkline(pool.name, now, colour))
            rows.add_row("fleet", self._count(latest), Text(pool.accelerators, overflow="ellipsis"))
            rows.add_row("cost", *self._cost(pool, moments, latest))
        return Group(Text(), title, rows)

    def _lent(self) -> RenderableType:
        """Which nodes are away from serving."""
        witness = self._record.witness
        told = lent_now(witness) if witness is not None else ""
        return Text.assemble((" nodes ", "bold reverse green"), "  ", told) if told else Text()

    def _sparkline(self, pool: str, now: float, colour: str) -> Text:
        bars = words.sparkline(self._rates.get(pool, []), _SPARK)
        share = (now - self._clock.start) / (self._end - self._clock.start)
        here = min(_SPARK, max(0, round(share * _SPARK)))
        return Text.assemble((bars[:here], colour), ("|", "bold white"), (bars[here:], "bright_black"))

    @staticmethod
    def _count(latest: Moment) -> Text:
        wanted = sum(latest.desired.values())
        missing = latest.replicas < wanted
        return Text.assemble((str(latest.replicas), "yellow" if missing else "bold"), f"/{wanted} ready")

    @staticmethod
    def _cost(pool: PoolNow, moments: list[Moment], latest: Moment) -> tuple[Text, Text]:
        per_million = usd_per_million(moments, latest.at)
        per_hour = usd_per_hour(moments, latest.at)
        text = Text()
        if per_million is None:
            shown = Text("-", "dim")
        else:
            met = pool.target is None or per_million <= pool.target
            shown = Text(f"{words.usd(per_million)}/1M", "bold green" if met else "bold red")
            if pool.target is not None:
                text.append(f"target {words.usd(pool.target)} ")
                text.append("✓" if met else "✗", "green" if met else "red")
        if per_hour is not None:
            text.append(f"   {words.usd(per_hour)}/h")
        if latest.load is not None:
            filled = min(10, round(latest.load * 10))
            text.append("   used ")
            text.append("▰" * filled, "green" if latest.load < 0.95 else "red")
            text.append("▱" * (10 - filled), "bright_black")
            text.append(f" {latest.load:.0%}")
        return shown, text

    def _decisions(self) -> RenderableType:
        rows = Table.grid(padding=(0, 1))
        rows.add_column(width=5, style="dim", no_wrap=True)
        rows.add_column(width=9, no_wrap=True)
        rows.add_column(width=3, justify="right", no_wrap=True)
        rows.add_column(width=75, no_wrap=True, overflow="ellipsis")
        for one in self._record.told[-_TOLD:]:
            by = moved(one.change) or 0
            sign = Text(f"{by:+d}" if by else "±0", "green" if by < 0 else "bold")
            pool = Text(one.pool, COLOURS.get(one.pool, "blue"))
            rows.add_row(words.clock(one.at), pool, sign, Text(one.why, overflow="ellipsis"))
        title, height = "last decisions, replicas gained, and why", _TOLD + 2
        return Panel(rows, title=title, title_align="left", width=WIDTH, border_style="bright_black", height=height)

    def _complaints(self, pools: list[PoolNow]) -> list[RenderableType]:
        lines: list[RenderableType] = [
            Text.assemble(
                ("! ", "yellow"), (f"{pool.name} ", COLOURS.get(pool.name, "blue")),
                f"{one.type}={one.status} ({one.reason}) ", (one.message, "dim"),
                overflow="ellipsis", no_wrap=True,
            )
            for pool in pools
            for one in pool.conditions
            if one.type not in _NEUTRAL and one.status != "True"
        ]  # fmt: skip
        lines += [
            Text.assemble(("! ", "red"), f"{told} ({count} x)", overflow="ellipsis", no_wrap=True)
            for told, count in list(self._record.warnings.items())[-1:]
        ]
        return lines[-3:]


def plain_line(record: Record, clock: Time, end: float) -> str:
    """The same in one line, for a log."""
    now = min(clock.now(), end)
    parts = [words.clock(now)]
    for name in sorted(record.pools):
        pool, latest = record.pools[name], record.latest(name)
        if latest is None:
            parts.append(f"{name}: not planned yet")
            continue
        per_million = usd_per_million(record.moments[name], latest.at)
        cost = f" {words.usd(per_million)}/1M" if per_million is not None else ""
        parts.append(
            f"{name}: {words.rate(latest.offered)} req/s on {pool.accelerators or '-'}"
            f" [{latest.replicas}/{sum(latest.desired.values())}]{cost}"
        )
    if record.witness is not None and (away := lent_now(record.witness)):
        parts.append(f"nodes: {away}")
    return "  |  ".join(parts)
