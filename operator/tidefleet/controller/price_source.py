"""The price book that the operator plans with: read from its file again and again, the last good one kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tidefleet import catalogue
from tidefleet.economics.prices import BadPriceBook, PriceBook

log = logging.getLogger(__name__)

LONGEST_FAULT = 500


@dataclass(frozen=True, slots=True)
class Prices:
    """What is known of the price book.

    Attributes:
        book: the last one that could be used; empty before there is one.
        fault: why the file cannot be used now; empty when it can.
    """

    book: PriceBook = field(default_factory=PriceBook)
    fault: str = ""


@dataclass(slots=True)
class PriceSource:
    """A price book's file, such as a mounted ConfigMap, whose content changes while the operator runs."""

    path: Path | None
    shipped_chips: Mapping[str, int | None] = field(default_factory=dict)
    """Chips of a node of the shipped types, which may not be in the cluster yet."""
    now: Prices = field(default_factory=Prices)
    _read: object = None
    """What the file and the types were like when it was last read: a large book takes a second to parse."""

    def read(self, chips_per_node: Mapping[str, int | None]) -> Prices:
        """The book as the file has it now; while it is faulty the last good one, with what is wrong.

        Args:
            chips_per_node: chips of a node by accelerator type of the cluster, for prices per node.
        """
        if self.path is None:
            return self.now
        known = {**self.shipped_chips, **chips_per_node}
        seen = (_version(self.path), known)
        if seen == self._read:
            return self.now
        self._read = seen
        try:
            book = catalogue.load_price_book(self.path, chips_per_node=known)
            strangers = book.strangers(known)
            fault = (
                f"{self.path}: prices {', '.join(strangers[:5])}; no AcceleratorType has that name" if strangers else ""
            )
        except BadPriceBook as error:
            book, fault = self.now.book, str(error)
        if fault and fault != self.now.fault:
            log.warning("the price book has a fault", extra={"why": fault[:2000]})
        elif book != self.now.book:
            log.info("the price book was read", extra={"prices": len(book.quotes)})
        self.now = Prices(book, fault[:LONGEST_FAULT])
        return self.now


def _version(path: Path) -> tuple[int, ...]:
    """What changes when a file does; empty while it cannot be seen."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
