"""Runs every query of the dashboard, the rules and the autoscalers on a Prometheus that scrapes
live servers under light load: all must parse, and all that should have a result must have one."""

import http.client
import json
import re
import shutil
import time
import urllib.parse
from itertools import combinations

import promql_parser
import yaml
from common import DEPLOY, PLANNED_METRICS, SCRATCH, Load, Server, ask, check, main, no_longer_planned, remask, run
from chart import keda_queries

OUTCOMES = {"ok", "invalid", "refused", "failed", "cancelled"}  # Outcome in src/telemetry/metrics.rs
PATIENCE = 60  # seconds for all queries to find something
DASHBOARD = json.loads((DEPLOY / "grafana" / "remask.json").read_text())
GRID = "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79"
INFILL = {"template": GRID, "blank": "."}


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def dashboard_queries():
    """The queries of each panel, with Grafana's variables filled in."""
    for panel in panels():
        for target in panel["targets"]:
            expr = target["expr"].replace("$__rate_interval", "30s").replace("$job", ".*").replace("$instance", ".*").replace("$model", ".*")
            yield f"panel {panel['title']!r}", expr


def rule_queries():
    for file in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                yield rule, rule["expr"]


def adapter_queries():
    values = yaml.safe_load((DEPLOY / "helm" / "prometheus-adapter-values.yaml").read_text())
    for rule in values["rules"]["custom"]:
        series = re.match(r"\w+", rule["seriesQuery"])[0]
        expr = rule["metricsQuery"].replace("<<.Series>>", series)
        yield f"adapter {rule['name']['as']}", expr.replace("<<.LabelMatchers>>", 'job="remask"').replace("<<.GroupBy>>", "instance")


def selectors(node):
    """Every series selector of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(node, name, None)
        if inner is not None:
            yield from selectors(inner)
    for inner in getattr(node, "args", None) or []:
        yield from selectors(inner)


def names(expr):
    """The scraped series of a query; a recorded series stands for those of its rule."""
    recorded = {rule["record"]: inner for rule, inner in rule_queries() if "record" in rule}
    found = {selector.name for selector in selectors(promql_parser.parse(expr))}
    return set().union(*(names(recorded[name]) if name in recorded else {name} for name in found))


def finds(url, expr):
    """Whether a query has a result; raises `Wrong` if it does not parse."""
    status, text = ask(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}")
    check(status == 200, f"{expr}: {text}")
    return any(sample["value"][1] != "NaN" for sample in json.loads(text)["data"]["result"])


def leave_early(url):
    """A client that disconnects during its answer."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    body = json.dumps({**INFILL, "stream": True, "diffusion": {"steps": 51}})
    connection.request("POST", "/v1/infill", body, {"content-type": "application/json"})
    connection.getresponse().read(64)
    connection.close()


def demands(queries):
    """What must have a result for each query: the query, or, for an alert, every series in it."""
    for where, expr in queries:
        if isinstance(where, dict) and "alert" in where:
            for selector in selectors(promql_parser.parse(expr)):
                kept = []
                for matcher in selector.matchers.matchers:
                    if matcher.name == "outcome":
                        asked = set(matcher.value.split("|"))
                        check(asked <= OUTCOMES, f"{where['alert']}: there is no outcome {asked - OUTCOMES}")
                    elif matcher.name != "__name__":
                        kept.append(str(matcher))
                yield f"alert {where['alert']}", f"{selector.name}{{{', '.join(kept)}}}"
        else:
            yield where if isinstance(where, str) else f"record {where['record']}", expr


def prometheus(*targets):
    """Prometheus with our configuration, except for targets and intervals."""
    place = SCRATCH / "prometheus"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(DEPLOY / "prometheus" / "rules", place / "rules")
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target.removeprefix("http://") for target in targets]}]
    (place / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={place}/prometheus.yml", f"--storage.tsdb.path={place}/data"]
    says = r'msg="?Listening on"? address=(\S+)'
    return Server([*command, "--web.listen-address=127.0.0.1:0"], says, log="prometheus.log")


def every_query_finds_what_it_should():
    queries = [*dashboard_queries(), *rule_queries(), *adapter_queries(), *keda_queries()]
    warnings = [expr for rule, expr in queries if isinstance(rule, dict) and "alert" in rule]
    wanted = list(demands(queries))
    promised = [expr for _, expr in wanted if names(expr) & PLANNED_METRICS]
    pending = {f"{where}: {expr}": expr for where, expr in wanted if expr not in promised}
    total = len(pending)
    with (
        remask("--model-id=sudoku", "--resume-grace=0") as sudoku,  # answers whose clients left would be nearly all of the load
        remask("--model-id=toy", "--max-concurrent-requests=1", "--max-queue=0") as toy,
    ):
        kinds = [
            lambda: ask(f"{sudoku.url}/v1/infill", INFILL),
            lambda: ask(f"{sudoku.url}/v1/infill", {**INFILL, "diffusion": {"deadline_ms": 20}}),
            lambda: ask(f"{sudoku.url}/v1/infill", {**INFILL, "diffusion": {"remasking": {"policy": "random", "budget": 8}, "return_quality": True}}),
            lambda: ask(f"{sudoku.url}/v1/infill", {**INFILL, "nonsense": 1}),
            lambda: leave_early(sudoku.url),
            lambda: ask(f"{toy.url}/v1/completions", {"prompt": [1, 2], "max_tokens": 64, "stream": True}),
            lambda: ask(f"{toy.url}/v1/completions", {"prompt": [1, 2], "max_tokens": 64, "stream": True}),
            lambda: ask(f"{toy.url}/v1/completions", {"prompt": [1, 2], "max_tokens": 512}),
        ]
        with prometheus(sudoku.url, toy.url) as server, Load(*kinds):
            begun = time.monotonic()
            while pending and time.monotonic() < begun + PATIENCE:
                time.sleep(1)
                pending = {what: expr for what, expr in pending.items() if not finds(server.url, expr)}
            for expr in promised + warnings:
                finds(server.url, expr)
            _, text = ask(f"{server.url}/api/v1/label/__name__/values")
            _, status = ask(f"{server.url}/api/v1/rules")
            _, metrics = ask(f"{sudoku.url}/metrics")
    no_longer_planned(set(json.loads(text)["data"]), PLANNED_METRICS, "the metric")
    check(not pending, "nothing was found by\n    " + "\n    ".join(pending))
    broken = [rule for group in json.loads(status)["data"]["groups"] for rule in group["rules"] if rule["health"] == "err"]
    check(not broken, f"rules that cannot be evaluated: {broken}")
    unused = PLANNED_METRICS - set().union(*(names(expr) for expr in promised))
    check(not unused, f"nothing asks for {sorted(unused)} any more: take it off the list in tests/deploy/common.py")
    check(not run("promtool", "check", "metrics", stdin=metrics), "promtool check metrics has something to say")
    return (
        f"{len(queries)} queries are understood; {total} of {total} series and queries found something, {len(promised)} wait for "
        f"{len(PLANNED_METRICS)} promised metrics; promtool has nothing against /metrics"
    )


def the_dashboard_is_well_made():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    check(len(ids) == len(set(ids)), "two panels have one id")
    for one, other in combinations((panel["gridPos"] for panel in DASHBOARD["panels"]), 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        check(apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], f"panels overlap: {one}, {other}")
    check({variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "job", "instance", "model"}, "variables")
    for panel in panels():
        title = panel["title"]
        check(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, f"{title} is wider than the grid")
        check(panel.get("description"), f"{title} has no description")
        unit = panel["fieldConfig"]["defaults"].get("unit") or panel["options"].get("yAxis", {}).get("unit")
        check(unit, f"{title} has no unit")
        for target in panel["targets"]:
            check(target["datasource"]["uid"] == "${datasource}", f"{title} asks a data source of its own")
            check("$job" in target["expr"], f"{title} asks about all jobs")
    return f"the dashboard has {len(panels())} panels, each with a unit, a description and a place"


if __name__ == "__main__":
    main(the_dashboard_is_well_made, every_query_finds_what_it_should)
