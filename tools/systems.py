#!/usr/bin/env python3
"""Runs every row of docs/systems.md that has a command, keeps what the commands print under
docs/systems/, and writes the figures into docs/systems.md.

usage: systems.py --refrain PROGRAM --data FOLDER --tests BUILD [--only RUN...] [--check]

The rows are in docs/systems/rows.toml, the commands in docs/systems/runs.toml. A run that waits for
a setting ("after") is skipped while the program does not have it: without --after. The exit status
is 1 when a command fails or a figure is out of its range. --check runs nothing: it fails when
docs/systems.md is not what the rows and the last results make.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
KEPT_LINES, KEPT_BYTES = 60, 6000


class Missing(Exception):
    """A figure that is not where its row says."""


def report_cell(output, pick):
    title, row, column = pick.split("|")
    column, _, nth = column.partition("#")
    rows = [r for table in json.loads(output)["tables"] if title in table["title"]
            for r in table["rows"] if r["row"] == row]
    if not rows:
        rows = [r for table in json.loads(output)["tables"] if title in table["title"]
                for r in table["rows"] if r["row"].startswith(row)]
    at = int(nth or 1) - 1
    if at >= len(rows) or rows[at].get(column) is None:
        raise Missing(f"no figure at {pick}")
    return rows[at][column]


def bench_cell(output, pick):
    name, shape, field = pick.split("|")
    for row in json.loads(output):
        if row["name"].lower().startswith(name) and row["shape"].startswith(shape):
            if row[field] is not None:
                return row[field]
    raise Missing(f"no figure at {pick}")


def metric(folder, pick):
    run, key = pick.split(":")
    key, _, step = key.partition("@")
    values = [line[key] for line in map(json.loads, open(folder / run / "metrics.jsonl"))
              if key in line and (not step or line["step"] == int(step))]
    if not values:
        raise Missing(f"no {key} in {run}")
    return values[-1]


def find(pick, output, folder):
    kind, _, rest = pick.partition(":")
    if kind == "ok":
        return "yes"
    if kind == "table":
        return report_cell(output, rest)
    if kind == "bench":
        return bench_cell(output, rest)
    if kind == "metrics":
        return metric(folder, rest)
    found = re.findall(rest, output, re.MULTILINE)
    if not found:
        raise Missing(f"nothing like {rest}")
    try:
        return float(found[-1])
    except ValueError:
        return found[-1]


def figure_of(row, result, folder):
    picks = row["pick"] if isinstance(row["pick"], list) else [row["pick"]]
    values = [find(pick, result["output"], folder) for pick in picks]
    return values[0] if len(values) == 1 else values[0] / values[1]


def run(name, command, folder, environment):
    print(f"{name} ...", end=" ", flush=True)
    begin = time.monotonic()
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seconds = time.monotonic() - begin
    print(f"{seconds:.0f} s, exit status {done.returncode}", flush=True)
    kept = "\n".join((done.stderr + done.stdout).splitlines()[-KEPT_LINES:])[-KEPT_BYTES:]
    head = f"$ {command}\n# {seconds:.0f} s, exit status {done.returncode}\n"
    kept = kept.replace(str(folder), "FOLDER").replace(environment["DATA"], "$DATA")
    (DOCS / "systems" / f"{name}.txt").write_text(head + kept + "\n")
    return {"output": done.stdout + done.stderr if "json" not in command else done.stdout,
            "status": done.returncode}


def number(value):
    if isinstance(value, str):
        return value
    if value == int(value) and abs(value) >= 1000:
        return f"{int(value):,}"
    return f"{value:.4g}"


def judge(row, figures):
    """What is wrong with a row's figure, if anything is."""
    figure = figures.get(row["id"])
    if figure is None or "range" not in row:
        return None
    low, high = row["range"]
    span = f"{number(low)} to {number(high)}"
    if low <= figure <= high:
        return f"row {row['id']}: {number(figure)} is in {span}, but is told to fall short" \
            if "short" in row else None
    return None if "short" in row else f"row {row['id']}: {number(figure)} is not in {span}"


def page(systems, runs, results):
    text = (DOCS / "systems" / "head.md").read_text().replace(
        "@WHEN@", results.get("when", "not run yet"))
    for n, system in enumerate(systems, 1):
        text += f"\n## {n} · {system['name']}\n\n"
        text += "| | what | shown by | published | here | range | |\n|---|---|---|---|---:|---|---|\n"
        for row in system["row"]:
            shown, figure, limits, verdict = "-", "-", "-", row["verdict"]
            if "run" in row:
                shown = f"[{row['run']}](#{row['run']})"
                waits = runs[row["run"]].get("after")
                figure = results["figures"].get(row["id"])
                if figure is None:  # nobody has seen whether it holds
                    figure, verdict = "-", "to be run" if waits else "not run yet"
                elif judge(row, results["figures"]):
                    figure, verdict = number(figure), "out of its range"
                else:
                    figure = number(figure) + (" " + row["unit"] if "unit" in row else "")
                    if "short" in row:
                        verdict = "falls short: " + row["short"]
            if "range" in row:
                limits = " to ".join(map(number, row["range"]))
            cells = [row["id"], row["what"], shown, row.get("published", "-"), figure, limits,
                     verdict]
            text += "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |\n"
    text += "\n## The commands\n\nThe output of each is in `docs/systems/`.\n"
    for name, entry in runs.items():
        waits = f"\nTo be run when the program has: {entry['after']}.\n" if "after" in entry else ""
        command = "\n".join("    " + line for line in entry["command"].splitlines())
        text += f"\n### {name}\n{waits}\n{command}\n"
    return text


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--refrain", type=Path)
    parser.add_argument("--data", type=Path, default=os.environ.get("REFRAIN_DATA"))
    parser.add_argument("--tests", type=Path, help="the folder of a build with its tests")
    parser.add_argument("--only", nargs="*", help="these runs, the others as they were")
    parser.add_argument("--after", action="store_true", help="runs that wait for a setting, too")
    parser.add_argument("--check", action="store_true")
    return parser.parse_args()


def take_figures(name, done, folder, systems, figures):
    """Those of the rows that the run makes, and what is wrong with them."""
    wrong = []
    for row in (row for system in systems for row in system["row"] if row.get("run") == name):
        figures.pop(row["id"], None)
        if done["status"] != 0:
            continue
        try:
            figures[row["id"]] = figure_of(row, done, folder)
        except (Missing, OSError, ValueError, KeyError, TypeError) as error:
            wrong.append(f"row {row['id']}: {error}")
        wrong += filter(None, [judge(row, figures)])
    return wrong


def store(systems, runs, results):
    (DOCS / "systems" / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (DOCS / "systems.md").write_text(page(systems, runs, results))


def measure(options, systems, runs, results):
    wrong = []
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    results["when"] = time.strftime("%Y-%m-%d, ", time.gmtime()) + (
        f"{os.cpu_count()} cores of {cpu.group(1) if cpu else 'an unknown processor'}")
    environment = dict(os.environ, REFRAIN=str(options.refrain.resolve()),
                       DATA=str(Path(options.data).resolve()), TESTS=str(options.tests.resolve()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for run_name, entry in runs.items():
            if options.only is not None and run_name not in options.only:
                continue
            if "after" in entry and not options.after:
                continue
            done = run(run_name, entry["command"], folder, environment)
            if done["status"] != 0:
                wrong.append(f"{run_name}: exit status {done['status']}")
            wrong += take_figures(run_name, done, folder, systems, results["figures"])
            store(systems, runs, results)  # what has been run is not lost
    return wrong


def main():
    options = parse()
    load = lambda name: tomllib.loads((DOCS / "systems" / name).read_text())
    systems, runs = load("rows.toml")["system"], load("runs.toml")
    for row in (row for system in systems for row in system["row"]):
        if "run" in row and row["run"] not in runs:
            sys.exit(f"row {row['id']}: no run {row['run']}")
    stored = DOCS / "systems" / "results.json"
    results = json.loads(stored.read_text()) if stored.exists() else {"figures": {}}
    wrong = []
    if options.check:
        if (DOCS / "systems.md").read_text() != page(systems, runs, results):
            wrong.append("docs/systems.md is not what its rows make: run tools/systems.py")
        wrong += filter(None, (judge(r, results["figures"]) for s in systems for r in s["row"]))
    else:
        if options.only != []:
            if not options.refrain or not options.data or not options.tests:
                sys.exit("expected --refrain, --data and --tests")
            wrong = measure(options, systems, runs, results)
        store(systems, runs, results)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
