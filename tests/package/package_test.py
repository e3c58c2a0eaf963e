#!/usr/bin/env python3
"""Tests of the library as other projects use it: installed, found by CMake and by pkg-config, or
taken in as a folder.

usage: package_test.py SOURCE BUILD [unittest's arguments]
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

SOURCE = BUILD = None  # the project, and a folder it was built in; set by main()
TEXT = "the cat sat on the mat and the dog ate the hat.\n" * 40


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


class Package(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.dir = pathlib.Path(folder.name)
        cls.prefix = cls.dir / "prefix"
        run("cmake", "--install", BUILD, "--prefix", cls.prefix)
        (cls.dir / "t.txt").write_text(TEXT)
        run(cls.prefix / "bin/refrain", "train", "--data", cls.dir / "t.txt", "--out",
            cls.dir / "model", "--layers", 1, "--d-model", 16, "--heads", 2, "--context", 64,
            "--batch-size", 4, "--max-steps", 60, "--warmup-steps", 5, "--learning-rate", "1e-2")

    def built(self, example):
        build = self.dir / f"build-{example}"
        run("cmake", "-S", SOURCE / "examples" / example, "-B", build,
            f"-DCMAKE_PREFIX_PATH={self.prefix}", "-DCMAKE_BUILD_TYPE=Release", "-G", "Ninja")
        run("cmake", "--build", build)
        return build / example

    def check_embed(self, program):
        said = run(program, self.dir / "model", "the cat").splitlines()
        # The prompt and what it generates first is what the program prints.
        want = run(self.prefix / "bin/refrain", "generate", "-m", self.dir / "model", "-p",
                   "the cat", "-n", 40, "--temp", 0)
        self.assertEqual(said[0], want.splitlines()[0])
        losses = [float(line.split()[-1]) for line in said if line.startswith("step ")]
        self.assertEqual(len(losses), 5)
        self.assertLess(losses[-1], losses[0])
        refused = subprocess.run([program, self.dir / "none", "x"], capture_output=True, text=True)
        self.assertEqual(refused.returncode, 2)
        self.assertRegex(refused.stderr, r"^embed: .*none.*\n$")

    def test_embed_by_cmake(self):
        self.check_embed(self.built("embed"))

    def test_embed_by_pkg_config(self):
        path = next(self.prefix.rglob("refrain.pc")).parent
        env = {**os.environ, "PKG_CONFIG_PATH": str(path)}
        flags = run("pkg-config", "--cflags", "--libs", "refrain", env=env).split()
        program = self.dir / "embed-by-pkg-config"
        run(os.environ.get("CXX", "c++"), SOURCE / "examples/embed/main.cc", "-o", program, *flags)
        self.check_embed(program)

    def test_a_mixer_from_outside(self):
        out = self.dir / "custom"
        said = run(self.built("custom_mixer"), self.dir / "t.txt", out)
        losses = [float(x) for x in re.findall(r"^step \d+: loss (\S+)$", said, re.M)]
        self.assertEqual(len(losses), 5)
        self.assertLess(losses[-1], losses[0] / 2)
        self.assertIn("\nall forms agree\n", said)
        # The program has no such mixer, and says so.
        refused = subprocess.run([self.prefix / "bin/refrain", "info", "-m", out],
                                 capture_output=True, text=True)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("no mixer is called 'moving_average'", refused.stderr)
        self.assertIn("needs the program that registers it", refused.stderr)

    def test_headers(self):
        """The list of headers compiles alone, and nothing that needs Highway is in it."""
        installed = {p.relative_to(self.prefix / "include").as_posix()
                     for p in (self.prefix / "include").rglob("*.h")}
        self.assertIn("refrain/refrain.h", installed)
        self.assertEqual([h for h in installed if h.endswith("-inl.h")], [])
        main = self.dir / "headers.cc"
        main.write_text('#include "refrain/refrain.h"\nint main() {}\n')
        used = run(os.environ.get("CXX", "c++"), "-std=c++20", "-I", self.prefix / "include", "-M",
                   main)
        self.assertNotIn("hwy/", used)
        self.assertNotIn(str(SOURCE), used)

    def test_a_folder_of_another_project(self):
        """Its settings stay as they are, and it gets no tests, no program and nothing installed."""
        outer = self.dir / "outer"
        outer.mkdir()
        (outer / "CMakeLists.txt").write_text(f"""
cmake_minimum_required(VERSION 3.25)
project(outer LANGUAGES CXX)
enable_testing()
add_subdirectory("{SOURCE}" refrain)
add_executable(outer "{SOURCE}/examples/embed/main.cc")
target_link_libraries(outer PRIVATE refrain::refrain)
if(CMAKE_BUILD_TYPE)
  message(FATAL_ERROR "the outer project's build type was changed")
endif()
foreach(target refrain kernels_test fuzz_test)
  if(TARGET ${{target}})
    message(FATAL_ERROR "${{target}} was taken in")
  endif()
endforeach()
""")
        build = self.dir / "build-outer"
        run("cmake", "-S", outer, "-B", build, "-G", "Ninja", "-DCMAKE_CXX_FLAGS_RELEASE=-O1")
        commands = run("ninja", "-C", build, "-t", "commands", "outer")
        self.assertIn("librefrain_kernels.a", commands)
        self.assertNotIn(" -g1", commands)  # that is ours
        self.assertFalse((build / "compile_commands.json").exists())
        self.assertIn("Total Tests: 0", run("ctest", "--test-dir", build, "-N"))


def main():
    global SOURCE, BUILD
    SOURCE, BUILD = (pathlib.Path(sys.argv.pop(1)).resolve() for _ in range(2))
    unittest.main(module="__main__")


if __name__ == "__main__":
    main()
