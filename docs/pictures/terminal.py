#!/usr/bin/env python3
"""Records `remask infill --watch` in a terminal, which tmux is, as an animated SVG.

    python3 docs/pictures/terminal.py target/release/remask docs/pictures/terminal.svg

Needs tmux and nothing else. The terminal's contents are captured until the program ends. Each step
is shown for its `--delay`, however busy the machine was. A row that stays as it is over several
steps is one text, which CSS shows for that time. A reader who asks for reduced motion sees the last
frame.
"""

import html
import os
import re
import subprocess
import sys
import tempfile
import time

COLUMNS, ROWS = 64, 12
DELAY_MS = 180  # of a step
READ_S, HOLD_S = 1.0, 4.0  # how long the command is shown, and the last frame
COMMAND = f"remask infill --watch --delay {DELAY_MS}"
WIDTH, HEIGHT, FONT = 8.4, 19, 14  # of a character; of a row; in pixels

# The 8 colours in a dark theme that colour-blind readers can tell apart.
COLOURS = {31: "#ff7b72", 33: "#e3b341", 35: "#d2a8ff", 36: "#56d4dd"}
TEXT, GROUND, DIM = "#e6edf3", "#0d1117", "#8b949e"


# A text and the parameters of its style, such as 1 for bold (SGR of ECMA-48).
Run = tuple[frozenset[int], str]
# Parameters that end others.
ENDS = {22: {1, 2}, 24: {4}, 27: {7}, 39: set(COLOURS)}


def styled(codes: frozenset[int], sequence: str) -> frozenset[int]:
    """The style after a control sequence."""
    for code in (int(word or 0) for word in sequence.split(";")):
        if code == 0:
            codes = frozenset()
        elif code in ENDS:
            codes -= ENDS[code]
        else:
            codes = (codes - set(COLOURS) if code in COLOURS else codes) | {code}
    return codes


def plain(row: list[Run]) -> str:
    return "".join(text for _, text in row).rstrip()


class Tmux:
    """A tmux server of its own with one window."""

    def __init__(self, place: str):
        config = os.path.join(place, "tmux.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write("set -g status off\nset -g default-terminal screen-256color\n")
        self.start = ["tmux", "-u", "-L", f"picture-{os.getpid()}", "-f", config]
        shell = f"env PS1='$ ' PATH='{place}:{os.environ['PATH']}' bash --norc --noprofile"
        self.do("new-session", "-d", "-s", "main", "-x", str(COLUMNS), "-y", str(ROWS), shell)

    def do(self, *words: str) -> str:
        environment = {key: value for key, value in os.environ.items() if key not in ("TMUX", "NO_COLOR")}
        environment["LC_ALL"] = "C.UTF-8"
        done = subprocess.run([*self.start, *words], env=environment, check=True, capture_output=True, text=True)
        return done.stdout

    def screen(self) -> list[list[Run]]:
        """The rows of the window."""
        rows, codes = [], frozenset()
        for row in self.do("capture-pane", "-p", "-e", "-t", "main").split("\n")[:ROWS]:
            runs = []
            for sequence, text in re.findall(r"(?:\x1b\[([0-9;]*)m)|([^\x1b]+)", row):
                if text:
                    runs.append((codes, text))
                else:
                    codes = styled(codes, sequence)  # which goes on in the next row
            rows.append(runs)
        return rows


def captures(tmux: Tmux) -> list[tuple[float, list[list[Run]]]]:
    """Every screen that differs from the one before, with the second at which it came."""
    while not plain(tmux.screen()[0]).startswith("$"):
        time.sleep(0.05)
    command = [(frozenset(), f"$ {COMMAND}")]
    seen = [(0.0, [command])]
    tmux.do("send-keys", "-t", "main", f"clear; {COMMAND}; echo has-ended", "Enter")
    patience = time.monotonic() + 120
    while time.monotonic() < patience:
        screen = tmux.screen()
        rows = [plain(row) for row in screen]
        if "has-ended" in rows:
            end = [row for row, text in zip(screen, rows) if text not in ("has-ended", "$")]
            seen.append((seen[-1][0] + DELAY_MS / 1000, [command, *end]))
            return seen
        steps = [re.match(r"start |step (\d+) ", text) for text in rows]
        step = next((int(match[1] or 0) for match in steps if match), None)
        second = None if step is None else READ_S + step * DELAY_MS / 1000
        if second is not None and second > seen[-1][0]:
            seen.append((second, screen))
        time.sleep(0.02)
    raise SystemExit("the program does not end; its last screen:\n" + "\n".join(rows))


def spans(row: list[Run]) -> str:
    """The row as SVG: a tspan for each run that has a style."""
    parts = []
    for codes, text in row:
        names = " ".join(f"c{code}" for code in sorted(codes) if code in {1, 2, 4, 7, *COLOURS})
        text = html.escape(text, quote=False)
        parts.append(f'<tspan class="{names}">{text}</tspan>' if names else text)
    return "".join(parts)


def picture(seen: list[tuple[float, list[str]]]) -> str:
    end = seen[-1][0] + HOLD_S
    runs = []  # row, its text, from when to when
    for row in range(ROWS):
        last, since = [], 0.0
        for second, screen in [*seen, (end, [])]:
            text = screen[row] if row < len(screen) and plain(screen[row]) else []
            if text != last:
                if last:
                    runs.append((row, last, since, second))
                last, since = text, second
    texts, frames = [], []
    for number, (row, text, since, until) in enumerate(runs):
        name, y = f"r{number}", (row + 1) * HEIGHT + 6
        share = [f"{100 * second / end:.2f}%" for second in (since, until)]
        is_last = until >= end
        shown = [] if since == 0 else ["0%{visibility:hidden}"]
        shown += [f"{share[0]}{{visibility:visible}}"] + ([] if is_last else [f"{share[1]}{{visibility:hidden}}"])
        frames.append(f"@keyframes {name}{{{''.join(shown)}}}#{name}{{animation-name:{name}}}")
        kind = ' class="l"' if is_last else ""
        texts.append(f'<text id="{name}" y="{y}" x="12"{kind}>{spans(text)}</text>')
    style = "".join(f".c{code}{{fill:{colour}}}" for code, colour in COLOURS.items())
    width, height = COLUMNS * WIDTH + 24, ROWS * HEIGHT + 18
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" \
height="{height}" role="img" aria-label="A terminal in which remask infill --watch solves a Sudoku puzzle: \
cells are filled, some are erased and filled again.">
<style>
text{{font:{FONT}px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:{TEXT};\
white-space:pre;visibility:hidden;animation:{end:.2f}s step-end infinite}}
.l{{visibility:visible}}{style}
.c1{{font-weight:bold}}.c2{{fill:{DIM}}}.c4{{text-decoration:underline}}.c7{{font-style:italic}}
{"".join(frames)}
@media(prefers-reduced-motion:reduce){{text{{animation:none!important}}}}
</style>
<rect width="100%" height="100%" rx="8" fill="{GROUND}"/>
{chr(10).join(texts)}
</svg>
"""


def main() -> None:
    program, out = sys.argv[1:]
    with tempfile.TemporaryDirectory() as place:
        os.symlink(os.path.realpath(program), os.path.join(place, "remask"))
        tmux = Tmux(place)
        try:
            svg = picture(captures(tmux))
        finally:
            tmux.do("kill-server")
    with open(out, "w", encoding="utf-8") as file:
        file.write(svg)
    print(f"{out}: {len(svg.encode()) / 1000:.1f} kB")


if __name__ == "__main__":
    main()
