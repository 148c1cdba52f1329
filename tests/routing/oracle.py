"""The prefix index in the plainest Python: a set of keys for each endpoint and tier."""

from collections.abc import Iterable, Sequence

TIERS = 4


class PlainIndex:
    """What ``PrefixIndex`` promises, without bounds."""

    def __init__(self) -> None:
        self.own: dict[int, list[set[int]]] = {}
        self.windows: dict[int, dict[int, list[set[int]]]] = {}
        self.store_of: dict[int, object] = {}
        self.stores: dict[object, set[int]] = {}
        self.window_stores: dict[tuple[object, int], set[int]] = {}

    def add(self, slot: int, store: object | None) -> None:
        self.own[slot] = [set() for _ in range(TIERS)]
        self.windows[slot] = {}
        if store is not None:
            self.store_of[slot] = store
            self.stores.setdefault(store, set())

    def drop(self, slot: int) -> None:
        del self.own[slot], self.windows[slot]
        self.store_of.pop(slot, None)

    def clear(self, slot: int) -> None:
        self.own[slot] = [set() for _ in range(TIERS)]
        self.windows[slot] = {}

    def _place(self, slot: int, tier: int) -> set[int]:
        if tier == TIERS - 1 and slot in self.store_of:
            return self.stores[self.store_of[slot]]
        return self.own[slot][tier]

    def give(self, slot: int, keys: Iterable[int], tier: int) -> None:
        self._place(slot, tier).update(keys)

    def take(self, slot: int, keys: Iterable[int], tier: int) -> None:
        self._place(slot, tier).difference_update(keys)

    def give_window(self, slot: int, keys: Iterable[int], window: int) -> None:
        self.windows[slot].setdefault(window, [set() for _ in range(TIERS)])[0].update(keys)

    def take_window(self, slot: int, keys: Iterable[int], window: int) -> None:
        if window in self.windows[slot]:
            self.windows[slot][window][0].difference_update(keys)

    def leading(self, slot: int, keys: Sequence[int], tier: int) -> int:
        held: set[int] = set()
        for nearer in range(tier + 1):
            held |= self._place(slot, nearer)
        count = 0
        for key in keys:
            if key not in held:
                break
            count += 1
        while count and not all(
            all(key in places[0] for key in keys[max(0, count - window) : count])
            for window, places in self.windows[slot].items()
        ):
            count -= 1
        return count

    def blocks(self) -> int:
        """Distinct blocks that somebody holds, counted once for each kind of layers."""
        full: set[int] = set().union(*self.stores.values(), *(held for own in self.own.values() for held in own))
        windows: dict[int, set[int]] = {}
        for own in self.windows.values():
            for window, places in own.items():
                windows.setdefault(window, set()).update(*places)
        return len(full) + sum(len(one) for one in windows.values())
