#!/usr/bin/env python3
"""Tests that the project builds for 64-bit ARM and keeps its promises there, under emulation.

usage: aarch64_test.py SOURCE

Builds the preset aarch64 in its own folder and runs the tests of base, kernels and mixers and the
promise of bits. Skipped where the compiler or the emulator is missing; CONTRIBUTING.md says what to
install.
"""
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys

TARGETS = ["base_test", "kernels_test", "mixers_test", "refrain"]
TESTS = ["base.", "kernels.", "mixers.", "train.Promise"]
ARM = 183  # the machine in an ELF file's header


def run(*command, **options):
    """What the command says, or the end of everything."""
    print("+", *command, flush=True)
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          **options)
    if done.returncode != 0:
        sys.exit(f"{done.stdout[-20000:]}\nexit {done.returncode}: {' '.join(command)}")
    return done.stdout


def main():
    source = pathlib.Path(sys.argv[1]).resolve()
    for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64"):
        if not shutil.which(tool):
            print(f"skipped: no {tool}")
            sys.exit(77)
    build = str(source / "build" / "aarch64")
    run("cmake", "--preset", "aarch64", "--log-level=WARNING", cwd=source)
    run("cmake", "--build", build, "--target", *TARGETS)
    for name in TARGETS:
        with open(f"{build}/{name}", "rb") as file:
            assert struct.unpack_from("<H", file.read(20), 18)[0] == ARM, f"{name} is not for ARM"
    chosen = "^(" + "|".join(map(re.escape, TESTS)) + ")"
    # Emulated, the promise takes longer than CTest waits by itself.
    said = run("ctest", "--test-dir", build, "--output-on-failure", "--timeout", "7200",
               "--parallel", str(os.cpu_count()), "-R", chosen)
    print(said[-2000:])
    for name in TESTS:
        assert re.search(rf"{re.escape(name)}.* Passed", said), f"no test {name} has passed"


if __name__ == "__main__":
    main()
