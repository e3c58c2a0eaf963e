#!/usr/bin/env python3
"""Tests that tools/check_layers.py sees what it is there to see: an error of each sort is planted.

usage: check_layers_test.py PROJECT_ROOT
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = None  # of the project; set by main()


class CheckLayers(unittest.TestCase):
    def check(self, path, line):
        """What the script says of a tree with the line in a file of its own."""
        with tempfile.TemporaryDirectory() as name:
            top = pathlib.Path(name)
            registry = top / "src/refrain/mixers/registry.cc"
            registry.parent.mkdir(parents=True)
            shutil.copy(ROOT / "src/refrain/mixers/registry.cc", registry)
            (top / "cli").mkdir()
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).write_text(line + "\n")
            return subprocess.run([sys.executable, ROOT / "tools/check_layers.py", top],
                                  capture_output=True, text=True)

    def refused(self, path, line, says):
        done = self.check(path, line)
        self.assertEqual(done.returncode, 1, line)
        self.assertIn(says, done.stdout)
        self.assertIn(":1:", done.stdout)

    def test_allowed(self):
        for path, line in {
                "src/refrain/model/a.cc": '#include "refrain/mixers/mixer.h"  // "gla"',
                "src/refrain/mixers/gla/a.cc": 'if (kind == "gla") return;',
                "src/refrain/io/a.cc": 'print("an attention or gla of words");',
                "cli/a.cc": '#include "refrain/train/plan.h"'}.items():
            self.assertEqual(self.check(path, line).stdout, "layers: ok\n", line)

    def test_kinds(self):
        for line in ('if (kind == "gla") return;', 'options.get("attention.window");',
                     '#include "refrain/mixers/mm_rec/mm_rec.h"'):
            for path in ("src/refrain/train/a.cc", "src/refrain/model/a.h", "cli/a.cc"):
                self.refused(path, line, "is known in its folder and the registry only")

    def test_layers(self):
        self.refused("src/refrain/kernels/a.cc", '#include "refrain/model/block.h"',
                     "kernels must not include")
        self.refused("src/refrain/mixers/gla/a.cc", '#include "refrain/mixers/rnn/rnn.h"',
                     "must not include another")

    def test_sizes(self):
        done = self.check("src/refrain/io/a.cc", "\n" * 500)
        self.assertEqual(done.returncode, 1)
        self.assertIn("io/a.cc: 501 lines", done.stdout)
        self.assertEqual(self.check("src/refrain/io/a.cc", "\n" * 499).returncode, 0)
        for files, status in ((25, 0), (26, 1)):
            with tempfile.TemporaryDirectory() as name:
                folder = pathlib.Path(name) / "src/refrain/mixers"
                folder.mkdir(parents=True)
                shutil.copy(ROOT / "src/refrain/mixers/registry.cc", folder)
                for i in range(files - 1):
                    (folder / f"{i}.h").touch()
                done = subprocess.run([sys.executable, ROOT / "tools/check_layers.py", name],
                                      capture_output=True, text=True)
                self.assertEqual(done.returncode, status, done.stdout)

    def test_arguments(self):
        six = "int a, const T* b, Map<int, T>& c, ConstTensor d, bool e, float* HWY_RESTRICT f"
        for more in (", int g = 0", ",\n    const char* const* g", ", MatrixView<const float> g"):
            for form in ("void f({});", "static inline Tensor& A::f({}) const {{", "HWY_NOINLINE void f({}) {{",
                         "virtual void f({}) const = 0;", "explicit A({}) : a(b) {{"):
                self.refused("src/refrain/io/a.cc", form.format(six + more), "takes 7 arguments")
                self.assertEqual(self.check("src/refrain/io/a.cc", form.format(six)).returncode, 0)
        self.refused("tests/a.py", "def f(a, b, c, d, e, f, g=0): pass", "takes 7 arguments")
        for line in ("def f(self, a, b, c, d, e, f, *, g=0): pass",):
            self.assertEqual(self.check("tests/a.py", line).returncode, 0, line)
        for line in ("return f(a, b, c, d, e, f, g);", "f(a * b, c + d, e, f(x), g, h, i);"):
            self.assertEqual(self.check("cli/a.cc", line).returncode, 0, line)

    def test_doors(self):
        self.refused("src/refrain/data/a.cc", "#include <zlib.h>", "has its own door")
        self.refused("src/refrain/data/a.cc", 'std::cerr << "what";', "does not print")

    def test_products(self):
        for path in ("src/refrain/model/a.cc", "src/refrain/mixers/gla/a.cc"):
            self.refused(path, "kernels::gemm(x, w, y, scratch);", "go through Linear")


def main():
    global ROOT
    ROOT = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main(module="__main__")


if __name__ == "__main__":
    main()
