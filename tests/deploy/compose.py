"""Checks compose.yaml with Docker Compose, and that its services refer to each other correctly."""

import json
import os
from pathlib import Path

import yaml
from common import DEPLOY, LINGER, check, main, offered, run

COMPOSE = Path(os.environ["COMPOSE"])
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}  # nobody's own variables


def config(*files):
    given = [part for file in files for part in ("--file", DEPLOY / file)]
    return json.loads(run(COMPOSE, *given, "config", "--format=json", env=ENVIRONMENT))


def compose_reads_it():
    for files in (["compose.yaml"], ["compose.yaml", "compose.cuda.yaml"]):
        config(*files)
    reserved = config("compose.yaml", "compose.cuda.yaml")["services"]["remask"]
    check(reserved["build"]["args"]["VARIANT"] == "cuda" and reserved["deploy"]["resources"]["reservations"]["devices"], reserved)
    return f"{run(COMPOSE, 'version').strip()} reads both files"


def parts_name_one_another():
    services = config("compose.yaml")["services"]
    for name, service in services.items():
        for mount in service.get("volumes", []):
            check(mount["type"] != "bind" or Path(mount["source"]).exists(), f"{name}: {mount['source']} does not exist")
        check(service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], f"{name} may too much")
        check(all(port["host_ip"] == "127.0.0.1" for port in service["ports"]), f"{name} is open to the network")
    remask = services["remask"]
    check(Path(remask["build"]["context"], "Dockerfile").is_file(), "no Dockerfile")
    unknown = set(remask["environment"]) - offered()[1]
    check(not unknown, f"`remask serve` does not read {sorted(unknown)}")
    grace, drain = remask["stop_grace_period"], int(remask["environment"]["REMASK_DRAIN_TIMEOUT"])
    check(int(grace.removesuffix("s")) >= drain + LINGER, f"{grace} to stop, {drain} s to drain")
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    check(scrape["static_configs"][0]["targets"] == [f"remask:{remask['ports'][0]['target']}"], "Prometheus scrapes another")
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    check(source["url"] == f"http://prometheus:{services['prometheus']['ports'][0]['target']}", "Grafana asks another")
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/remask.yaml").read_text())["providers"][0]
    mounted = {mount["target"] for mount in services["grafana"]["volumes"]}
    check(f"{provider['options']['path']}/remask.json" in mounted, "Grafana does not find the dashboard")
    return "mounts, variables, ports and times to stop fit together"


if __name__ == "__main__":
    main(compose_reads_it, parts_name_one_another)
