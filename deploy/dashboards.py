"""Grafana dashboards as code: the JSON files that the chart ships as ConfigMaps for Grafana's sidecar.

``pages`` names each file and what it holds; ``deploy/generate.py`` writes them and checks them. A query names metrics
of `tidefleet.telemetry` and series that `policies/alerts` records, and nothing else; a test sees to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphDrawStyle, LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "charts" / "tidefleet" / "files" / "dashboards"

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
POOL = 'namespace=~"$namespace",pool=~"$pool"'
_WIDTH = 24

Query = tuple[str, str]
"""PromQL, and the legend of its series."""


def pages() -> Mapping[Path, str]:
    """Every dashboard's file, and what it should hold."""
    return {TARGET / "money.json": JSONEncoder(sort_keys=True, indent=2).encode(money().build()) + "\n"}


def money() -> dashboard.Dashboard:
    """What pools spend, earn and make of it, and where the accelerator-seconds went that are paid for."""
    cost = f"sum by (namespace, pool) (rate(tidefleet_pool_cost_usd_total{{{POOL}}}[$__rate_interval]))"
    tokens = (
        "sum by (namespace, pool) (rate("
        f'tidefleet_pool_tokens_total{{{POOL},direction=~"input|cached|output"}}[$__rate_interval]))'
    )
    training = f"sum by (namespace, pool) (rate(tidefleet_training_cost_usd_total{{{POOL}}}[$__rate_interval]))"
    lost = f"sum by (cause) (rate(tidefleet_pool_lost_seconds_total{{{POOL}}}[$__rate_interval]))"
    needed = f"sum by (work) (rate(tidefleet_pool_needed_seconds_total{{{POOL}}}[$__rate_interval]))"
    board = (
        dashboard.Dashboard("tidefleet: money")
        .uid("tidefleet-money")
        .tags(["tidefleet", "cost"])
        .editable()
        .refresh("1m")
        .time("now-24h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .with_variable(_choice("namespace", "label_values(tidefleet_pool_cost_usd_total, namespace)"))
        .with_variable(_choice("pool", 'label_values(tidefleet_pool_cost_usd_total{namespace=~"$namespace"}, pool)'))
    )
    board = board.with_row(dashboard.Row("Now"))
    for title, unit, expr, about in (
        (
            "USD per hour",
            "currencyUSD",
            f"sum(namespace_pool:tidefleet_pool_spend_usd_per_hour:rate1h{{{POOL}}})",
            "What the pools cost in the last hour, idle time included; training that borrows nodes is not in it.",
        ),
        (
            "A month at this rate",
            "currencyUSD",
            f"sum(namespace_pool:tidefleet_pool_spend_usd_per_month:avg7d{{{POOL}}})",
            "A month of this length at the mean rate of the last seven days.",
        ),
        (
            "USD per million tokens",
            "currencyUSD",
            f"1e6 / 3600 * sum(namespace_pool:tidefleet_pool_spend_usd_per_hour:rate1h{{{POOL}}}) / sum(rate("
            f'tidefleet_pool_tokens_total{{{POOL},direction=~"input|cached|output"}}[1h]))',
            "The whole bill over all tokens: uncached and cached input, and output.",
        ),
        (
            "Margin",
            "percentunit",
            f"sum(namespace_pool:tidefleet_pool_revenue_usd:rate1d{{{POOL}}}) / sum(sum by (namespace, pool) (rate("
            f"tidefleet_pool_cost_usd_total{{{POOL}}}[1d])) and namespace_pool:tidefleet_pool_revenue_usd:rate1d) - 1",
            "Revenue over cost, less 1, in the last day, of pools that are known to earn.",
        ),
        (
            "Utilisation",
            "percentunit",
            f"sum(rate(tidefleet_pool_needed_seconds_total{{{POOL}}}[1h])) / (sum(rate("
            f"tidefleet_pool_needed_seconds_total{{{POOL}}}[1h])) + sum(rate("
            f"tidefleet_pool_lost_seconds_total{{{POOL}}}[1h])))",
            "Accelerator-seconds needed over those paid, training on lent nodes included.",
        ),
        (
            "Tokens per joule",
            "short",
            f'sum(rate(tidefleet_pool_tokens_total{{{POOL},direction=~"input|cached|output"}}[1h])) / '
            f"sum(rate(tidefleet_pool_energy_joules_total{{{POOL}}}[1h]))",
            "All tokens over the joules of the serving accelerators, estimated from what their engines did.",
        ),
    ):
        board = board.with_panel(_figure(title, unit, expr, about))
    board = board.with_row(dashboard.Row("The bill"))
    for panel in (
        _graph(
            "Who pays for the chips",
            "currencyUSD",
            "USD per hour. Together the areas are what all chips of the fleet cost: those of pools (with the KV tiers "
            "of their replicas), those that training has, and those that nobody uses. Choosing pools leaves the "
            "others out, but for the idle part.",
            (
                (
                    f"3600 * sum by (pool, accelerator) (rate(tidefleet_pool_cost_usd_total{{{POOL}}}"
                    "[$__rate_interval]))",
                    "{{pool}} {{accelerator}}",
                ),
                (
                    f"3600 * sum by (pool) (rate(tidefleet_training_cost_usd_total{{{POOL}}}[$__rate_interval]))",
                    "training on {{pool}}",
                ),
                (
                    "3600 * sum by (accelerator) (rate(tidefleet_fleet_idle_cost_usd_total[$__rate_interval]))",
                    "idle {{accelerator}}",
                ),
            ),
            stacked=True,
        ),
        _graph(
            "Spending and what is usual at this hour",
            "currencyUSD",
            "USD per hour, and the median of the same hour in the seven days before.",
            (
                (f"namespace_pool:tidefleet_pool_spend_usd_per_hour:rate1h{{{POOL}}}", "{{namespace}}/{{pool}}"),
                (
                    f"namespace_pool:tidefleet_pool_spend_usd_per_hour:usual{{{POOL}}}",
                    "{{namespace}}/{{pool}}, usual",
                ),
            ),
        ),
        _graph(
            "USD per million tokens, and its target",
            "currencyUSD",
            "Blended over uncached and cached input, and output. Gross has in it what training on its nodes costs.",
            (
                (f"1e6 * ({cost}) / ({tokens} > 0)", "{{namespace}}/{{pool}}"),
                (f"1e6 * ({cost} + {training}) / ({tokens} > 0)", "{{namespace}}/{{pool}}, gross"),
                (f"1e6 * tidefleet_pool_cost_target_usd_per_token{{{POOL}}}", "{{namespace}}/{{pool}}, target"),
            ),
        ),
        _graph(
            "USD per million, input and output",
            "currencyUSD",
            "The bill divided as the accelerator-seconds that each needed: times their tokens the two sum to the bill.",
            (
                (
                    f"namespace_pool:tidefleet_pool_usd_per_million_input_tokens:rate1h{{{POOL}}}",
                    "{{namespace}}/{{pool}}, uncached input",
                ),
                (
                    f"namespace_pool:tidefleet_pool_usd_per_million_output_tokens:rate1h{{{POOL}}}",
                    "{{namespace}}/{{pool}}, output",
                ),
            ),
        ),
    ):
        board = board.with_panel(panel)
    board = board.with_row(dashboard.Row("Where the seconds went"))
    for panel in (
        _graph(
            "Paid accelerators, needed and lost",
            "short",
            "Accelerators that are paid for, by what they were needed for and to what the others were lost.",
            ((needed, "{{work}}"), (lost, "lost: {{cause}}")),
            stacked=True,
        ),
        _graph(
            "Utilisation and busy",
            "percentunit",
            "Needed over paid; beside it the share of engines that ran anything, which most other figures mean by "
            "utilisation, and what is asked for over what the ready replicas carry.",
            (
                (f"tidefleet_pool_utilization_ratio{{{POOL}}}", "{{namespace}}/{{pool}}"),
                (f"tidefleet_pool_busy_ratio{{{POOL}}}", "{{namespace}}/{{pool}}, busy"),
                (f"tidefleet_pool_load_ratio{{{POOL}}}", "{{namespace}}/{{pool}}, load"),
            ),
        ),
    ):
        board = board.with_panel(panel)
    board = board.with_row(dashboard.Row("What it earns"))
    for panel in (
        _graph(
            "Revenue",
            "currencyUSD",
            "USD per hour that the tokens of each class earn, by its spec.revenue.",
            (
                (
                    f"3600 * sum by (pool, workload_class) (rate(tidefleet_pool_revenue_usd_total{{{POOL}}}"
                    "[$__rate_interval]))",
                    "{{pool}} {{workload_class}}",
                ),
            ),
            stacked=True,
        ),
        _graph(
            "Margin",
            "percentunit",
            "Revenue over cost, less 1. Absent while a class that has tokens does not say what they earn.",
            (
                (f"namespace_pool:tidefleet_pool_margin:ratio_rate2h{{{POOL}}}", "{{namespace}}/{{pool}}, 2 hours"),
                (f"namespace_pool:tidefleet_pool_margin:ratio_rate1d{{{POOL}}}", "{{namespace}}/{{pool}}, 1 day"),
            ),
            least=None,
        ),
        _graph(
            "Tokens",
            "short",
            "Tokens per second by class and direction.",
            (
                (
                    "sum by (workload_class, direction) (rate("
                    f'tidefleet_pool_tokens_total{{{POOL},direction=~"input|cached|output"}}[$__rate_interval]))',
                    "{{workload_class}} {{direction}}",
                ),
            ),
            stacked=True,
        ),
        _graph(
            "OpenCost's bill over ours",
            "short",
            "What each pool's model costs by OpenCost over what it costs by us, in an hour; 1 is agreement.",
            ((f"tidefleet_pool_opencost_cost_ratio{{{POOL}}}", "{{namespace}}/{{pool}}"),),
        ),
        _graph(
            "Plans",
            "currencyUSD",
            "USD per hour: what plans cost, what is proven to be the least, and what they save against one type.",
            (
                (f"sum(tidefleet_plan_cost_usd_per_hour{{{POOL}}})", "plans"),
                (f"sum(tidefleet_plan_lower_bound_usd_per_hour{{{POOL}}})", "at least"),
                (f"sum(tidefleet_plan_savings_usd_per_hour{{{POOL}}})", "saved"),
            ),
        ),
    ):
        board = board.with_panel(panel)
    board = board.with_row(dashboard.Row("Requests and caches, by the router"))
    for panel in _of_the_router():
        board = board.with_panel(panel)
    return board


def _of_the_router() -> Iterator[timeseries.Panel]:
    """What only the router knows; empty where there is none."""
    hour = f"namespace_pool:tidefleet_pool_spend_usd_per_hour:rate1h{{{POOL}}} / 3600"
    output = f"1 - namespace_pool:tidefleet_pool_prefill:ratio_rate1h{{{POOL}}}"
    costs = f"sum by (le, workload_class) (rate(tidefleet_request_cost_usd_bucket{{{POOL}}}[$__rate_interval]))"
    yield _graph(
        "A request in dollars",
        "currencyUSD",
        "USD of the accelerator-seconds that requests of each class took, idle time not included: half of them, and "
        "all but one in twenty, cost less.",
        (
            (f"histogram_quantile(0.5, {costs})", "{{workload_class}}, median"),
            (f"histogram_quantile(0.95, {costs})", "{{workload_class}}, 95 %"),
        ),
    )
    yield _graph(
        "USD per million output tokens, good ones and all",
        "currencyUSD",
        "What output tokens cost, over all of them and over those of requests that met their class's objectives.",
        (
            (
                f"namespace_pool:tidefleet_pool_usd_per_million_output_tokens:rate1h{{{POOL}}}",
                "{{namespace}}/{{pool}}, all",
            ),
            (
                f"1e6 * {hour} * ({output}) / (sum by (namespace, pool) (rate("
                f'tidefleet_router_output_tokens_total{{{POOL},slo="met"}}[1h])) > 0)',
                "{{namespace}}/{{pool}}, good",
            ),
        ),
    )
    yield _graph(
        "USD per successful task",
        "currencyUSD",
        "The whole bill over the tasks that their clients called a success; failed and retried ones are in the price.",
        (
            (
                f"{hour} / (sum by (namespace, pool) (rate("
                f'tidefleet_pool_tasks_total{{{POOL},outcome="success"}}[1h])) > 0)',
                "{{namespace}}/{{pool}}",
            ),
        ),
    )
    yield _graph(
        "Prompt tokens computed twice",
        "short",
        "Prompt tokens per second that were prefilled although they had been computed before, by cause.",
        (
            (
                f"sum by (cause) (rate(tidefleet_pool_recomputed_tokens_total{{{POOL}}}[$__rate_interval]))",
                "{{cause}}",
            ),
        ),
        stacked=True,
    )
    yield _graph(
        "Power that cache hits saved",
        "watt",
        "Joules per second of prefill that hits made needless, less those of the fetch, by the tier that held them.",
        (
            (
                f"sum by (tier) (rate(tidefleet_pool_energy_avoided_joules_total{{{POOL}}}[$__rate_interval]))",
                "saved, {{tier}}",
            ),
            (f"sum(rate(tidefleet_pool_energy_joules_total{{{POOL}}}[$__rate_interval]))", "drawn"),
        ),
    )


def _choice(name: str, query: str) -> dashboard.QueryVariable:
    """A variable of which several values may be chosen, all of them at first."""
    return (
        dashboard.QueryVariable(name)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def _figure(title: str, unit: str, expr: str, about: str) -> stat.Panel:
    query = prometheus.Dataquery().expr(expr).instant().ref_id("A").datasource(SOURCE)
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .datasource(SOURCE)
        .span(_WIDTH // 6)
        .height(4)
        .with_target(query)
    )


def _graph(
    title: str, unit: str, about: str, queries: tuple[Query, ...], *, stacked: bool = False, least: float | None = 0.0
) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .datasource(SOURCE)
        .span(_WIDTH // 2)
        .height(9)
        .draw_style(GraphDrawStyle.LINE)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
    )
    if stacked:
        panel = panel.fill_opacity(70).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if least is not None:
        panel = panel.min(least)
    for index, (expr, legend) in enumerate(queries):
        query = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id("ABCDEFGH"[index])
        panel = panel.with_target(query.range().datasource(SOURCE))
    return panel
