#!/usr/bin/env python3
"""A large model on a small machine: when it is ready, what memory it takes, how long a pass lasts, and whether the server
stays responsive meanwhile.

    cargo build --release && python3 benches/serve_drill.py llada-q4_k.gguf --canvas 32,128
"""

import argparse
import json
import random
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

REMASK = Path(__file__).resolve().parent.parent / "target/release/remask"


class Server:
    def __init__(self, program, model, port):
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([program, "serve", "--model-id", model, "--port", str(port)])

    def get(self, path):
        """Status, seconds, body."""
        begun = time.monotonic()
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return answer.status, time.monotonic() - begun, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, time.monotonic() - begun, error.read()
        except OSError:
            return 0, 0.0, b""

    def complete(self, prompt, new, steps, stream):
        diffusion = {"steps": steps, "block_length": new, "remasking": "off", "end_of_text": "never"}
        body = {"prompt": prompt, "max_tokens": new, "stream": stream, "diffusion": diffusion}
        request = urllib.request.Request(f"{self.url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
        return urllib.request.urlopen(request, timeout=3600)

    def memory(self):
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        words = dict(line.split(":", 1) for line in lines)
        return ", ".join(f"{key} {int(words[key].split()[0]) / 1e6:.2f} GB" for key in ("VmRSS", "VmHWM"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--canvas", default="32,128")
    parser.add_argument("--vocabulary", type=int, default=126080)
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--program", default=REMASK)
    args = parser.parse_args()
    begun = time.monotonic()
    server = Server(args.program, args.model, args.port)
    try:
        while server.get("/ready")[0] != 200:
            time.sleep(0.05)
        print(f"ready after {time.monotonic() - begun:.1f} s; {server.memory()}")
        draw = random.Random(0)
        for canvas in map(int, args.canvas.split(",")):
            prompt = [draw.randrange(args.vocabulary) for _ in range(canvas // 4)]
            pokes, is_over = [], threading.Event()

            def poke():
                while not is_over.is_set():
                    pokes.extend(server.get(path)[1] for path in ("/health", "/metrics"))
                    time.sleep(0.02)

            poker = threading.Thread(target=poke)
            poker.start()
            begun = time.monotonic()
            answer = json.load(server.complete(prompt, canvas - len(prompt), 4, stream=False))
            took = time.monotonic() - begun
            is_over.set()
            poker.join()
            passes = answer["diffusion"]["forward_passes"]
            print(f"{canvas} tokens: {took / passes:.2f} s a pass; /health and /metrics asked {len(pokes)} times meanwhile, slowest {max(pokes) * 1e3:.0f} ms")
        answer = server.complete(prompt, canvas - len(prompt), canvas - len(prompt), stream=True)
        answer.readline()
        time.sleep(1)
        answer.close()
        begun = time.monotonic()
        while not re.search(rb"^remask_sequences_running{.*} 0$", server.get("/metrics")[2], re.M):
            time.sleep(0.05)
        print(f"a client that went away was noticed after {time.monotonic() - begun:.1f} s; {server.memory()}")
    finally:
        server.process.terminate()
        print("exit status", server.process.wait())


if __name__ == "__main__":
    main()
