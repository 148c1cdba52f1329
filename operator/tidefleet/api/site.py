"""Site: the nodes of one place, with its power limit, electricity tariff and network cost."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from tidefleet.api.base import Model, Resource, Rule, name_rule
from tidefleet.api.conditions import Conditions, Generation
from tidefleet.api.leaves import Integer, Many
from tidefleet.api.scalars import USD, Count, EndOfDay, FactorFromOne, LabelMap, SignedUSD, TimeOfDay, TimeZone, Watts
from tidefleet.api.vocabulary import Day


class TariffWindow(Model):
    """The price of electricity at a time of day."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            field="end",
            cel="self.start != self.end",
            holds=lambda w: w.start != w.end,
            expected="another time than start",
            example='"06:00"',
        ),
    )

    usd_per_kilowatt_hour: SignedUSD = Field(examples=["0.12"])
    """USD for a kilowatt-hour, e.g. "0.12"; wholesale prices may be negative."""
    start: TimeOfDay = "00:00"
    """Beginning, e.g. "22:00"."""
    end: EndOfDay = "24:00"
    """End, e.g. "06:00"; before `start` means the next day."""
    days: Annotated[tuple[Day, ...], Many(maximum=7, unique=True)] = ()
    """Days on which the window begins, e.g. [Sat, Sun]; empty: every day."""
    time_zone: TimeZone
    """Time zone of the IANA database, e.g. Europe/Berlin."""


class SiteSpec(Model):
    """What is known of a place."""

    node_selector: LabelMap = Field(examples=[{"topology.kubernetes.io/zone": "eu-central-1a"}])
    """Labels of the nodes there, e.g. {topology.kubernetes.io/zone: eu-central-1a}."""
    power_limit_watts: Watts | None = Field(default=None, examples=[500000])
    """Most power that accelerators and their facility may draw, in watts, e.g. 500000."""
    pue: FactorFromOne | None = None
    """Power usage effectiveness: facility power over IT power, e.g. "1.25"."""
    tariff: Annotated[tuple[TariffWindow, ...], Many(maximum=64)] = ()
    """Price of electricity by time of day; where windows overlap, the first one counts."""
    egress_usd_per_gib: USD | None = Field(default=None, examples=["0.08"])
    """USD for a GiB that leaves the place, e.g. "0.08"."""
    round_trip_to_users_milliseconds: (
        Annotated[int, Integer(minimum=0, maximum=60_000, expected="milliseconds from 0 to 60000", example=35)] | None
    ) = None
    """Round trip to the users in milliseconds, e.g. 35; it is taken off latency objectives."""


class SiteStatus(Model):
    """What the operator sees of the place."""

    conditions: Conditions = ()
    """Ready and Validated."""
    observed_generation: Generation | None = None
    """The `metadata.generation` that this status answers."""
    nodes: Count | None = None
    """Nodes there, e.g. 40."""
    watts: Count | None = None
    """Estimated power in watts, e.g. 210000."""


class Site(Resource):
    """The nodes of one place, with its power limit, electricity tariff and network cost."""

    KIND: ClassVar[str] = "Site"
    PLURAL: ClassVar[str] = "sites"
    SHORT_NAME: ClassVar[str] = "tsite"
    NAMESPACED: ClassVar[bool] = False
    RULES: ClassVar[tuple[Rule, ...]] = (name_rule(63, "it is a label's value"),)

    spec: SiteSpec
    """What is known of the place."""
    status: SiteStatus = SiteStatus()
    """What the operator sees of it."""
