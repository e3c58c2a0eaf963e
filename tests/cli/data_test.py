#!/usr/bin/env python3
"""Tests of what the program is given to read: files of every kind, streams, token files.

usage: data_test.py REFRAIN [unittest's arguments: names of test classes, -v ...]
"""
import pathlib
import sys
import unittest

import cli_test
from cli_test import Case, PlainCase


class Temporaries(Case):
    def test_no_temporary_directory(self):
        text = self.put("a.txt", "the cat")
        self.fails("eval", "-m", self.model, "--data", text,
                   env={"TMPDIR": str(self.dir / "none")},
                   says=f"temporary directory in {self.dir}/none: No such file or directory")


if __name__ == "__main__":
    cli_test.REFRAIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()
