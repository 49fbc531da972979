#!/usr/bin/env python3
"""Python functions from packages, as training data or as prompts for `remask eval compare`.

    python3 benches/python_functions.py --out functions.jsonl attrs click rich      # whole functions
    python3 benches/python_functions.py --out prompts.jsonl --prompts 400 sympy     # signatures only

Packages are downloaded from PyPI with pip and unpacked; none of their code is run. `stdlib` stands
for Python's own library. A line is {"prompt": signature, "response": body}: what `remask train prism
--data` reads, and `remask eval compare --data` with a --check. Functions have 3 to 28 lines after
docstrings and comments are removed, and each occurs once. Training data has no long signatures.
"""

import argparse
import ast
import hashlib
import json
import pathlib
import random
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile

LINES = range(3, 29)
# characters of a signature in training data, so that its row has room for a body
LONGEST = 240


def sources(package, directory):
    """The texts of a package's Python files."""
    if package == "stdlib":
        library = pathlib.Path(sysconfig.get_paths()["stdlib"])
        files = (path for path in library.rglob("*.py") if "site-packages" not in path.parts)
        yield from (path.read_bytes() for path in sorted(files))
        return
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory, package], check=True
    )
    for archive in sorted(pathlib.Path(directory).iterdir()):
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as files:
                names = sorted(name for name in files.namelist() if name.endswith(".py"))
                yield from (files.read(name) for name in names)
        else:
            with tarfile.open(archive) as files:
                members = sorted((one for one in files if one.name.endswith(".py")), key=lambda one: one.name)
                yield from (files.extractfile(member).read() for member in members if member.isfile())


def functions(source):
    """The signature and the body of each function in a text, methods included."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        node.decorator_list = []
        if not node.body:
            continue
        lines = ast.unparse(node).splitlines()  # without comments
        if len(lines) in LINES:
            yield lines[0] + "\n", "\n".join(lines[1:]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", help="names on PyPI, or stdlib")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the JSONL file to write")
    parser.add_argument("--prompts", type=int, help="write so many signatures, chosen at random, without bodies")
    parser.add_argument("--seed", type=int, default=1, help="of the choice and of the order")
    args = parser.parse_args()
    found = {}
    for package in args.packages:
        before = len(found)
        with tempfile.TemporaryDirectory() as directory:
            for source in sources(package, directory):
                for signature, body in functions(source):
                    digest = hashlib.sha256((signature + body).encode()).digest()
                    found.setdefault(digest, (signature, body))
        print(f"{package}: {len(found) - before} functions", file=sys.stderr)
    rows = list(found.values())
    if args.prompts is not None:
        # one for each signature, long enough to say what is wanted
        rows = list({signature: (signature, body) for signature, body in rows if len(signature) >= 20}.values())
    else:
        rows = [row for row in rows if len(row[0]) <= LONGEST]
    random.Random(args.seed).shuffle(rows)
    with args.out.open("w", encoding="utf-8") as out:
        for signature, body in rows[: args.prompts]:
            row = {"prompt": signature} if args.prompts is not None else {"prompt": signature, "response": body}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{args.out}: {len(rows[: args.prompts])} lines", file=sys.stderr)


if __name__ == "__main__":
    main()
