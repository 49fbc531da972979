"""Helpers of the checks of deploy/: paths, a server, and names that the server does not offer."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "remask"
SCRATCH = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "deploy"
REMASK = Path(os.environ["REMASK"])

# Names that deploy/ uses and the server does not offer yet. The checks fail once the server offers
# one, until it is removed from its list.
PLANNED_METRICS = set()
PLANNED_FLAGS = set()
PLANNED_COMMANDS = set()

# Seconds that clients have for their last bytes once the engine has drained: LINGER in src/api/.
LINGER = 5


class Wrong(Exception):
    """A fault under deploy/."""


def check(holds, message):
    if not holds:
        raise Wrong(message)


def run(*command, stdin=None, timeout=300, env=None):
    """Runs a command; returns its output, or raises `Wrong` with it."""
    done = subprocess.run(
        [str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=timeout, env=env, cwd=ROOT
    )
    check(done.returncode == 0, f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def main(*checks):
    """Runs checks, each of which returns a sentence on its result, and prints how many passed."""
    failed = 0
    for one in checks:
        begun = time.monotonic()
        try:
            print(f"  {one()} ({time.monotonic() - begun:.1f} s)", flush=True)
        except Exception as wrong:  # whatever it is, the other checks are worth knowing
            failed += 1
            kind = "" if isinstance(wrong, Wrong) else f"{type(wrong).__name__}: "
            print(f"  FAILED {one.__name__}: {kind}{wrong}", flush=True)
    sys.exit(1 if failed else 0)


def offered():
    """Flags, environment variables and commands of the program."""
    serve, program = run(REMASK, "serve", "--help"), run(REMASK, "--help")
    flags = set(re.findall(r"^ +(?:-\w, )?(--[a-z0-9-]+)", serve, re.M))
    variables = set(re.findall(r"\[env: ([A-Z_]+)", serve))
    commands = set(re.findall(r"^  ([a-z]+)  ", program.split("Commands:")[1].split("Options:")[0], re.M))
    return flags, variables, commands


def no_longer_planned(there, planned, what):
    here = there & planned
    check(not here, f"{what} {', '.join(sorted(here))} is there now: take it off the list in tests/deploy/common.py")


class Server:
    """A program that logs the address it listens on."""

    def __init__(self, command, says, env=None, log=None):
        self.log = SCRATCH / (log or f"{Path(command[0]).name}-{id(self)}.log")
        SCRATCH.mkdir(parents=True, exist_ok=True)
        with open(self.log, "w") as out:
            self.process = subprocess.Popen(
                [str(part) for part in command], stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
            )
        for _ in range(600):
            found = re.search(says, self.log.read_text(errors="replace"))
            if found:
                self.url = f"http://{found[1]}"
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.process.kill()
        raise Wrong(f"{command} did not say where it listens:\n{self.log.read_text(errors='replace')}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def remask(*args, env=None):
    return Server([REMASK, "serve", *args, "--port=0"], r"(?m)^serving .* on http://(\S+)$", env)


def ask(url, body=None, key=None, timeout=30):
    """Status and text of an answer."""
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Load:
    """Requests of all kinds from a few threads, until stopped."""

    def __init__(self, *kinds):
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.go, args=(kind,), daemon=True) for kind in kinds]

    def go(self, kind):
        while not self.stopped.is_set():
            try:
                kind()
            except OSError:
                pass  # a client that leaves is among the kinds
            self.stopped.wait(0.05)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)
