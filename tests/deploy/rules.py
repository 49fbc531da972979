"""Checks the rules with promtool, and that every alert has tests both ways and a runbook entry."""

import re

import yaml
from common import CHART, DEPLOY, check, main, run

PROMETHEUS = DEPLOY / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))


def alerts():
    groups = yaml.safe_load((PROMETHEUS / "rules" / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def tools_agree():
    run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")
    said = run("promtool", "check", "rules", *RULES)
    run("promtool", "test", "rules", *TESTS)
    rules = sum(map(int, re.findall(r"(\d+) rules found", said)))
    stories = sum(len(yaml.safe_load(test.read_text())["tests"]) for test in TESTS)
    return f"promtool: {rules} rules hold, {stories} stories come true"


def every_alert_is_tried_both_ways():
    fires, silent = set(), set()
    for test in TESTS:
        for story in yaml.safe_load(test.read_text())["tests"]:
            for when in story["alert_rule_test"]:
                (fires if when["exp_alerts"] else silent).add(when["alertname"])
    check(fires == set(alerts()), f"not seen firing, or unknown: {sorted(fires ^ set(alerts()))}")
    check(silent == set(alerts()), f"not seen silent, or unknown: {sorted(silent ^ set(alerts()))}")
    return f"{len(fires)} alerts are tried both ways"


def every_alert_is_explained():
    headings = re.findall(r"^## (\w+)$", (DEPLOY / "RUNBOOK.md").read_text(), re.M)
    check(sorted(headings) == sorted(alerts()), f"RUNBOOK.md and the alerts differ: {set(headings) ^ set(alerts())}")
    for name, rule in alerts().items():
        notes = rule["annotations"]
        check(set(notes) == {"summary", "description", "runbook_url"}, f"{name}: {sorted(notes)}")
        check(notes["runbook_url"] == f"deploy/RUNBOOK.md#{name.lower()}", f"{name}: {notes['runbook_url']}")
        check(rule["labels"]["severity"] in {"critical", "warning", "info"}, f"{name}: {rule['labels']}")
    return "every alert has a summary, a description, a severity and a paragraph in the runbook"


def the_chart_has_the_same_rules():
    for rule in RULES:
        copy = CHART / "files" / rule.name
        check(copy.is_file() and copy.read_bytes() == rule.read_bytes(), f"cp {rule} {copy}: Helm reads nothing outside a chart")
    return "the chart carries the same rules"


if __name__ == "__main__":
    main(tools_agree, every_alert_is_tried_both_ways, every_alert_is_explained, the_chart_has_the_same_rules)
