"""Renders the Helm chart with Helm for several sets of values, validates the objects against
Kubernetes' schemas, and runs the commands they contain."""

import re
import tempfile
from pathlib import Path

import helm_python as helm
import kubernetes_validate
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as monitoring
from common import CHART, DEPLOY, LINGER, PLANNED_FLAGS, SCRATCH, ask, check, main, offered, remask, run

VERSIONS = ["1.30", "1.34", "1.37"]  # the oldest the chart takes, one between, the newest the validator knows
CUSTOM = {
    "ServiceMonitor": monitoring.ServiceMonitor,
    "PrometheusRule": monitoring.PrometheusRule,
    "ScaledObject": keda.ScaledObject,
}
# The part of inference.networking.k8s.io/v1 that the chart uses, from the extension's API
# reference.
POOL = {
    "selector": {"matchLabels": dict},
    "targetPorts": [{"number": int}],
    "endpointPickerRef": {"name": str, "port": {"number": int}, "failureMode": str},
}
PLAIN = ["Deployment", "Pod", "Service", "ServiceAccount"]
# sets of values, and the objects they produce
SETS = {
    "defaults": ({}, PLAIN),
    "gpu-8b": ("gpu-8b.yaml", [*PLAIN, "PersistentVolumeClaim", "PodDisruptionBudget", "PrometheusRule", "ServiceMonitor"]),
    "guarded": (
        "guarded.yaml",
        [*PLAIN, "HorizontalPodAutoscaler", "InferencePool", "NetworkPolicy", "PodDisruptionBudget", "ServiceMonitor"],
    ),
    "keda": ("keda.yaml", [*PLAIN, "NetworkPolicy", "PrometheusRule", "ScaledObject", "Secret", "ServiceMonitor"]),
    "bare": (
        {
            "serviceAccount": {"create": False}, "podDisruptionBudget": {"enabled": False}, "preStopSeconds": 0,
            "topologySpreadConstraints": [], "cache": {"type": "none"}, "model": {"id": "toy"}, "resources": {},
        },
        ["Deployment", "Pod", "Service"],
    ),
    "everything": (
        {
            "fullnameOverride": "llada", "image": {"tag": "sha256:" + "0" * 64, "pullSecrets": [{"name": "pull"}]},
            "model": {
                "id": "me/mine", "revision": "main", "servedName": "m", "prismHead": "/m/h", "adapter": "/m/a", "maxLength": 512,
            },
            "corsAllowOrigins": ["https://a.example", "https://b.example"], "extraArgs": ["--load-format=auto"],
            "extraEnv": [{"name": "RUST_LOG", "value": "info"}], "podLabels": {"team": "a"}, "podAnnotations": {"b": "c"},
            "apiKeys": {"existingSecret": "keys"}, "hfToken": {"existingSecret": "hub"}, "nodeSelector": {"d": "e"},
            "cache": {"type": "pvc", "existingClaim": "models"}, "gpu": {"enabled": True, "count": 2}, "runtimeClassName": "nvidia",
            "service": {"type": "NodePort", "port": 80, "annotations": {"f": "g"}}, "priorityClassName": "high",
            "strategy": {"type": "Recreate"}, "networkPolicy": {"enabled": True}, "replicas": 3, "metrics": {"vllmAliases": True},
            "extraVolumes": [{"name": "m", "emptyDir": {}}], "extraVolumeMounts": [{"name": "m", "mountPath": "/m"}],
            "affinity": {"podAntiAffinity": {}}, "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 600,
            "serviceAccount": {"name": "sa", "annotations": {"h": "i"}},
        },
        [*PLAIN, "NetworkPolicy", "PodDisruptionBudget"],
    ),
}
# values that are refused, and a part of the message
REFUSED = {
    "a name that does not exist": ({"limits": {"queueMax": 3}}, "queueMax"),
    "a word that is none of those allowed": ({"autoscaling": {"kind": "vpa"}}, "kind"),
    "too little time to stop": ({"terminationGracePeriodSeconds": 30}, "40 seconds at least"),
    "a model of the hub and no cache": ({"model": {"id": "me/mine"}, "cache": {"type": "none"}}, "cache.type"),
    "a bound on keys and no keys": ({"apiKeys": {"maxRequestsPerKey": 3}}, "apiKeys.keys"),
    "a pool without a picker": ({"inferencePool": {"enabled": True}}, "endpointPicker"),
    "fewer servers at most than at least": ({"autoscaling": {"enabled": True, "minReplicas": 5}}, "minReplicas"),
}


def values_of(name):
    values, _ = SETS[name]
    if isinstance(values, str):
        values = yaml.safe_load((DEPLOY / "helm" / "examples" / values).read_text())
    return values


def render(values, name="demo"):
    """The objects of a release by kind; Helm's error if it fails."""
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values, name=name, namespace="models")
    documents = [
        document for file, text in files.items() if file.endswith(".yaml") for document in yaml.safe_load_all(text) if document
    ]
    kinds = {document["kind"]: document for document in documents}
    check(len(kinds) == len(documents), "two documents of one kind")
    return kinds


def container(kinds):
    return kinds["Deployment"]["spec"]["template"]["spec"]["containers"][0]


def flags(kinds):
    return dict(arg.split("=", 1) for arg in container(kinds)["args"] if arg.startswith("--"))


def keda_queries():
    """The queries of the ScaledObject, for any server."""
    for trigger in render(values_of("keda"))["ScaledObject"]["spec"]["triggers"]:
        yield "keda", re.sub(r"\{[^}]*\}", '{job="remask"}', trigger["metadata"]["query"])


def lint():
    report = helm.lint(CHART, strict=True)
    bad = [message for message in report["messages"] if message["severity"] > 1] + report["errors"]
    check(not bad, bad)
    return f"helm {helm.helm_sdk_version()} lint --strict has nothing to say"


def fits(value, shape, where):
    """Whether a value has exactly a shape: no field missing, none unknown."""
    if isinstance(shape, type):
        check(isinstance(value, shape), f"{where}: {value!r} is no {shape.__name__}")
    elif isinstance(shape, list):
        check(isinstance(value, list) and value, f"{where}: {value!r} is no list")
        for inner in value:
            fits(inner, shape[0], where)
    else:
        check(isinstance(value, dict) and set(value) == set(shape), f"{where}: {value!r} against {sorted(shape)}")
        for key, inner in shape.items():
            fits(value[key], inner, f"{where}.{key}")


def valid(kind, document):
    if kind == "InferencePool":
        check(document["apiVersion"] == "inference.networking.k8s.io/v1", document["apiVersion"])
        fits(document["spec"], POOL, kind)
    elif kind in CUSTOM:
        model = CUSTOM[kind].model_validate(document)
        known = model.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
        # the models ignore unknown fields
        check(known["spec"] == document["spec"], f"{kind}: not all of it is known: {document['spec']} {known['spec']}")
    else:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                check(False, f"{kind}, Kubernetes {version}: {list(error.path)} {error.message}")


def every_set_renders_and_is_valid():
    count = 0
    for name, (_, expected) in SETS.items():
        kinds = render(values_of(name))
        check(sorted(kinds) == sorted(expected), f"{name}: {sorted(kinds)}")
        for kind, document in kinds.items():
            valid(kind, document)
            check(document["metadata"]["namespace"] == "models", f"{name}: {kind} is in no namespace")
            count += 1
    return f"{len(SETS)} sets of values, {count} documents, valid for Kubernetes {', '.join(VERSIONS)}"


def parts_fit_together():
    known, variables, _ = offered()
    for name in SETS:
        kinds = render(values_of(name))
        deployment, service = kinds["Deployment"]["spec"], kinds["Service"]["spec"]
        pod, labels = deployment["template"]["spec"], deployment["template"]["metadata"]["labels"]
        box, given = container(kinds), flags(kinds)

        def selects(selector, what):
            check(selector.items() <= labels.items(), f"{name}: {what} does not select the servers")
            tester = kinds["Pod"]["metadata"]["labels"]
            check(not selector.items() <= tester.items(), f"{name}: {what} selects the test's pod, too")

        selects(deployment["selector"]["matchLabels"], "the Deployment")
        selects(service["selector"], "the Service")
        for kind, path in [
            ("PodDisruptionBudget", ("selector", "matchLabels")), ("NetworkPolicy", ("podSelector", "matchLabels")),
            ("InferencePool", ("selector", "matchLabels")),
        ]:
            if kind in kinds:
                selects(kinds[kind]["spec"][path[0]][path[1]], f"the {kind}")
        ports = {port["name"]: port["containerPort"] for port in box["ports"]}
        check(all(port["targetPort"] in ports for port in service["ports"]), f"{name}: the Service's ports")
        check(int(given["--port"]) == ports["http"], f"{name}: --port")
        if "ServiceMonitor" in kinds:
            monitor = kinds["ServiceMonitor"]["spec"]
            check(monitor["selector"]["matchLabels"].items() <= kinds["Service"]["metadata"]["labels"].items(), f"{name}: ServiceMonitor")
            check(monitor["endpoints"][0]["port"] in {port["name"] for port in service["ports"]}, f"{name}: the ServiceMonitor's port")
            check(monitor["endpoints"][0]["honorLabels"], f"{name}: our label `endpoint` would be renamed")
        for kind, field in [("HorizontalPodAutoscaler", "scaleTargetRef"), ("ScaledObject", "scaleTargetRef")]:
            if kind in kinds:
                check(kinds[kind]["spec"][field]["name"] == kinds["Deployment"]["metadata"]["name"], f"{name}: {kind}")
                check("replicas" not in deployment, f"{name}: Deployment and {kind} would pull in two directions")

        mounts, volumes = {mount["name"] for mount in box["volumeMounts"] or []}, {volume["name"] for volume in pod["volumes"] or []}
        check(mounts == volumes, f"{name}: mounts {mounts}, volumes {volumes}")
        unknown = set(given) - known - PLANNED_FLAGS
        check(not unknown, f"{name}: `remask serve` has no {sorted(unknown)}")
        for variable in box["env"]:
            check(variable["name"] in variables | {"HF_HOME", "RUST_LOG", "CUDA_CACHE_PATH"}, f"{name}: nobody reads {variable['name']}")

        drain = int(given["--drain-timeout"])
        stop = box.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        check(pod["terminationGracePeriodSeconds"] >= stop + drain + LINGER, f"{name}: killed before it has drained")
        check(box["livenessProbe"]["httpGet"]["path"] == box["startupProbe"]["httpGet"]["path"] == "/health", f"{name}: probes")
        check(box["readinessProbe"]["httpGet"]["path"] == "/ready", f"{name}: probes")
        for one, whole in [(box, pod), (kinds["Pod"]["spec"]["containers"][0], kinds["Pod"]["spec"])]:
            safe, shared = one["securityContext"], whole["securityContext"]
            check(shared["runAsNonRoot"] and shared["runAsUser"] > 0 and safe["readOnlyRootFilesystem"], f"{name}: {safe}")
            check(not safe["allowPrivilegeEscalation"] and safe["capabilities"] == {"drop": ["ALL"]}, f"{name}: {safe}")
            check(whole["automountServiceAccountToken"] is False and whole["enableServiceLinks"] is False, f"{name}: {whole}")
    return "selectors, ports, mounts, flags, probes and times to stop fit together"


def details():
    kinds = render(values_of("gpu-8b"))
    check(container(kinds)["resources"]["limits"] == {"memory": "40Gi", "nvidia.com/gpu": 1}, container(kinds)["resources"])
    check(container(kinds)["image"].endswith("-cuda"), container(kinds)["image"])
    guarded = render(values_of("guarded"))
    check(guarded["NetworkPolicy"]["spec"]["egress"] == [], "a built-in model asks nobody")
    metrics = {metric["pods"]["metric"]["name"] for metric in guarded["HorizontalPodAutoscaler"]["spec"]["metrics"]}
    adapter = yaml.safe_load((DEPLOY / "helm" / "prometheus-adapter-values.yaml").read_text())["rules"]["custom"]
    check(metrics == {rule["name"]["as"] for rule in adapter}, f"the adapter does not offer {metrics}")
    check("--metrics-aliases" in flags(guarded), "the router looks for vLLM's names")
    keyed = render(values_of("keda"))
    check(keyed["Secret"]["stringData"]["keys"] == "change-me\n", keyed["Secret"])
    check(keyed["NetworkPolicy"]["spec"]["ingress"][1]["ports"][0]["port"] == "metrics", "scrapes go to the metrics' port")
    check(flags(keyed)["--otlp-endpoint"].endswith(":4317"), "traces go to the collector")
    outward = [port["port"] for rule in keyed["NetworkPolicy"]["spec"]["egress"] for port in rule["ports"]]
    check(outward == [53, 53, 4317], f"the collector alone is asked, not {outward}")
    links = [rule["annotations"]["runbook_url"] for group in keyed["PrometheusRule"]["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    check(all(link.startswith("https://example.org/remask/deploy/RUNBOOK.md#") for link in links), links)
    check("Secret" not in guarded and "change-me" not in str(guarded), "keys of one's own Secret are not copied")
    return "GPU, image, egress, autoscaler, keys and runbook are as the values say"


def the_rules_survive():
    with tempfile.NamedTemporaryFile("w", suffix=".yml", dir=SCRATCH) as file:
        spec = render(values_of("keda"))["PrometheusRule"]["spec"]
        yaml.safe_dump(spec, file)
        file.flush()
        run("promtool", "check", "rules", file.name)
        original = [
            group for name in ("recording", "alerts")
            for group in yaml.safe_load((DEPLOY / "prometheus" / "rules" / f"{name}.yml").read_text())["groups"]
        ]
        count = lambda groups: [(group["name"], len(group["rules"])) for group in groups]
        check(count(spec["groups"]) == count(original), "rules were lost")
        check([r["expr"] for g in spec["groups"] for r in g["rules"]] == [r["expr"] for g in original for r in g["rules"]], "expr")
    return "promtool holds the PrometheusRule's rules, too"


def what_is_wrong_is_refused():
    for what, (values, word) in REFUSED.items():
        try:
            render(values)
        except helm.HelmError as error:
            check(word in str(error), f"{what}: {word!r} is not in {error}")
        else:
            check(False, f"{what} was taken")
    return f"{len(REFUSED)} mistakes are refused by name"


def what_it_starts_starts():
    """Starts the program with the flags of a set whose model is built in, and tries its probes."""
    for name in ("defaults", "guarded", "keda", "bare"):
        kinds = render(values_of(name))
        with tempfile.TemporaryDirectory(dir=SCRATCH) as place:
            key = Path(place) / "keys"
            key.write_text("change-me\n")
            given = {**flags(kinds), "--hostname": "127.0.0.1"}
            given = {flag: value for flag, value in given.items() if flag not in PLANNED_FLAGS | {"--port"}}
            if "--api-key-file" in given:
                given["--api-key-file"] = str(key)
            with remask(*(f"{flag}={value}" for flag, value in given.items())) as server:
                probes = (container(kinds)[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe"))
                for path in [*probes, "/metrics"]:
                    check(ask(server.url + path)[0] == 200, f"{name}: {path}")
                asked = ask(f"{server.url}/v1/models")[0], ask(f"{server.url}/v1/models", key="change-me")[0]
                check(asked == ((401, 200) if "--api-key-file" in given else (200, 200)), f"{name}: keys {asked}")
    return "the program takes the chart's flags, and answers its probes; keys are asked for where there are keys"


if __name__ == "__main__":
    SCRATCH.mkdir(parents=True, exist_ok=True)
    main(
        lint, every_set_renders_and_is_valid, parts_fit_together, details, the_rules_survive, what_is_wrong_is_refused, what_it_starts_starts
    )
