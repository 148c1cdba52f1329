"""The night of the demo in figures: where each accelerator-second went, from values; no server runs here."""

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from demo import nightly, ribbon
from demo.counters import Sample, Totals
from demo.ledger import CAUSES, Held, Look, NodeStory, TrainingPod, account
from demo.night import Queue, flipping, queue_objects, training_jobs
from demo.trainer import is_due
from demo.witness import Witness
from tidefleet.api.flipping import FlippingSpec

MIDNIGHT = 1715558400.0
HOUR = 3600.0


def a_story(*phases: tuple[float, str], chips: int = 8) -> NodeStory:
    return NodeStory("b200-sxm-0", "b200-sxm", chips, dict(phases))


def looks(*held: tuple[float, tuple[Held, ...]], used: float = 0.5) -> list[Look]:
    return [Look(at, {"b200-sxm-0": pods}, {"code": used}) for at, pods in held]


def a_node(name: str, history: list[list[Any]], why: str = "a quiet night") -> dict[str, Any]:
    journal = json.dumps({"v": 1, "phase": history[-1][1] if history else "Serving", "why": why, "history": history})
    notes = {"tidefleet.io/flip": journal} if history else {}
    return {"metadata": {"name": name, "annotations": notes}, "status": {"allocatable": {"nvidia.com/gpu": "8"}}}


def a_pod(
    name: str, *, node: str = "b200-sxm-0", phase: str = "Running", chips: int = 8, **labels: str
) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": str(chips), "cpu": "4"}
    conditions = [{"type": "Ready", "status": "True" if phase == "Running" else "False"}]
    named = {f"tidefleet.io/{key.replace('_', '-')}": value for key, value in labels.items()}
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": named},
        "spec": {"nodeName": node, "containers": [{"resources": {"limits": limits}}]},
        "status": {"phase": phase, "conditions": conditions},
    }


def test_needed_and_lost_add_up_to_what_is_paid_in_every_phase() -> None:
    phases = ("Serving", "Planned", "Cordoned", "Draining", "Verifying", "Training", "Recalling", "Reclaiming",
              "Warming", "Quarantined", "Serving")  # fmt: skip
    story = a_story(*((100.0 * index + 37.0, phase) for index, phase in enumerate(phases)))
    pods = (Held("s", 2, "code", ready=True, busy=1.0), Held("p", 1, "code"), Held("t", 3, ready=True, busy=1.0))
    training = {"t": TrainingPod("t", "b200-sxm-0", 3, 0.0, 900.0, checkpoint=640.0, gone=True)}
    made = account(looks(*((step * 50.0, pods) for step in range(30))), [story], training, start=0.0, end=1400.0)
    assert made.paid == 8 * 1400.0
    assert made.needed_serving + made.needed_training + sum(made.lost.values()) == pytest.approx(made.paid)
    assert set(made.lost) == set(CAUSES)
    assert all(made.lost[cause] > 0 for cause in CAUSES), made.lost


def test_a_phase_lasts_as_the_journal_says_whenever_it_was_looked_at() -> None:
    story = a_story((120.0, "Cordoned"), (180.0, "Draining"), (205.0, "Verifying"), (230.0, "Training"),
                    (1000.0, "Recalling"), (1100.0, "Reclaiming"), (1150.0, "Warming"),
                    (1400.0, "Serving"))  # fmt: skip
    made = account(looks((0.0, ()), (900.0, ()), (2000.0, ())), [story], {}, start=0.0, end=2000.0)
    assert made.loaned_node_seconds == 770.0
    assert made.away_node_seconds == 1280.0
    assert made.lost["draining"] == 8 * 85.0
    assert made.lost["verifying"] == 8 * 75.0
    assert made.lost["recalling"] == 8 * 100.0
    assert made.lost["warming"] == 8 * 250.0
    assert made.lost["no job"] == 8 * 770.0
    assert made.lost["idle"] == 8 * 720.0


def test_a_replica_that_serves_needs_its_share_and_loses_the_rest_to_thin_load() -> None:
    pods = (Held("s", 4, "code", ready=True, busy=0.9), Held("new", 2, "code"))
    made = account(looks((0.0, pods), (100.0, ()), used=0.25), [a_story()], {}, start=0.0, end=100.0)
    assert made.needed_serving == 100.0
    assert (made.lost["thin load"], made.lost["starting"], made.lost["idle"]) == (300.0, 200.0, 200.0)
    assert made.busy_serving == pytest.approx(360.0)
    assert made.needed_ratio == made.needed_ratio_without_loans == pytest.approx(100 / 800)


def test_training_after_the_last_checkpoint_is_work_lost_unless_the_pod_ended_well() -> None:
    story = a_story((0.0, "Training"))
    pods = (Held("t", 8, ready=True, busy=1.0),)

    def trained(**more: Any) -> tuple[float, float]:
        pod = TrainingPod("t", "b200-sxm-0", 8, 0.0, 100.0, **more)
        made = account(looks((0.0, pods), (100.0, ())), [story], {"t": pod}, start=0.0, end=100.0)
        return made.needed_training, made.lost["work lost"]

    assert trained(gone=True, checkpoint=60.0) == (480.0, 320.0)
    assert trained(gone=True) == (0.0, 800.0)
    assert trained(gone=True, succeeded=True) == (800.0, 0.0)
    assert trained() == (800.0, 0.0)


def test_without_loans_the_same_nodes_needed_and_ran_only_what_serving_did() -> None:
    story = a_story((50.0, "Training"))
    serving, training = (Held("s", 8, "code", ready=True, busy=1.0),), (Held("t", 8, ready=True, busy=1.0),)
    pod = TrainingPod("t", "b200-sxm-0", 8, 50.0, 100.0)
    made = account(looks((0.0, serving), (50.0, training), (100.0, ())), [story], {"t": pod}, start=0.0, end=100.0)
    assert made.needed_ratio == pytest.approx(0.75)
    assert made.needed_ratio_without_loans == pytest.approx(0.25)
    assert (made.busy_ratio, made.busy_ratio_without_loans) == (1.0, 0.5)


def test_a_witness_counts_requests_that_were_cut_on_nodes_in_a_flip_and_no_others() -> None:
    witness = Witness(frozenset({"b200-sxm"}))

    def see(at: float, *nodes: dict[str, Any], pods: list[dict[str, Any]], cut: dict[str, float]) -> None:
        outcome = {"code": {"lost_requests": 0.0, "interrupted_by_pod": cut}}
        witness.see(at, nodes=nodes, pods=pods, engines=[], outcome=outcome, used={"code": 0.5})

    lent = [[MIDNIGHT + 60, "Cordoned"], [MIDNIGHT + 120, "Draining"]]
    pods = [a_pod("a", pool="code"), a_pod("b", node="b200-sxm-1", pool="code"), a_pod("c", node="l40s-0", pool="code")]
    see(MIDNIGHT, a_node("b200-sxm-0", []), a_node("b200-sxm-1", []), a_node("l40s-0", []), pods=pods, cut={})
    assert set(witness.nodes) == {"b200-sxm-0", "b200-sxm-1"}
    cut = {"a": 3.0, "b": 5.0, "c": 7.0}
    see(MIDNIGHT + 150, a_node("b200-sxm-0", lent), a_node("b200-sxm-1", []), pods=[], cut=cut)
    see(MIDNIGHT + 200, a_node("b200-sxm-0", lent), a_node("b200-sxm-1", []), pods=[], cut=cut)
    assert witness.cut == 3.0
    assert witness.phase_counts() == {"Draining": 1, "Serving": 1}


def test_a_witness_follows_training_pods_to_their_end() -> None:
    witness = Witness(frozenset({"b200-sxm"}))
    node = a_node("b200-sxm-0", [[MIDNIGHT, "Training"]])
    running = a_pod("t", simulated_training="true")
    asked = a_pod("t", simulated_training="true")
    asked["metadata"]["annotations"] = {"tidefleet.io/checkpointed-at": "2024-05-13T00:10:00+00:00"}
    for at, pods in ((0.0, []), (300.0, [running]), (900.0, [asked]), (1200.0, [])):
        witness.see(MIDNIGHT + at, nodes=[node], pods=pods, engines=[], outcome={}, used={})
    (one,) = witness.training.values()
    assert (one.chips, one.first, one.last, one.gone, one.succeeded) == (8, MIDNIGHT + 300, MIDNIGHT + 900, True, False)
    assert one.kept_until == MIDNIGHT + 600


def a_night() -> nightly.NightDay:
    witness = Witness(frozenset({"b200-sxm"}))
    history = [[MIDNIGHT + HOUR, "Cordoned"], [MIDNIGHT + 1.5 * HOUR, "Training"], [MIDNIGHT + 5 * HOUR, "Recalling"],
               [MIDNIGHT + 6 * HOUR, "Serving"]]  # fmt: skip
    trains = a_pod("t", simulated_training="true")
    trains["metadata"]["annotations"] = {"tidefleet.io/checkpointed-at": "2024-05-13T04:30:00+00:00"}
    for hour in range(25):
        pods = [trains] if 2 <= hour < 5 else [a_pod("s", chips=4, pool="code")]
        node = a_node(
            "b200-sxm-0", [one for one in history if one[0] <= MIDNIGHT + hour * HOUR], why='quiet & <safe> "night"'
        )
        witness.see(MIDNIGHT + hour * HOUR, nodes=[node], pods=pods, engines=[], outcome={}, used={"code": 0.5})
    totals = Totals()
    for count in (0.0, 1.0):
        labels = frozenset({("direction", "training"), ("result", "done"), ("pool", "code")})
        totals.add("a", [Sample("tidefleet_flips_total", labels, count)])
    made = nightly.night_day(
        witness, totals, queue="the Kueue controller", window="at night", start=MIDNIGHT, end=MIDNIGHT + 24 * HOUR
    )
    assert made is not None
    return made


def test_the_night_is_told_in_figures_that_add_up() -> None:
    night = a_night()
    told = dict(nightly.in_words(night))
    assert night.loaned_node_hours == pytest.approx(3.5)
    assert told["flips"] == "1 to training, 0 back"
    assert told["requests failed by flips"] == "0"
    assert (night.trained_gpu_hours, night.lost_gpu_hours) == (20.0, 4.0)
    assert sum(hours for _, hours in nightly.where_it_went(night)) == pytest.approx(night.paid_chip_seconds / HOUR)
    assert night.needed_ratio > night.needed_ratio_without_loans


def test_the_page_of_a_day_has_the_night_and_stays_well_formed() -> None:
    text = ribbon.section(a_night(), [])
    drawing = text[text.index("<svg") : text.index("</svg>") + len("</svg>")]
    root = ET.fromstring(drawing.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))  # noqa: S314  our own
    titles = [one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}title")]
    assert [one.split()[2].rstrip(":") for one in titles] == ["Cordoned", "Training", "Recalling"]


def test_the_ribbon_shows_each_change_with_its_reason_and_no_markup_of_others() -> None:
    text = ribbon.section(a_night(), [])
    assert text.count("<section") == text.count("</section>") == 1
    assert "&lt;safe&gt;" in text
    assert "<safe>" not in text


def test_nothing_is_told_of_a_night_that_was_not_watched() -> None:
    assert nightly.night_day(Witness(frozenset()), Totals(), queue="", window="", start=0.0, end=1.0) is None


@pytest.mark.parametrize("queue", [Queue(kueue=True), Queue(kueue=False, why="it may not be written")])
def test_the_lending_pool_is_valid_with_and_without_kueue(queue: Queue) -> None:
    spec = FlippingSpec.model_validate(flipping(queue))
    assert spec.windows[0].time_zone == "America/Los_Angeles"
    assert spec.training is not None
    assert (spec.training.queue.cluster_queue == "night") is queue.kueue
    jobs = training_jobs(queue, scale=576.0)
    assert len({job["metadata"]["name"] for job in jobs}) == len(jobs)
    assert all(job["spec"]["suspend"] for job in jobs)
    for job in jobs:
        starts = job["metadata"]["annotations"].get("tidefleet.io/suspended-by") == "tidefleet"
        assert starts is not queue.kueue


def test_the_cluster_queue_borrows_from_the_pools_cohort_and_asks_the_operators_check() -> None:
    (_, cluster_queue), (path, _) = queue_objects("shop", ("h100-sxm", "b200-sxm"))
    spec = cluster_queue["spec"]
    assert spec["cohortName"] == "tidefleet-shop-code"
    assert spec["admissionChecksStrategy"]["admissionChecks"] == [{"name": "tidefleet-loan"}]
    assert [one["name"] for one in spec["resourceGroups"][0]["flavors"]] == ["loan-h100-sxm", "loan-b200-sxm"]
    assert path.endswith("/namespaces/shop/localqueues")


def test_a_trainer_writes_a_checkpoint_when_asked_once_and_every_hour() -> None:
    def due(phase: str = "Running", now: float = MIDNIGHT, **notes: str) -> bool:
        named = {f"tidefleet.io/{key.replace('_', '-')}": value for key, value in notes.items()}
        return is_due({"metadata": {"annotations": named}, "status": {"phase": phase}}, now)

    last = "2024-05-12T23:30:00+00:00"
    assert due()
    assert not due(checkpointed_at=last)
    assert due(checkpointed_at=last, now=MIDNIGHT + 1801.0)
    assert due(checkpointed_at=last, checkpoint_by="2024-05-13T00:02:00Z")
    assert not due(
        checkpointed_at=last, checkpoint_by="2024-05-13T00:02:00Z", checkpoint_answered="2024-05-13T00:02:00Z"
    )
    assert not due(phase="Pending")
