"""One operator process: everything is put together here, started in order, and ended in order."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tidefleet import __version__, catalogue
from tidefleet.api import InferencePool
from tidefleet.api.flipping import QueueKind
from tidefleet.catalogue.aiconfigurator import kernel_tables
from tidefleet.cluster.clock import Clock
from tidefleet.cluster.connection import connect
from tidefleet.cluster.credentials import credentials
from tidefleet.cluster.events import EventSink
from tidefleet.cluster.inventory import Inventory
from tidefleet.cluster.kinds import CONFIG_MAP, INFERENCE_POOL, Kind
from tidefleet.cluster.lease import Deposed as LeaseDeposed
from tidefleet.cluster.lease import Leadership, unique_identity
from tidefleet.cluster.objects import ApiFailed, KindAbsent, Objects
from tidefleet.cluster.transport import Unreachable
from tidefleet.cluster.writes import Outcome, Write, Writer
from tidefleet.controller import catalogue_sync, marks
from tidefleet.controller.accounting import Accountant
from tidefleet.controller.act import Actor, Deposed
from tidefleet.controller.adoption import list_autoscalers
from tidefleet.controller.catalogue_sync import CatalogueSync
from tidefleet.controller.collector import Collector
from tidefleet.controller.config import OperatorConfiguration
from tidefleet.controller.disruption import list_budgets
from tidefleet.controller.flips.canary import Canaries
from tidefleet.controller.flips.device_health import read_ailing
from tidefleet.controller.flips.flips import Flips
from tidefleet.controller.flips.holders import read_devices
from tidefleet.controller.flips.lenders import pause_of
from tidefleet.controller.flips.sweep import stray_cohorts
from tidefleet.controller.gateway import GatewayPools, list_gateway_pools
from tidefleet.controller.http import HttpEndpoints
from tidefleet.controller.lifecycle import Lifecycle
from tidefleet.controller.loop import FleetLoop, known_epochs
from tidefleet.controller.observe import Observer
from tidefleet.controller.opencost import Beside, model_of, read_opencost
from tidefleet.controller.price_source import PriceSource
from tidefleet.controller.remember import Remembrance
from tidefleet.controller.store import KINDS, Store
from tidefleet.controller.training.kueue import KueueTrainer
from tidefleet.controller.training.lending import Trainer
from tidefleet.controller.training.suspend import SuspendTrainer
from tidefleet.controller.watch import Watch
from tidefleet.planning.from_api import shipped_prices
from tidefleet.planning.options import EstimateMemo
from tidefleet.planning.prices import known_prices, node_chips
from tidefleet.telemetry import Telemetry

log = logging.getLogger(__name__)

RELIST_SECONDS = 300.0
"""Real time between fresh lists of the custom resources, for deletions that a watch missed."""

LOOK_AROUND_SECONDS = 30.0
SYNC_SECONDS = 90.0
STUCK_PERIODS = 8.0
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class CannotStart(Exception):
    """The operator cannot run; the message says what to mend."""


@dataclass(slots=True)
class OperatorProcess:
    """An operator from start to end."""

    settings: OperatorConfiguration
    clock: Clock
    kubeconfig: str | None = None
    identity: str = field(default_factory=unique_identity)
    stop: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)
    telemetry: Telemetry = field(default_factory=Telemetry)
    before_write: Callable[[Write], None] | None = None
    after_write: Callable[[Write, Outcome], None] | None = None
    _loop: FleetLoop | None = None
    _watch: Watch | None = None
    _inventory: Inventory | None = None
    _collector: Collector | None = None
    _leads: bool = False
    _leads_since: float = 0.0

    def run(self) -> int:
        """Serve probes and metrics, wait for leadership, lead until stopped.

        Returns:
            The exit status: 0 when told to stop, 1 when leadership was lost.

        Raises:
            CannotStart: CRDs are missing, the API server cannot be used, or the port is taken.
            NoConnection: there are no credentials.
        """
        api = connect(self.kubeconfig)
        objects = Objects(api)
        self.telemetry.set("build_info", 1, version=__version__)
        self.telemetry.set("leader", 0)
        try:
            http = HttpEndpoints(
                self.settings.metrics.bind_address,
                self.settings.metrics.port,
                telemetry=self.telemetry,
                healthy=self._unhealthy,
                ready=self._unready,
            )
        except OSError as error:
            place = f"{self.settings.metrics.bind_address}:{self.settings.metrics.port}"
            raise CannotStart(f"metrics.port: cannot listen on {place}: {error.strerror}") from error
        log.info("serving", extra={"port": http.port, "identity": self.identity})
        lease = Leadership(
            api,
            self.settings.leader_election.namespace or _own_namespace(),
            self.settings.leader_election.name,
            self.identity,
            lease_seconds=self.settings.leader_election.lease_seconds,
            renew_seconds=self.settings.leader_election.lease_seconds * 2 / 3,
            retry_seconds=max(0.5, self.settings.leader_election.lease_seconds / 7.5),
        )
        try:
            self._check_crds(objects)
            if not lease.acquire(self.stop):
                return 0
            return self._lead(api, objects, lease)
        finally:
            lease.release()
            http.close()

    def _lead(self, api: object, objects: Objects, lease: Leadership) -> int:
        wake = self.wake
        store = Store(on_change=lambda *_: wake.set())
        inventory = Inventory(
            api,  # type: ignore[arg-type, unused-ignore]
            self.settings.namespaces or None,
            self.settings.node_selector or None,
            on_change=self._changed,
        )
        self._inventory = inventory
        shipped = catalogue.accelerator_types().values()
        observer = Observer(
            store,
            inventory,
            catalogue.models(),
            shipped_prices(shipped),
            known_prices(shipped),
            whole_racks=self.settings.whole_racks,
        )
        prices = PriceSource(Path(self.settings.price_file) if self.settings.price_file else None, node_chips(shipped))
        collector = Collector(
            observer.targets,
            clock=self.clock,
            period_seconds=max(self.settings.period_seconds, self.clock.scale),
            telemetry=self.telemetry,
            prometheus=self.settings.prometheus,
            router=self.settings.router,
            on_round=wake.set,
        )
        self._collector = observer.collector = collector
        events = EventSink(api)  # type: ignore[arg-type, unused-ignore]
        watch = self._watch = Watch(store, lambda: credentials(api), self.settings.namespaces)  # type: ignore[arg-type, unused-ignore]
        try:
            watch.start()
            inventory.start()
            self._relist(store, objects)
            deadline = time.monotonic() + SYNC_SECONDS
            while not inventory.wait_synced(1.0):
                if self.stop.is_set() or lease.lost.is_set():
                    return 0 if self.stop.is_set() else 1
                if time.monotonic() > deadline:  # holding the Lease without leading helps nobody
                    raise CannotStart(f"the fleet cannot be watched: {inventory.errors() or 'no answer'}")
            self._look_around(observer, objects)
            observer.prices = prices.read(observer.chips_per_node())
            epoch = lease.raise_epoch(known_epochs(observer))
            writer = Writer(api, lease, marks.FIELD_MANAGER)  # type: ignore[arg-type, unused-ignore]
            writer.before_write, writer.after_write = self.before_write, self.after_write
            catalogue_writer = Writer(api, lease, catalogue_sync.MANAGER)  # type: ignore[arg-type, unused-ignore]
            actor = Actor(writer, objects, inventory, store, events, self.telemetry, epoch, hurry=wake.set)
            path = Path(self.settings.catalogue_file) if self.settings.catalogue_file else None
            sync = CatalogueSync(catalogue_writer, store, events, catalogue.accelerator_manifests(path))
            loop = self._loop = FleetLoop(
                observer,
                actor,
                Lifecycle(actor, GatewayPools(actor, self.settings.gateway_picker)),
                Accountant(self.telemetry, collector),
                sync,
                self.telemetry,
                self.clock,
                self.settings,
                wake=wake,
                remembrance=Remembrance(actor),
                memo=EstimateMemo(other=kernel_tables()),
            )
            if self.settings.flipping.enabled:
                loop.flips = self._flips(actor, observer, loop, objects)
            self._leads, self._leads_since = True, time.monotonic()
            self.telemetry.set("leader", 1)
            log.info("leading", extra={"epoch": epoch, "identity": self.identity})
            collector.start()
            chores = threading.Thread(
                target=self._chores, args=(store, objects, observer, lease, prices), name="chores", daemon=True
            )
            chores.start()
            loop.run(self.stop, may_go_on=lambda: not lease.lost.is_set() and watch.failed is None)
            if self.stop.is_set():
                if not lease.lost.is_set():
                    loop.remember()
                return 0
            log.error("stopped leading", extra={"why": lease.lost_because or str(watch.failed)})
            return 1
        except (Deposed, LeaseDeposed) as error:
            log.error("deposed", extra={"why": str(error)})
            return 1
        finally:
            self._leads = False
            self.telemetry.set("leader", 0)
            self.stop.set()
            if collector.is_alive():
                collector.stop()
            watch.stop()
            inventory.stop()
            events.close()

    def _chores(
        self,
        store: Store,
        objects: Objects,
        observer: Observer,
        lease: Leadership,
        prices: PriceSource,
    ) -> None:
        """What runs beside the loop on real time: fresh lists, autoscalers, budgets, prices, ages of watches."""
        next_relist = time.monotonic() + RELIST_SECONDS
        next_look = time.monotonic() + LOOK_AROUND_SECONDS
        while not self.stop.wait(1.0) and not lease.lost.is_set():
            assert self._inventory is not None  # noqa: S101 - set before this thread starts
            for resource, at in self._inventory.last_sync().items():
                self.telemetry.set("watch_last_sync_timestamp_seconds", at, resource=resource)
            now = time.monotonic()
            if now >= next_look:
                self._look_around(observer, objects)
                observer.prices = prices.read(observer.chips_per_node())
                if self._loop is not None:
                    self._loop.accountant.beside = self._look_at_opencost(store, observer)
                    if self._loop.flips is not None:
                        self._look_at_flips(self._loop.flips, objects)
                next_look = now + LOOK_AROUND_SECONDS
            if now >= next_relist:
                try:
                    self._relist(store, objects)
                except CannotStart as error:
                    log.warning("a fresh list failed", extra={"why": str(error)})
                next_relist = now + RELIST_SECONDS

    def end(self) -> None:
        """Stop as soon as the present pass is over."""
        self.stop.set()
        self.wake.set()

    def _changed(self, _plural: str) -> None:
        """While a flip waits for pods or a node, as for a checkpoint or the last pod to go, no period is waited for."""
        if self._loop is not None and self._loop.flips is not None and self._loop.flips.is_moving:
            self.wake.set()

    def _look_around(self, observer: Observer, objects: Objects) -> None:
        """Who else scales workloads or guards pods; while autoscalers cannot be listed, adopted workloads are held."""
        observer.autoscalers = list_autoscalers(objects, self.settings.namespaces)
        observer.budgets = list_budgets(objects, self.settings.namespaces)
        observer.gateway_pools = list_gateway_pools(objects, self.settings.namespaces)

    def _flips(self, actor: Actor, observer: Observer, loop: FleetLoop, objects: Objects) -> Flips:
        namespaces = self.settings.namespaces or None
        trainers: dict[QueueKind, Trainer] = {
            QueueKind.KUEUE: KueueTrainer(objects, namespaces=namespaces),
            QueueKind.SUSPEND: SuspendTrainer(objects, namespaces=namespaces),
        }
        canaries = Canaries(on_answer=self.wake.set)
        flips = Flips(actor, observer, self.settings, trainers, loop.known_memory, self.clock, canaries)
        self._look_at_flips(flips, objects)
        return flips

    def _look_at_opencost(self, store: Store, observer: Observer) -> Beside | None:
        """What OpenCost says that models cost; ``None`` where it says nothing, or nobody can be asked."""
        theirs = read_opencost(self.settings.prometheus)
        if not theirs:
            return None
        pools = [one.parsed for one in store.all(INFERENCE_POOL) if isinstance(one.parsed, InferencePool)]
        return Beside(theirs, {one.key: model_of(pod for _, pod in observer.pods_of(one)) for one in pools})

    def _look_at_flips(self, flips: Flips, objects: Objects) -> None:
        """The pause of the whole fleet, the devices that claims may hold, and Cohorts that nobody lends by.

        A pause that cannot be read stays as it was.
        """
        flips.devices = read_devices(objects)
        ailing = read_ailing(self.settings.prometheus, self.settings.flipping.device_health)
        flips.ailing = ailing if ailing is not None else flips.ailing
        if flips.queued is not None:
            found_cohorts = stray_cohorts(objects, flips.queued, self.settings.namespaces)
            flips.cohorts = found_cohorts if found_cohorts is not None else flips.cohorts
        try:
            name = self.settings.flipping.pause_config_map
            found = objects.get(CONFIG_MAP, self.settings.leader_election.namespace or _own_namespace(), name)
        except (ApiFailed, Unreachable) as error:
            log.warning("the pause of the fleet cannot be read", extra={"why": str(error)})
            return
        flips.pause = pause_of((found or {}).get("data"))

    def _relist(self, store: Store, objects: Objects) -> None:
        for kind in KINDS:
            namespaces = self.settings.namespaces if kind.namespaced else ()
            before = store.keys(kind)
            try:
                items = [raw for namespace in namespaces or (None,) for raw in objects.list(kind, namespace)]
            except (ApiFailed, KindAbsent, Unreachable) as error:
                raise CannotStart(f"cannot list {kind.plural}: {error}") from error
            store.replace(kind, items, before)

    def _check_crds(self, objects: Objects) -> None:
        """Wait for the CRDs: a chart may install them after the Deployment."""
        told = 0.0
        while not self.stop.is_set():
            missing = [kind.plural for kind in KINDS if not _exists(objects, kind)]
            if not missing:
                return
            if time.monotonic() - told > 30.0:
                log.warning("waiting for CRDs; install them with the chart, or apply crds/", extra={"missing": missing})
                told = time.monotonic()
            self.stop.wait(2.0)

    def _unhealthy(self) -> str:
        """What keeps the loops from turning. A replica that does not lead has none to turn."""
        if not self._leads or self._loop is None:
            return ""
        if self._watch is not None and self._watch.failed is not None:
            return f"the watch of custom resources ended: {self._watch.failed}"
        if self._collector is not None and not self._collector.is_alive():
            return "the thread that reads engines has ended"
        last = self._loop.heartbeat or self._leads_since
        limit = max(60.0, STUCK_PERIODS * self.settings.period_seconds / self.clock.scale)
        age = time.monotonic() - last
        return f"the fleet loop last moved {age:.0f} s ago; expected at most {limit:.0f}" if age > limit else ""

    def _unready(self) -> str:
        """What keeps it from serving; a replica that waits for leadership is ready."""
        if self._leads and self._loop is not None and not self._loop.passes:
            return "the first pass is not finished"
        return ""


def _exists(objects: Objects, kind: Kind) -> bool:
    try:
        return objects.exists(kind)
    except (ApiFailed, Unreachable):
        return False


def _own_namespace() -> str:
    if os.environ.get("POD_NAMESPACE"):
        return os.environ["POD_NAMESPACE"]
    try:
        return OWN_NAMESPACE.read_text().strip() or "default"
    except OSError:
        return "default"


def run_until_signalled(process: OperatorProcess) -> int:
    """Run a process until SIGTERM or SIGINT; the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.end())
    return process.run()
