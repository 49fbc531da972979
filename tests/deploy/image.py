"""Checks the Dockerfile with hadolint, builds its last stage with buildah and starts the image.

No registry is needed: the C library of this machine replaces the base image, and a program that is
already built replaces the building stage."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from common import PLANNED_COMMANDS, REMASK, ROOT, SCRATCH, Server, ask, check, main, no_longer_planned, offered, run

DOCKERFILE = ROOT / "Dockerfile"
PLACE = SCRATCH / "image"
BASE = "gcr.io/distroless/cc-debian12:nonroot"
BASE_MB = 30  # distroless/cc, unpacked, is less
MOST_MB = 120
BUILDAH = ["buildah", f"--root={PLACE}/store", f"--runroot={PLACE}/run", "--storage-driver=vfs"]


def buildah(*args, **kwargs):
    return run(*BUILDAH, *args, **kwargs)


def hadolint():
    said = run("hadolint", DOCKERFILE)
    check(not said.strip(), said)
    return f"{run('hadolint', '--version').strip()} has nothing to say"


def what_is_sent_is_enough():
    """Exactly the files that the program is built from pass .dockerignore."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    check(lines[0] == "*", "only what is named is sent")
    named = {line.removeprefix("!/") for line in lines if line.startswith("!")}
    included = set()
    for source in (ROOT / "src").rglob("*.rs"):
        if "tests" in (source.stem, source.parent.name):
            continue  # modules that only a test build has
        text = source.read_text().split("#[cfg(test)]")[0]
        for path in re.findall(r'include_(?:bytes|str)!\("([^"]+)"\)', text):
            included.add((source.parent / path).resolve().relative_to(ROOT).as_posix())
    wanted = included | {"Cargo.toml", "Cargo.lock", "src"} | {name for name in ("build.rs", "proto") if (ROOT / name).exists()}
    wanted |= {f"benches/{name}.rs" for name in re.findall(r'\[\[bench\]\]\nname = "(\w+)"', (ROOT / "Cargo.toml").read_text())}
    missing = {path for path in wanted if not any(path == name or path.startswith(f"{name}/") for name in named)}
    check(not missing, f".dockerignore leaves out {sorted(missing)}")
    return f"{len(wanted)} things the build needs are sent"


def base_image():
    """The files of distroless/cc that a program needs: the loader and the libraries it links."""
    root = PLACE / "base"
    libraries = re.findall(r"(/\S+) \(0x", run("ldd", REMASK))
    for library in libraries:
        target = root / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    (root / "tmp").mkdir(mode=0o1777)
    (PLACE / "Base").write_text("FROM scratch\nCOPY base/ /\n")
    buildah("bud", "--format=docker", "--tag=localhost/base", f"--file={PLACE}/Base", PLACE)


def megabytes(image):
    images = json.loads(subprocess.run([*BUILDAH, "images", "--json"], capture_output=True, text=True, check=True).stdout)
    size = next(one["size"] for one in images if f"localhost/{image}:latest" in one["names"])
    number, unit = re.fullmatch(r"([\d.]+) (\w+)", size).groups()
    return float(number) * {"B": 1e-6, "KB": 1e-3, "MB": 1, "GB": 1e3}[unit]


def the_last_stage_builds_and_serves():
    shutil.rmtree(PLACE, ignore_errors=True)
    (PLACE / "builder" / "out" / "cache").mkdir(parents=True)
    run("strip", "-o", PLACE / "builder" / "out" / "remask", REMASK)  # as the release profile does
    base_image()
    # this buildah builds unused stages where a variable names the used one
    text = DOCKERFILE.read_text()
    check(BASE in text, f"the Dockerfile is not on {BASE} any more")
    (PLACE / "Dockerfile").write_text(text.replace("${VARIANT}", "cpu"))
    buildah(
        "bud", "--format=docker", "--isolation=chroot", "--target=runtime", "--tag=localhost/remask", f"--file={PLACE}/Dockerfile",
        f"--build-context=builder={PLACE}/builder", f"--build-context={BASE}=container-image://localhost/base",
        "--build-arg=VERSION=1.2.3", "--build-arg=REVISION=abc", ROOT / "deploy",
    )
    added = megabytes("remask") - megabytes("base")
    check(added + BASE_MB < MOST_MB, f"{added:.0f} MB on a base of {BASE_MB} MB: more than {MOST_MB}")

    config = json.loads(buildah("inspect", "--type=image", "localhost/remask"))["Docker"]["config"]
    check(re.fullmatch(r"[1-9]\d*:[1-9]\d*", config["User"]), f"user {config['User']!r} is no number, or root")
    check(config["Entrypoint"] == ["/usr/local/bin/remask"] and config["Cmd"] == ["serve"], config["Entrypoint"])
    check(config["ExposedPorts"] == {"8080/tcp": {}}, config["ExposedPorts"])
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    check(labels["version"] == "1.2.3" and labels["revision"] == "abc" and labels["licenses"] == "Apache-2.0", labels)
    health = config["Healthcheck"]["Test"]
    check(health == ["CMD", "/usr/local/bin/remask", "health"], f"health check {health}")
    environment = dict(pair.split("=", 1) for pair in config["Env"])
    unknown = {name for name in environment if name.startswith("REMASK_")} - offered()[1]
    check(not unknown and environment["REMASK_HOSTNAME"] == "0.0.0.0", environment)

    box = buildah("from", "--pull-never", "localhost/remask").split()[-1]
    mount = Path(buildah("mount", box).split()[-1])
    cache = (mount / environment["HF_HOME"].lstrip("/")).stat()
    check(f"{cache.st_uid}:{cache.st_gid}" == config["User"], f"the cache belongs to {cache.st_uid}")
    before = {path: path.stat().st_mtime_ns for path in mount.rglob("*") if path.is_file()}
    inside = ["run", "--isolation=chroot", "--env=REMASK_HOSTNAME=127.0.0.1", "--env=REMASK_PORT=0", box, "--"]
    name = f"image-{os.getpid()}"
    command = [*BUILDAH, *inside, *config["Entrypoint"], *config["Cmd"], f"--served-model-name={name}"]
    with Server(command, r"(?m)^serving .* on http://(\S+)$", log="image.log") as server:
        for path in ("/health", "/ready", "/metrics"):
            check(ask(server.url + path)[0] == 200, path)
        status, text = ask(f"{server.url}/v1/infill", {"template": "12..", "blank": "."})
        check(status == 200, text)
        pid = next(
            int(proc.name) for proc in Path("/proc").iterdir()
            if proc.name.isdigit() and name in (line := read(proc / "cmdline")) and line.startswith("/usr/local/bin/remask")
        )
        uid = re.search(r"^Uid:\s+(\d+)", read(Path(f"/proc/{pid}/status")), re.M)[1]
        check(uid == config["User"].split(":")[0], f"runs as {uid}")
        if "health" not in PLANNED_COMMANDS:
            buildah("run", "--isolation=chroot", box, "--", *health[1:], f"--url={server.url}")
        os.kill(pid, signal.SIGTERM)
        check(server.process.wait(60) == 0, f"did not stop cleanly: {server.log.read_text()}")
    after = {path: path.stat().st_mtime_ns for path in mount.rglob("*") if path.is_file()}
    # added by buildah itself
    ours = lambda files: {p: t for p, t in files.items() if p.relative_to(mount).parts[0] not in ("etc", "run", "proc", "sys", "dev")}
    check(ours(before) == ours(after), f"written: {ours(after).items() ^ ours(before).items()}")
    return f"the image of {added:.0f} MB over its base serves as user {uid}, writes nothing, and stops cleanly"


def read(path):
    try:
        return path.read_text().replace("\0", " ")
    except OSError:
        return ""


def promises_are_kept():
    no_longer_planned(offered()[2], PLANNED_COMMANDS, "the command")
    return f"still promised: the command {', '.join(PLANNED_COMMANDS) or 'nothing'}"


if __name__ == "__main__":
    main(hadolint, what_is_sent_is_enough, promises_are_kept, the_last_stage_builds_and_serves)
