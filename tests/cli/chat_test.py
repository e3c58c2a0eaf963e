#!/usr/bin/env python3
"""Tests of `refrain chat`: scripts, and a terminal with Ctrl-C.

usage: chat_test.py REFRAIN [unittest's arguments: names of test classes, -v ...]
"""
import json
import os
import pathlib
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
import unittest

import cli_test
from cli_test import Case, patience

CONTEXT = 96
TEMPLATE = ("{% for m in messages %}<b>{{ m.role[0] }}{{ m.content }}<e>{% endfor %}"
            "{% if add_generation_prompt %}<b>a{% endif %}")
# Answers have no end.
ENDLESS = TEMPLATE.replace("<e>", ".")


def run(*arguments):
    done = subprocess.run([cli_test.REFRAIN, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class ChatCase(Case):
    """Models of characters that were hardly trained, and two tokens for a template."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        text, tokenizer = cls.made / "t.txt", cls.made / "tokenizer"
        text.write_text("the cat sat on a mat, and so on. but /you be/ here. " * 40)
        run("tokenizer", "train", "--kind", "char", "--data", text, "--special", "<b>", "<e>",
            "--out", tokenizer)
        for name, flags in {"talker": [], "other": ["--seed", 5],
                            "recurrent": ["--mixer", "gla"]}.items():
            run("train", "--data", text, "--tokenizer", tokenizer, "--out", cls.made / name,
                "--layers", 1, "--d-model", 16, "--heads", 2, "--context", CONTEXT, "--max-steps",
                1, *flags)
        cls.talker, cls.recurrent = cls.made / "talker", cls.made / "recurrent"

    def setUp(self):
        super().setUp()
        self.template = self.put("chat.jinja", TEMPLATE)
        self.chat = ("chat", "-m", self.talker, "--chat-template", self.template, "--temp", 0,
                     "-n", 4)
        self.endless = ("chat", "-m", self.recurrent, "--chat-template",
                        self.put("endless.jinja", ENDLESS), "-n", 10_000_000, "--temp", 2)


class Scripts(ChatCase):
    def answers(self, text, *arguments):
        return [json.loads(line) for line in
                self.must(*self.chat, "--json", *arguments, input=text).splitlines()]

    def test_turns(self):
        first, second = self.answers("the cat\nand\n")
        self.assertEqual(first["tokens_read"], first["tokens"])
        # All but the answer's last token has been read.
        self.assertEqual(second["tokens_read"],
                         second["tokens"] - first["tokens"] - first["answer_tokens"] + 1)
        [alone] = self.answers("the cat")
        for key in ("answer", "stop_reason", "tokens", "answer_tokens"):
            self.assertEqual(alone[key], first[key])
        done = self.call(*self.chat, input="the cat\n\n \nand")
        self.assertEqual(done.stdout.decode(), first["answer"].lstrip() + "\n" +
                         second["answer"].lstrip() + "\n")
        self.assertRegex(done.stderr.decode(), r"(?m)^conversation: \d+ tokens, \d+ read in .* s; "
                         r"answer: \d+ tokens, .*; stopped: (length|eos)$")
        self.assertEqual(self.must(*self.chat, input=""), "")
        for options in (["--cache-type", "bf16"], ["-t", 2], ["--stop", "never"]):
            self.assertEqual(len(self.answers("the cat\nand\n", *options)), 2)

    def test_system(self):
        plain, told = self.answers("the")[0], self.answers("the", "--system", "be")[0]
        self.assertEqual(told["tokens"], plain["tokens"] + len(["<b>", "s", "b", "e", "<e>"]))

    def test_commands(self):
        first, again, other = self.answers("the cat\n/reset\nthe cat\n/reset\n//the cat\n")
        self.assertEqual(first["answer"], again["answer"])
        self.assertEqual(again["tokens_read"], 1)
        self.assertEqual(other["tokens"], first["tokens"] + 1)
        self.assertEqual(len(self.answers("the\n/quit\nand\n")), 1)
        done = self.call(*self.chat, input="/help\n")
        self.assertIn("/save FILE", done.stderr.decode())
        for line, said in {"/nope": 'unknown command "/nope"', "/save": "/save: expected a file",
                           "/load none": "none: ", "/reset now": "/reset: expected nothing",
                           "/load chat.jinja": "chat.jinja: not a conversation",
                           f"/save {self.talker}/config.json": "config.json",
                           b"\xff": "expected UTF-8"}.items():
            line = line if isinstance(line, bytes) else line.encode()
            done = self.call(*self.chat, input=line + b"\nthe\n")
            self.assertEqual(done.returncode, 2)
            self.assertIn(said, done.stderr.decode().splitlines()[0])
            self.assertEqual(done.stdout.count(b"\n"), 1)  # it goes on

    def test_saved(self):
        [first] = self.answers("the cat\n/save a.chat\n")
        _, second, third = self.answers("the cat\nand\nso\n")
        found = self.answers("/load a.chat\nand\nso\n")
        for a, b in zip(found, (second, third)):
            for key in ("answer", "tokens", "tokens_read"):
                self.assertEqual(a[key], b[key])
        # /load replaces, and a file that cannot be read changes nothing.
        self.assertEqual(self.answers("be\n/load a.chat\nand\n")[1]["answer"], second["answer"])
        saved = (self.dir / "a.chat").read_bytes()
        self.put("b.chat", saved[:-1])
        done = self.call(*self.chat, "--json", input="the cat\n/load b.chat\nand\n")
        self.assertEqual(json.loads(done.stdout.splitlines()[1])["answer"], second["answer"])
        self.assertIn("b.chat: damaged", done.stderr.decode())
        done = self.call(*self.chat, "-m", self.made / "other", input="/load a.chat\n")
        self.assertIn("the state of another model", done.stderr.decode())

    def test_full_context(self):
        done = self.call(*self.chat, "--chat-template", "endless.jinja", "-n", 1000,
                         input="the\nthe\n/reset\nbe\n")
        self.assertEqual(done.returncode, 2)
        said = done.stderr.decode().splitlines()
        self.assertIn(f"the context of {CONTEXT} tokens is full: /reset begins anew", said)
        self.assertTrue(any(line.startswith("the conversation has ") and
                            f"expected fewer than its context, {CONTEXT}" in line
                            for line in said), said)
        self.assertEqual(sum("stopped: " in line for line in said), 2)

    def test_mistakes(self):
        chat = ("chat", "-m", self.talker)
        self.fails(*chat, says="no chat template; --chat-template FILE gives one")
        self.fails(*chat, "--chat-template", "none", says="none")
        self.fails(*chat, "--chat-template", self.put("bad.jinja", "{% if %}"),
                   says="bad.jinja: line 1: ")
        self.fails("chat", "-m", "none", says="none")
        for flag in (["-n", 0], ["--temp", -1], ["-c", -1], ["--stop", ""],
                     ["--patience-tokens", 4], ["--cache-type", "q4"], ["--system", b"\xff"]):
            self.fails(*self.chat, *[os.fsdecode(f) if isinstance(f, bytes) else f for f in flag])
        raises = self.put("raises.jinja", "{{ raise_exception('roles must alternate') }}")
        done = self.call(*self.chat, "--chat-template", raises, input="the\n")
        self.assertIn("roles must alternate", done.stderr.decode())
        self.assertEqual((done.returncode, done.stdout), (2, b""))

    def test_template_of_the_model(self):
        path = self.dir / "own"
        shutil.copytree(self.talker, path)
        (path / "chat_template.jinja").write_text(TEMPLATE)
        given = self.must(*self.chat, input="the cat\n")
        self.assertEqual(self.must("chat", "-m", path, "--temp", 0, "-n", 4, input="the cat\n"),
                         given)


class Terminal(ChatCase):
    """The program at a terminal of its own."""

    def start(self, *arguments):
        arguments = list(map(str, arguments))
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(self.dir)
            os.execv(cli_test.REFRAIN, [str(cli_test.REFRAIN), *arguments])
        self.addCleanup(os.close, self.terminal)
        self.seen = ""
        self.expect("> ")

    def expect(self, text):
        """Waits until the terminal shows it, and takes what it showed up to there."""
        end = time.monotonic() + patience()
        while text not in self.seen:
            ready, _, _ = select.select([self.terminal], [], [], max(0, end - time.monotonic()))
            self.assertTrue(ready, f"expected {text!r}, found {self.seen[-2000:]!r}")
            try:
                self.seen += os.read(self.terminal, 1 << 16).decode(errors="replace")
            except OSError:
                self.fail(f"it ended; expected {text!r}, found {self.seen[-2000:]!r}")
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text):
        os.write(self.terminal, text.encode())

    def status(self):
        end = time.monotonic() + patience()
        while time.monotonic() < end:
            # Who ends waits until the terminal has taken what it wrote.
            if select.select([self.terminal], [], [], 0.01)[0]:
                try:
                    self.seen += os.read(self.terminal, 1 << 16).decode(errors="replace")
                except OSError:
                    pass
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.fail(f"it did not end: {self.seen[-2000:]!r}")

    def test_history(self):
        self.start(*self.chat)
        self.type("the cat\n")
        self.expect("the cat\r\n")
        first = self.expect("\r\n> ")
        for command, said in (("/reset", ""), ("/nope", 'unknown command "/nope"')):
            self.type(command + "\n")
            self.expect(command + "\r\n" + said)
            self.expect("> ")
        self.type("the cat\n")
        self.expect("the cat\r\n")
        self.assertTrue(self.expect("\r\n> ").endswith(first))
        self.type("/save a.chat\n")
        self.expect("a.chat: 2 messages")
        self.expect("> ")
        self.type("\x04")
        self.assertEqual(self.status(), 0)

    def test_interrupted_answers(self):
        self.start(*self.endless)
        for _ in range(2):
            self.type("the cat\n")
            self.expect("the cat\r\n")
            while len(self.seen) < 200:
                self.wait_for_more()
            self.type("\x03")
            self.expect("\r\n> ")
            self.type("/save a.chat\n")
            self.expect("a.chat: ")
            self.expect("> ")
        # At the prompt the first one only says so.
        self.type("\x03")
        self.expect("Ctrl-C again leaves")
        self.expect("> ")
        self.type("/help\n")
        self.expect("/reset")
        self.expect("> ")
        self.type("\x03")
        self.expect("> ")
        self.type("\x03")
        self.assertEqual(self.status(), 130)

    def wait_for_more(self):
        self.assertTrue(select.select([self.terminal], [], [], patience())[0], "it stands still")
        self.seen += os.read(self.terminal, 1 << 16).decode(errors="replace")

    def test_one_to_stop_and_one_to_leave(self):
        self.start(*self.endless)
        self.type("the cat\n")
        self.expect("the cat\r\n")
        self.wait_for_more()
        self.type("\x03")
        self.expect("\r\n> ")
        self.type("\x03")
        self.assertEqual(self.status(), 130)

    def test_leaving(self):
        for text in ("/quit\n", "\x04"):
            self.start(*self.chat)
            self.type(text)
            self.assertEqual(self.status(), 0)


if __name__ == "__main__":
    cli_test.REFRAIN = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()
