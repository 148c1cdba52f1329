"""A real Prometheus for a test."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from operator_builders import POD, Place

from localcluster import binaries
from localcluster.ports import free_ports


class Prometheus:
    """A Prometheus of one test, with targets that the test writes."""

    def __init__(self, place: Place, directory: Path) -> None:
        self._place, self._targets = place, directory / "targets.json"
        self._name = f"prometheus-{place.namespace}"
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._targets.write_text("[]")
        file = directory / "prometheus.yml"
        discovery = [{"files": [str(self._targets)], "refresh_interval": "1s"}]
        file.write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [{"job_name": "engines", "file_sd_configs": discovery}],
        }))  # fmt: skip
        place.cluster.run(self._name, [
            binaries.find("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
        ])  # fmt: skip

    def scrape_pods(self) -> int:
        """Scrape every pod that has an address, from now on; how many there are."""
        pods = [one for one in self._place.list(POD) if one["status"].get("podIP")]
        self._targets.write_text(json.dumps([
            {
                "targets": [f"{one['status']['podIP']}:8000"],
                "labels": {"namespace": self._place.namespace, "pod": one["metadata"]["name"]},
            }
            for one in pods
        ]))  # fmt: skip
        return len(pods)

    def scrape(self, *targets: str) -> None:
        """Scrape these addresses, from now on."""
        self._targets.write_text(json.dumps([{"targets": list(targets)}]))

    def end(self) -> None:
        """Stop it."""
        self._place.cluster.end(self._name)
