"""What each request comes to, once it is over: tokens, seconds, dollars, objectives, task; as metrics and as a record.

Nothing here runs before a request's pick but one look at its tenant's limit.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from tidefleet.router.asking import LONGEST_ID
from tidefleet.router.billing import Billing
from tidefleet.router.flights import Flight
from tidefleet.router.limiting import Limiter
from tidefleet.router.pool_state import Ended, PoolState
from tidefleet.router.usage import Usage
from tidefleet.router.usage_values import Record, RequestRecord
from tidefleet.routing.hashing import hashed
from tidefleet.routing.metering import FETCH_JOULES_PER_BYTE, Metered, metered
from tidefleet.routing.rates import TIERS
from tidefleet.routing.recomputed import recomputed
from tidefleet.routing.request import Ask

OK, ERROR, CUT, REFUSED = "ok", "error", "cut", "refused"
OUTCOMES = ("success", "failure")
MOST_TASKS = 65_536
"""Tasks whose outcome is remembered, so that it counts once."""


class Books:
    """One event loop owns it.

    Args:
        secret: names of tasks are hashed with.
        limiter: of tenants.
        record: takes each record; None writes none.
        wall: Unix seconds.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        limiter: Limiter | None = None,
        record: Callable[[Record], None] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._secret, self._record, self._wall = secret, record, wall
        self.limiter = limiter or Limiter()
        self._told: OrderedDict[int, None] = OrderedDict()

    def waited(self, flight: Flight, now: float) -> None:
        """A request that waited goes to an endpoint: only from here on it counts for its tenant."""
        ask = flight.chosen.ask
        billing = flight.pool.billings.get(ask.wclass)
        if billing is not None and billing.limit is not None:
            flight.reserved = self.limiter.counts(billing, ask, now)

    def refused(self, state: PoolState, ask: Ask, began: float, now: float) -> None:
        """A request goes nowhere."""
        billing = state.billings.get(ask.wclass)
        if self._record is not None and billing is not None:
            self._record(
                RequestRecord(
                    end=self._wall(),
                    namespace=billing.namespace,
                    pool=billing.pool,
                    workload_class=billing.wclass,
                    model=_model(state, ask),
                    accelerator="",
                    capacity_type="",
                    team=billing.team,
                    feature=billing.feature,
                    tenant=_digits(ask.tenant),
                    result=REFUSED,
                    seconds=max(0.0, now - began),
                )
            )

    def recomputed(self, flight: Flight, usage: Usage) -> tuple[int, str]:
        """Tokens that were computed again and why; to be asked before a request's account ends."""
        chosen, table = flight.chosen, flight.pool.table
        if usage.cached_tokens is None or chosen.split is not None or flight.first_at is None:
            return 0, ""
        return recomputed(
            chosen,
            table,
            table.sessions.home(chosen.ask.session),
            address=flight.address,
            cached_tokens=usage.cached_tokens,
            prompt_tokens=usage.input_tokens or chosen.ask.tokens,
        )

    def settle(self, flight: Flight, usage: Usage, done: Ended, now: float) -> None:
        """A request is over and its account has ended: fill in what it came to."""
        state, ask = flight.pool, flight.chosen.ask
        billing = state.billings.get(ask.wclass) or state.billings[""]
        result = _result(flight)
        prompt, cached, output = _tokens(flight, usage, result)
        bill = _bill(flight, prompt - cached, cached, output, now)
        done.usd = None if bill is None else bill.usd
        done.slo = _slo(flight, result, output, now)
        if bill is not None and bill.avoided_joules and cached:
            done.avoided_joules = _avoided(flight, bill.avoided_joules, cached)
        tokens = float(prompt + output)
        if flight.reserved is not None:
            self.limiter.ends(billing, ask.tenant, flight.reserved, now, tokens=tokens, usd=done.usd)
        task, outcome = self._task(flight, billing)
        if outcome is not None and self._is_first(task):
            done.outcome = outcome
        if self._record is None:
            return
        account = flight.account
        endpoint = account.endpoint if account is not None else None
        self._record(
            RequestRecord(
                end=self._wall(),
                namespace=billing.namespace,
                pool=billing.pool,
                workload_class=billing.wclass,
                model=_model(state, ask),
                accelerator=endpoint.accelerator if endpoint is not None else "",
                capacity_type=endpoint.capacity_type if endpoint is not None else "",
                team=billing.team,
                feature=billing.feature,
                tenant=_digits(ask.tenant),
                task=_digits(task),
                outcome=outcome,
                result=result,
                input_tokens=prompt - cached,
                cached_tokens=cached,
                reasoning_tokens=usage.reasoning_tokens,
                output_tokens=output,
                recomputed_tokens=done.recomputed_tokens,
                recomputed_cause=done.recomputed_cause or None,
                saved_seconds=bill.saved_seconds if bill is not None else 0.0,
                ttft_seconds=flight.first_at - flight.came
                if flight.first_at is not None and _streams(flight)
                else None,
                tpot_seconds=_tpot(flight, output),
                seconds=max(0.0, now - flight.came),
                accelerator_seconds=bill.accelerator_seconds if bill is not None else 0.0,
                usd=done.usd,
                revenue_usd=_revenue(billing, ask, prompt, cached, output),
                slo=done.slo or None,
            )
        )

    def _task(self, flight: Flight, billing: Billing) -> tuple[int | None, str | None]:
        headers = flight.headers or {}
        name, told = headers.get(billing.task_header, ""), headers.get(billing.outcome_header, "")
        task = None
        if name and len(name) <= LONGEST_ID:
            tenant = flight.chosen.ask.tenant
            task = hashed(f"{billing.namespace}\x00{tenant or ''}\x00{name}", self._secret)
        outcome = told.strip().lower() if len(told) <= LONGEST_ID else ""
        return task, outcome if outcome in OUTCOMES else None

    def _is_first(self, task: int | None) -> bool:
        """Whether a task's outcome was not told before; one without a name counts each time."""
        if task is None:
            return True
        if task in self._told:
            self._told.move_to_end(task)
            return False
        self._told[task] = None
        if len(self._told) > MOST_TASKS:
            self._told.popitem(last=False)
        return True


def _digits(number: int | None) -> str | None:
    return None if number is None else f"{number:016x}"


def _model(state: PoolState, ask: Ask) -> str:
    """A name that the pool serves, never what a client made up."""
    if ask.model in state.models:
        return ask.model
    spec = state.served.spec
    return (spec.spec.model.name or spec.name) if spec is not None else state.served.name


def _result(flight: Flight) -> str:
    if flight.status is None:
        return CUT
    if flight.status >= 400:
        return ERROR
    return CUT if flight.last_at is not None and not flight.ended else OK


def _tokens(flight: Flight, usage: Usage, result: str) -> tuple[int, int, int]:
    """Prompt, of it cached, and output tokens; what an engine did not tell is as it was expected.

    A request that failed took nothing; one that was cut before its first token has its prompt counted all the same. Of
    one whose body was not seen (a question for models, a gateway that sends headers only) only what is told counts.
    """
    if result == ERROR or (result == CUT and flight.account is None):
        return 0, 0, 0
    ask, chosen = flight.chosen.ask, flight.chosen
    prompt = usage.input_tokens or (ask.tokens if flight.body is not None else 0)
    if chosen.split is not None:
        terms = chosen.terms
        cached = terms.cached[terms.addresses.index(chosen.split.address)]
    elif usage.cached_tokens is not None:
        cached = usage.cached_tokens
    else:
        work = chosen.work_at(flight.address)
        cached = work.cached_tokens if work is not None else 0
    return prompt, int(min(max(0, cached), max(0, prompt - 1))), usage.output


def _bill(flight: Flight, uncached: int, cached: int, output: int, now: float) -> Metered | None:
    """What a request took; None where the pool did not know the endpoint that answered."""
    account, table, split = flight.account, flight.pool.table, flight.chosen.split
    if account is None:
        return None
    prefiller = table.endpoint(split.address) if split is not None and split.address in table else None
    prefill_factor, step_factor = table.factors(account.address)
    return metered(
        account.endpoint,
        uncached_tokens=float(uncached),
        cached_tokens=float(cached),
        output_tokens=float(output),
        share=account.share,
        prefill_factor=prefill_factor if prefiller is None else table.factors(prefiller.address)[0],
        step_factor=step_factor,
        # it began when what was there before it was done
        prefilled_seconds=now - (account.due - account.work.seconds) if flight.first_at is None else float("inf"),
        prefiller=prefiller,
    )


def _streams(flight: Flight) -> bool:
    """Whether its tokens are seen as they come."""
    return flight.body is None or flight.body.stream


def _tpot(flight: Flight, output: int) -> float | None:
    if flight.first_at is None or flight.last_at is None or output < 2 or not _streams(flight):
        return None
    return (flight.last_at - flight.first_at) / (output - 1)


def _slo(flight: Flight, result: str, output: int, now: float) -> str:
    """``met`` or ``missed``; empty where nothing is promised, or where it was cut before it could tell.

    An answer that comes whole has the time of its first token and of all others together, if both are promised.
    """
    ask = flight.chosen.ask
    ttft, tpot = ask.ttft_objective_seconds, ask.tpot_objective_seconds
    if ttft is None and tpot is None:
        return ""
    if result == ERROR:
        return "missed"
    if not _streams(flight):
        if ttft is None or tpot is None or result != OK:
            return ""
        return "met" if now - flight.came <= ttft + tpot * max(0, output - 1) else "missed"
    if ttft is not None:
        took = (now if flight.first_at is None else flight.first_at) - flight.came
        if took > ttft:
            return "missed"
        if flight.first_at is None:
            return ""
    pace = _tpot(flight, output)
    if tpot is not None and pace is not None and pace > tpot:
        return "missed"
    return "met" if result == OK else ""


def _revenue(billing: Billing, ask: Ask, prompt: int, cached: int, output: int) -> float | None:
    if billing.revenue is None:
        return None
    writes = ask.cache_ttl_seconds is not None
    return billing.revenue.request_usd(prompt, cached, output, writes_cache=writes, batch=ask.is_deferrable)


def _avoided(flight: Flight, joules: float, cached: int) -> tuple[tuple[str, float], ...]:
    """Joules of a hit's prefill by the tier that its tokens were thought to be in, less those of the fetch."""
    terms, account = flight.chosen.terms, flight.account
    held = terms.held_at(terms.addresses.index(flight.address)) if flight.address in terms.addresses else ()
    kappa = account.endpoint.rates.kv_bytes_per_token if account is not None else 0.0
    left, found = cached, []
    for tier in range(len(held) - 1, 0, -1):
        tokens = min(left, held[tier])
        if tokens:
            left -= tokens
            fetch = tokens * kappa * FETCH_JOULES_PER_BYTE
            found.append((TIERS[tier], max(0.0, joules * tokens / cached - fetch)))
    found.append((TIERS[0], joules * left / cached))
    return tuple(found)
