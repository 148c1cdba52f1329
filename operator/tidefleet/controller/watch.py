"""kopf's part: watches the custom resources in a thread of its own and hands every event to the store.

kopf never writes here: no handlers that need its finalizer, its annotations or its progress storage. A periodic fresh
list of our own finds deletions that a watch missed (after a 410 kopf's re-list does not report them).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import kopf
import uvloop

from tidefleet.api import GROUP, VERSION
from tidefleet.cluster.credentials import Credentials
from tidefleet.controller.store import KINDS, Store

log = logging.getLogger(__name__)

INACTIVITY_SECONDS = 120.0
"""A watch that is silent for longer is opened again; the API server's bookmarks come about every minute."""


class Watch(threading.Thread):
    """Feeds a store until stopped.

    Args:
        store: takes every event.
        login: gives the credentials, again whenever they stop working.
        namespaces: namespaces to watch; empty for all.
    """

    def __init__(self, store: Store, login: Callable[[], Credentials], namespaces: Sequence[str] = ()) -> None:
        super().__init__(name="kopf", daemon=True)
        self._store = store
        self._login = login
        self._namespaces = tuple(namespaces)
        self._stop_flag = threading.Event()
        self.failed: BaseException | None = None

    def stop(self, timeout: float = 10.0) -> None:
        """End the watches and wait for the thread."""
        self._stop_flag.set()
        self.join(timeout)

    def run(self) -> None:
        """The thread's body."""
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._operate())
        except Exception as error:
            self.failed = error
            log.exception("the watch of custom resources failed")
        if self.failed is None and not self._stop_flag.is_set():
            self.failed = RuntimeError("kopf ended by itself; its errors are in the log above")

    async def _operate(self) -> None:
        await kopf.operator(
            registry=self._registry(),
            settings=_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop_flag,
        )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)  # type: ignore[arg-type, unused-ignore]
        def login(**_: Any) -> kopf.ConnectionInfo:
            found = self._login()
            return kopf.ConnectionInfo(
                server=found.server,
                ca_path=found.ca_file or None,
                insecure=not found.verify,
                token=found.token or None,
                certificate_path=found.certificate_file or None,
                private_key_path=found.key_file or None,
            )

        for kind in KINDS:

            @kopf.on.event(GROUP, VERSION, kind.plural, registry=registry, id=kind.plural)
            def seen(event: Any, body: Any, _kind: Any = kind, **_: Any) -> None:
                raw = dict(event["object"])
                if event["type"] == "DELETED":
                    meta = raw.get("metadata", {})
                    self._store.remove(_kind, meta.get("namespace", ""), meta.get("name", ""), meta.get("uid", ""))
                else:
                    self._store.put(_kind, raw)

        return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.networking.request_timeout = 30.0
    settings.networking.connect_timeout = 5.0
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330.0
    settings.watching.inactivity_timeout = INACTIVITY_SECONDS
    return settings
