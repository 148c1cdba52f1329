"""The admin server: who offers which load, who has which fault, and what every engine is doing.

Loopback only, and JSON throughout: a refused request answers ``{"error": "<field, value, expectation>"}``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from tidefleet.emulator.faults import FaultKind, parse_fault
from tidefleet.emulator.fleet import Fleet, PoolState
from tidefleet.emulator.load import parse_load
from tidefleet.emulator.server import Sites

MOST_BODY_BYTES = 16 * 1024 * 1024


class Admin:
    """Handlers of the admin server."""

    def __init__(self, fleet: Fleet, sites: Sites) -> None:
        self._fleet, self._sites = fleet, sites

    def application(self) -> web.Application:
        """The application to run on a loopback address."""
        app = web.Application(client_max_size=MOST_BODY_BYTES, middlewares=[_errors_as_json])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/engines", self._engines),
                web.get("/load", self._loads),
                web.put("/load/{namespace}/{pool}", self._put_load),
                web.delete("/load/{namespace}/{pool}", self._delete_load),
                web.get("/faults", self._faults),
                web.put("/faults/{namespace}/{name}", self._put_fault),
                web.delete("/faults/{namespace}/{name}", self._delete_fault),
            ]
        )
        return app

    async def _healthz(self, _request: web.Request) -> web.Response:
        problems = [*self._fleet.problems.values(), *self._sites.problems.values()]
        return web.json_response(
            {"engines": len(self._fleet.slots), "listening": len(self._sites.addresses), "problems": problems}
        )

    async def _engines(self, _request: web.Request) -> web.Response:
        self._fleet.tick()
        listening = set(self._sites.addresses)
        found = []
        for slot in self._fleet.slots.values():
            facts, engine = slot.facts, slot.engine
            state: dict[str, object] = {
                "namespace": slot.pod.namespace,
                "pod": slot.pod.name,
                "pool": slot.pool[1],
                "address": f"{slot.address[0]}:{slot.address[1]}",
                "listening": slot.address in listening,
                "routable": slot.is_routable,
                "model": facts.served_name,
                "accelerator": facts.replica.accelerator.name,
                "tensorParallel": facts.replica.chips,
                "starts": slot.starts,
                "faults": [fault.kind.value for fault in slot.faults],
                "crashed": engine is None,
            }
            if engine is not None:
                state |= {
                    "running": engine.running,
                    "waiting": engine.waiting,
                    "finished": engine.finished,
                    "kv_usage": engine.kv_usage,
                    "tpot_seconds": engine.tpot_seconds,
                    "sleeping": engine.sleep_level is not None,
                }
            found.append(state)
        return web.json_response({"engines": found, "problems": self._fleet.problems})

    async def _loads(self, _request: web.Request) -> web.Response:
        fleet = self._fleet
        fleet.tick()
        now = fleet.clock.now()
        pools = [
            {"namespace": namespace, "pool": pool, **_outcome(state, now)}
            for (namespace, pool), state in sorted(fleet.pools.items())
            if state.load is not None or state.offered
        ]
        return web.json_response({"now": now, "pools": pools})

    async def _put_load(self, request: web.Request) -> web.Response:
        load = parse_load(await _json(request))
        self._fleet.set_load(request.match_info["namespace"], request.match_info["pool"], load)
        return web.json_response({"requests_per_second": load.rate(self._fleet.clock.now())})

    async def _delete_load(self, request: web.Request) -> web.Response:
        if not self._fleet.drop_load(request.match_info["namespace"], request.match_info["pool"]):
            raise web.HTTPNotFound(reason="no load is offered to this pool")
        return web.json_response({})

    async def _faults(self, _request: web.Request) -> web.Response:
        return web.json_response({"faults": self._fleet.faults.listed()})

    async def _put_fault(self, request: web.Request) -> web.Response:
        fault = parse_fault(await _json(request))
        names = request.match_info
        touched = self._fleet.set_fault(names["namespace"], names["name"], fault)
        if fault.kind is FaultKind.COUNTER_RESET and not touched:
            raise web.HTTPNotFound(reason="no pod and no pool of this name has an engine")
        await self._sites.sync()
        return web.json_response({"pods": touched})

    async def _delete_fault(self, request: web.Request) -> web.Response:
        if not self._fleet.drop_fault(request.match_info["namespace"], request.match_info["name"]):
            raise web.HTTPNotFound(reason="no fault is set under this name")
        await self._sites.sync()
        return web.json_response({})


def _outcome(state: PoolState, now: float) -> dict[str, object]:
    engines = [slot.engine for slot in state.slots if slot.engine is not None]
    return {
        "requests_per_second": state.load.rate(now) if state.load is not None else 0.0,
        "offered_requests": state.offered,
        "finished_requests": state.finished,
        "running_requests": sum(engine.in_flight - _waiting(engine.in_flight, engine.waiting) for engine in engines),
        "waiting_requests": sum(_waiting(engine.in_flight, engine.waiting) for engine in engines),
        "pending_requests": state.pending,
        "lost_requests": state.lost,
        "interrupted_requests": state.interrupted,
        "interrupted_by_pod": dict(state.cut),
        "ready_pods": sum(slot.is_routable for slot in state.slots),
    }


def _waiting(in_flight: float, waiting: float) -> float:
    return min(in_flight, waiting)


async def _json(request: web.Request) -> object:
    try:
        return json.loads(await request.read())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is not JSON: {error}") from None


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    except web.HTTPException as error:
        return web.json_response({"error": error.reason}, status=error.status)
