"""What is decided about Workloads, and what is said of a ClusterQueue; Kueue itself is in tests/operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from training_builders import GPU, NOW, a_job, a_lending, a_node, a_pod, a_template

from tidefleet.cluster.records import Pod
from tidefleet.controller.training import FaultReason, Lending, LoanType, TrainingJob
from tidefleet.controller.training import kueue_objects as kueue
from tidefleet.controller.training.checkpoint import write_time
from tidefleet.controller.training.kueue_objects import Entry, entry
from tidefleet.controller.training.kueue_plan import STUCK_SECONDS, Park, SetCheck, Unpark, decide


def an_entry(name: str = "train", **what: Any) -> Entry:
    """A Workload of one pod of 8; `what` may say reserved, admitted, evicted, state, since, active, parked, flavor."""
    has = {"reserved": True, "admitted": False, "evicted": False, "active": True, "parked": False, **what}
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": write_time(NOW - 60)}
        for kind, key in (("QuotaReserved", "reserved"), ("Admitted", "admitted"), ("Evicted", "evicted"))
        if has[key]
    ]
    state = has.get("state", "Ready" if has["admitted"] else "Pending")
    check = {
        "name": kueue.CHECK,
        "state": state,
        "message": has.get("message", ""),
        "lastTransitionTime": write_time(has.get("since", NOW)),
    }
    flavor = has.get("flavor", "loan-h100-sxm")
    assignment = {"name": "main", "count": has.get("count", 1), "flavors": {GPU: flavor}}
    return entry(
        {
            "metadata": {
                "namespace": "prod",
                "name": name,
                "uid": f"uid-w-{name}",
                "resourceVersion": "5",
                "creationTimestamp": write_time(has.get("created", NOW - 900)),
                "annotations": {kueue.PARKED: "x"} if has["parked"] else {},
                "ownerReferences": [{"controller": True, "uid": f"uid-{name}"}],
            },
            "spec": {
                "queueName": "night",
                "active": has["active"],
                "priority": has.get("priority", 0),
                "podSets": [{"name": "main", "count": has.get("count", 1), "template": a_template()}],
            },
            "status": {
                "conditions": conditions,
                "admissionChecks": [check] if state else [],
                **(
                    {"admission": {"clusterQueue": "night", "podSetAssignments": [assignment]}}
                    if has["reserved"]
                    else {}
                ),
            },
        }
    )


def decided(
    entries: Sequence[Entry],
    lending: Lending,
    *,
    jobs: Mapping[str, TrainingJob] | None = None,
    pods: Mapping[str, Sequence[Pod]] | None = None,
    real_now: float = NOW,
    in_cohort: bool = True,
    borrows_only: bool = True,
) -> dict[str, Any]:
    """The decisions by name of the Workload; each has a job of its name without nodes unless `jobs` says otherwise."""
    known = {one.uid: (jobs or {}).get(one.name) or a_job(one.name, nodes=frozenset()) for one in entries}
    found = decide(
        lending, entries, known, pods or {}, now=NOW, real_now=real_now, in_cohort=in_cohort, borrows_only=borrows_only
    )
    return {one.name: found[one.uid] for one in entries if one.uid in found}


READY = SetCheck("Ready", "fits onto nodes on loan that are verified and empty")


def test_a_workload_with_quota_is_let_in_when_its_pods_fit():
    assert decided([an_entry()], a_lending(a_node())) == {"train": READY}


def test_the_rest_is_held_with_the_reason_which_is_written_once():
    first, second = an_entry("a", created=NOW - 20), an_entry("b", created=NOW - 10)
    found = decided([second, first], a_lending(a_node()))
    assert found["a"] == READY
    assert found["b"].state == "Pending"
    assert "taken" in found["b"].message or "too few" in found["b"].message
    again = an_entry("b", created=NOW - 10, message=found["b"].message)
    assert set(decided([again, first], a_lending(a_node()))) == {"a"}


def test_priority_comes_before_age():
    found = decided([an_entry("old"), an_entry("high", priority=10, created=NOW)], a_lending(a_node()))
    assert found["high"] == READY
    assert found["old"].state == "Pending"


def test_pods_that_are_still_ending_keep_others_out_though_quota_is_free():
    pods = {"uid-before": [a_pod("p", deleting=True)]}
    found = decided([an_entry()], a_lending(a_node()), pods=pods)
    assert (found["train"].state, "still ending" in found["train"].message) == ("Pending", True)


def test_an_evicted_workload_does_not_take_back_what_is_recalled():
    lending = a_lending(a_node("n0", recall_by=NOW + 100), a_node("n1"))
    pods = {"uid-other": [a_pod("p", "n1")]}
    found = decided([an_entry()], lending, pods=pods)
    assert found["train"].state == "Pending"


def test_quota_is_given_back_while_nothing_of_its_type_is_on_loan():
    lending = a_lending(a_node("n0", recall_by=NOW + 100))
    assert decided([an_entry()], lending)["train"].state == "Retry"
    # A queue with quota of its own would reserve it again and again.
    assert decided([an_entry()], lending, borrows_only=False)["train"].state == "Pending"
    assert decided([an_entry()], lending, in_cohort=False)["train"].state == "Pending"


def test_a_job_that_uses_nothing_on_loan_is_not_kept_waiting():
    assert decided([an_entry(flavor="reserved")], a_lending())["train"] == SetCheck(
        "Ready", "uses no accelerator on loan"
    )


def test_a_queue_outside_our_cohort_lets_nobody_onto_loaned_nodes():
    found = decided([an_entry()], a_lending(a_node()), in_cohort=False)
    assert "is not in the Cohort tidefleet-prod-chat" in found["train"].message


def test_the_admitted_keep_their_places_and_only_those_on_recalled_nodes_leave():
    lending = a_lending(a_node("n0", recall_by=NOW - 1), a_node("n1"))
    jobs = {"a": a_job("a"), "b": a_job("b", nodes=frozenset({"n1"}))}
    pods = {"uid-a": [a_pod("pa", "n0")], "uid-b": [a_pod("pb", "n1")]}
    found = decided([an_entry("a", admitted=True), an_entry("b", admitted=True)], lending, jobs=jobs, pods=pods)
    assert set(found) == {"a"}
    assert found["a"].state == "Retry"
    assert found["a"].stop.lost_chip_seconds == 8 * 3600
    again = an_entry("a", admitted=True, state="Retry")
    assert not decided([again], lending, jobs=jobs, pods=pods), "it is written once"


def test_places_that_the_admitted_have_not_taken_yet_are_kept_for_them():
    found = decided([an_entry("in", admitted=True), an_entry("next")], a_lending(a_node()))
    assert set(found) == {"next"}
    assert found["next"].state == "Pending"


def test_an_admitted_workload_without_pods_or_room_gives_its_quota_back():
    found = decided([an_entry(admitted=True)], a_lending(a_node(recall_by=NOW + 100)))
    assert found["train"].state == "Retry"
    assert "nowhere to run" in found["train"].message
    assert found["train"].stop.lost_chip_seconds == 0


def test_without_our_check_a_recalled_workload_is_taken_out_of_the_queue():
    lending = a_lending(a_node(recall_by=NOW - 1))
    pods = {"uid-train": [a_pod("p")]}
    found = decided([an_entry(admitted=True, state="")], lending, jobs={"train": a_job()}, pods=pods)
    assert isinstance(found["train"], Park)
    assert found["train"].stop is not None


def test_a_retry_that_nobody_acts_on_is_parked_and_comes_back_when_there_is_room():
    lending = a_lending(a_node())
    stuck = an_entry(state="Retry", evicted=True, reserved=False)
    assert not decided([stuck], lending, real_now=NOW + STUCK_SECONDS)
    assert isinstance(decided([stuck], lending, real_now=NOW + STUCK_SECONDS + 1)["train"], Park)
    parked = an_entry(state="Retry", evicted=True, reserved=False, active=False, parked=True)
    assert not decided([parked], a_lending(a_node(recall_by=NOW)))
    assert decided([parked], lending)["train"] == SetCheck("Pending", "waits in the queue")
    reset = an_entry(state="Pending", evicted=True, reserved=False, active=False, parked=True)
    assert isinstance(decided([reset], lending)["train"], Unpark)


def test_what_somebody_else_deactivated_or_activated_is_theirs():
    lending = a_lending(a_node())
    assert not decided([an_entry(active=False, reserved=False)], lending)
    assert isinstance(decided([an_entry(parked=True, reserved=False)], lending)["train"], Unpark)


def test_a_state_is_written_beside_the_checks_of_others():
    one = an_entry()
    mixed = kueue.with_state(
        entry({"status": {"admissionChecks": [{"name": "theirs", "state": "Ready"}]}}), "Ready", "", 0
    )
    assert [check["name"] for check in mixed["status"]["admissionChecks"]] == ["theirs", kueue.CHECK]
    (kept,) = kueue.with_state(one, "Pending", "new words", NOW + 50)["status"]["admissionChecks"]
    assert kept["lastTransitionTime"] == write_time(NOW), "the state has not changed"
    (changed,) = kueue.with_state(one, "Ready", "", NOW + 50)["status"]["admissionChecks"]
    assert changed["lastTransitionTime"] == write_time(NOW + 50)
    assert "requeueAfterSeconds" not in changed


def test_the_quota_is_what_is_open_with_one_group_for_each_resource():
    types = (LoanType("h100-sxm", GPU), LoanType("l40s", GPU), LoanType("mi300x", "amd.com/gpu"))
    lending = a_lending(
        a_node("n0"), a_node("n1", verified=False), a_node("n2", accelerator="l40s", chips=4), types=types
    )
    groups = kueue.quota_groups(lending)
    assert [group["coveredResources"] for group in groups] == [["amd.com/gpu"], [GPU]]
    assert kueue.quota_of({"spec": {"resourceGroups": groups}}) == {"h100-sxm": 8, "l40s": 4, "mi300x": 0}


def test_a_flavor_says_which_nodes_and_tolerates_their_taint():
    spec = kueue.flavor_spec(a_lending().types[0])
    assert spec["nodeLabels"] == {"nvidia.com/gpu.product": "H100", "tidefleet.io/duty": "training"}
    assert spec["tolerations"][0]["value"] == "training"


def a_flavor(quota: str = "0") -> dict[str, Any]:
    resources = [{"name": GPU, "nominalQuota": quota}, {"name": "cpu", "nominalQuota": "100"}]
    return {"name": "loan-h100-sxm", "resources": resources}


def a_queue(**spec: Any) -> dict[str, Any]:
    flavors = [a_flavor()]
    return {
        "spec": {
            "cohortName": "tidefleet-prod-chat",
            "admissionChecksStrategy": {"admissionChecks": [{"name": kueue.CHECK}]},
            "resourceGroups": [{"coveredResources": [GPU, "cpu"], "flavors": flavors}],
            **spec,
        }
    }


def test_a_cluster_queue_in_order_has_no_faults():
    assert not kueue.faults_of_queue("night", a_queue(), a_lending())


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"cohortName": "x" * 5000}, FaultReason.QUEUE_NOT_IN_COHORT),
        ({"cohortName": 3}, FaultReason.QUEUE_NOT_IN_COHORT),
        ({"admissionChecksStrategy": "odd"}, FaultReason.QUEUE_WITHOUT_CHECK),
        ({"resourceGroups": [3, {"flavors": None}]}, FaultReason.QUEUE_WITHOUT_FLAVOR),
        ({"resourceGroups": [{"flavors": [a_flavor("8")]}]}, FaultReason.QUEUE_HAS_QUOTA),
    ],
)
def test_a_fault_names_object_field_and_example_and_odd_objects_do_not_blind_us(spec, reason):
    (fault,) = kueue.faults_of_queue("night", a_queue(**spec), a_lending())
    assert fault.reason == reason
    assert fault.message.startswith("ClusterQueue night: ")
    assert "expected" in fault.message
    assert "e.g." in fault.message
    assert len(fault.message) < 1000


@pytest.mark.parametrize(
    "raw", [{}, {"spec": None, "status": "x"}, {"status": {"admissionChecks": [None, 3]}}, {"spec": {"podSets": [{}]}}]
)
def test_an_odd_workload_is_read_as_far_as_it_goes(raw):
    one = entry(raw)
    assert (one.chips, one.state, one.reserved) == (0, "", False)


def test_pods_of_a_last_run_that_are_still_ending_are_no_places_of_this_one():
    nodes = a_lending(a_node("n0"), a_node("n1"))
    pods = {"uid-in": [a_pod("old", "n0", deleting=True)]}
    assert decided([an_entry("in", admitted=True), an_entry("next")], nodes, pods=pods)["next"].state == "Pending"


def test_an_evicted_workload_is_not_let_in_while_it_holds_its_reservation():
    assert not decided([an_entry(evicted=True)], a_lending(a_node()))
    parked = an_entry(parked=True, active=False, evicted=True)
    assert not decided([parked], a_lending(a_node())), "its pods are still ending"


def test_a_job_with_some_of_its_pods_running_is_not_sent_away_for_want_of_room():
    pods = {"uid-train": [a_pod("first", "n0")]}
    assert not decided([an_entry(admitted=True, count=2)], a_lending(a_node()), pods=pods)
