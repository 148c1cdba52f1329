"""This project's router keeps the protocol, by its own suite: plain, with TLS, on IPv6, and for headers only."""

import json
import socket
import xml.etree.ElementTree as ET
from pathlib import Path

import grpc
import pytest
from other_picker import ENDPOINTS, OtherPicker
from router_under_test import SmallChooser, router
from typer.testing import CliRunner

from localcluster.pki import Authority
from tidefleet import conformance
from tidefleet.cli.main import app
from tidefleet.conformance import Case, Level, Outcome, Result, Target
from tidefleet.conformance.junit import junit
from tidefleet.router.server import tls_context


def results(target: Target, *only: str) -> dict[str, Result]:
    return {result.case.name: result for result in conformance.run(target, conformance.cases(only))}


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - written by the code under test


def failures(found: dict[str, Result]) -> dict[str, str]:
    return {name: result.message for name, result in found.items() if result.outcome is Outcome.FAILED}


def test_the_router_passes_every_case() -> None:
    chooser = SmallChooser(ENDPOINTS)
    with router(chooser) as server:
        found = results(Target(f"127.0.0.1:{server.port}", endpoints=ENDPOINTS, deadline_seconds=30))
        assert server.budget.held_bytes == 0
    assert failures(found) == {}
    assert sum(result.outcome is Outcome.PASSED for result in found.values()) >= 110
    assert chooser.open == 0


def test_the_router_passes_where_the_endpoints_are_not_told() -> None:
    with router(SmallChooser(ENDPOINTS)) as server:
        found = results(Target(f"127.0.0.1:{server.port}"), "destination.*", "subset.*")
    assert failures(found) == {}
    assert found["subset.ipv6"].outcome is Outcome.PASSED


def test_the_router_passes_for_headers_only() -> None:
    with router(SmallChooser(ENDPOINTS), headers_only=True) as server:
        found = results(Target(f"127.0.0.1:{server.port}", endpoints=ENDPOINTS, bodies=False))
    assert failures(found) == {}
    assert found["destination.same"].outcome is Outcome.PASSED
    assert found["body.one-piece"].outcome is Outcome.SKIPPED


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A CA, a certificate for loopback, and its key."""
    authority = Authority(tmp_path_factory.mktemp("pki"))
    pair = authority.server("picker")
    return authority.certificate, pair.certificate, pair.key


def test_the_router_passes_with_tls(certificate: tuple[Path, Path, Path]) -> None:
    authority, chain, key = certificate
    with router(SmallChooser(ENDPOINTS), tls=tls_context(chain, key)) as server:
        credentials = grpc.ssl_channel_credentials(authority.read_bytes())
        target = Target(f"127.0.0.1:{server.port}", endpoints=ENDPOINTS, credentials=credentials)
        found = results(target, "tls.*", "health.*", "body.2-MB", "stream.interleaved")
    assert {name: result.outcome for name, result in found.items()} == dict.fromkeys(found, Outcome.PASSED)


def test_plain_text_on_a_tls_target_is_noticed(certificate: tuple[Path, Path, Path]) -> None:
    with OtherPicker().serving() as port:
        credentials = grpc.ssl_channel_credentials(certificate[0].read_bytes())
        found = results(Target(f"127.0.0.1:{port}", credentials=credentials, deadline_seconds=1.0), "tls.*")
    assert set(failures(found)) == {"tls.served", "tls.plain-refused"}


def test_the_router_listens_on_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on this machine's loopback")
    with router(SmallChooser(ENDPOINTS), host="::1") as server:
        found = results(Target(f"[::1]:{server.port}", endpoints=ENDPOINTS), "destination.*", "health.*")
    assert failures(found) == {}


def test_the_command_ends_with_0_and_writes_junit_where_all_passes(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    with router(SmallChooser(ENDPOINTS)) as server:
        argv = ["conformance", "--target", f"127.0.0.1:{server.port}", "--endpoints", ",".join(ENDPOINTS)]
        done = CliRunner().invoke(app, [*argv, "--only", "subset.*", "--junit", str(report), "-o", "json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    suite = parsed(report.read_text()).find("testsuite")
    assert suite is not None
    assert len(suite) == len(printed["cases"]) == printed["passed"] >= 18


def test_the_command_ends_with_1_where_a_must_clause_fails(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    with OtherPicker("ports in subsets are dropped").serving() as port:
        argv = ["conformance", "--target", f"127.0.0.1:{port}", "--endpoints", ",".join(ENDPOINTS)]
        done = CliRunner().invoke(app, [*argv, "--only", "subset.*", "--junit", str(report)])
    assert done.exit_code == 1
    assert "subset.wrong-port" in done.output
    failed = parsed(report.read_text()).findall("testsuite/testcase/failure")
    assert len(failed) == int(parsed(report.read_text()).attrib["failures"]) >= 2


def test_a_should_clause_fails_the_command_only_if_it_is_strict() -> None:
    with OtherPicker("no fallbacks").serving() as port:
        argv = ["conformance", "--target", f"127.0.0.1:{port}", "--endpoints", ",".join(ENDPOINTS)]
        argv += ["--only", "destination.fallbacks"]
        assert CliRunner().invoke(app, argv).exit_code == 0
        assert CliRunner().invoke(app, [*argv, "--strict"]).exit_code == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--target", "nowhere"], "expected HOST:PORT"),
        (["--target", "x:1", "--only", "nothing.*"], "no case is called"),
        (["--target", "x:1", "--mode", "sideways"], "expected full-duplex or headers-only"),
    ],
)
def test_the_command_ends_with_2_where_it_cannot_run(argv: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["conformance", *argv])
    assert done.exit_code == 2
    assert said in done.output


def test_a_picker_that_is_not_there_fails_its_cases() -> None:
    found = results(Target("127.0.0.1:1", deadline_seconds=0.3), "destination.header", "health.overall")
    assert set(failures(found)) == {"destination.header", "health.overall"}


def test_junit_takes_words_that_xml_has_no_place_for() -> None:
    case = Case("group.name", Level.MUST, "A clause.", lambda target: None)
    text = junit([Result(case, Outcome.FAILED, "said \x00\x1b<&\ud800", 0.1)], target="x:1")
    failure = parsed(text).find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.attrib["message"].startswith("said ")
