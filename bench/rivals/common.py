"""What the tables beside other engines share: processes with their time limit and memory, what
machine this is, and the parts of a machine's page."""
import datetime
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

MIB = 2**20


class Failed(Exception):
    """What an engine said when it did not do its work."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def high_water(pid):
    """The largest resident set so far of a process that runs, in bytes; 0 when it has ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def run(command, limit, env=None):
    """Its standard output and largest resident set; Failed when it fails or takes longer than
    `limit` seconds."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=err, env=env,
                                   start_new_session=True)
        late, ended = threading.Event(), threading.Event()
        peaks = [0]

        def stop():
            late.set()
            os.killpg(process.pid, signal.SIGKILL)  # compilers that it started, too

        def watch():
            # The ru_maxrss of a child begins at what its parent had: too much for small ones.
            end = time.monotonic() + limit
            while not ended.wait(0.02):
                peaks[0] = max(peaks[0], high_water(process.pid))
                if time.monotonic() > end:
                    return stop()

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            stop()
            process.wait()
            raise
        finally:
            ended.set()
            watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        if late.is_set():
            raise Failed(f"not done within {limit:,.0f} s")
        if process.returncode:
            err.seek(0)
            lines = [line.strip() for line in err.read().splitlines() if line.strip()]
            raise Failed(next((line for line in reversed(lines) if "Error" in line or
                               line.startswith("refused")), lines[-1] if lines else
                              f"exit status {process.returncode}"))
        out.seek(0)
        return out.read(), peaks[0] or usage.ru_maxrss * 1024


def machine(*versions):
    """A line that tells the processor, its units, and the versions of the engines."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    field = dict(line.split(":", 1) for line in lines if ":" in line)
    name = next((v.strip() for k, v in field.items() if k.startswith("model name")), "unknown")
    flags = next((v.split() for k, v in field.items() if k.startswith("flags")), [])
    units = [label for label, flag in (("AVX-512", "avx512f"), ("VNNI", "avx512_vnni"),
                                       ("AVX512-BF16", "avx512_bf16"), ("AMX", "amx_bf16"),
                                       ("AVX2", "avx2")) if flag in flags]
    return (f"{name}, {os.cpu_count()} cores, {', '.join(units) or 'no known units'}; "
            f"{', '.join(versions)}; {datetime.date.today()}.")


def command_line(words, said, private):
    """`words` and then what was `said`, as anybody would say it: without the flags of `private`,
    whose values are of this machine."""
    words, rest = list(words), iter(said)
    for word in rest:
        if word in private:
            next(rest)
        else:
            words.append(f"'{word}'" if set(word) & set("*, ") else word)
    return " ".join(words)


def parts(text):
    """The parts of a machine's page: [(title, text)]. Each begins with its title, "# TITLE: NAME"."""
    found = re.split(r"^(?=# )", text, flags=re.MULTILINE)
    return [(part[2:].split("\n")[0].split(":")[0], part) for part in found if part.strip()]


def put_part(path, title, text):
    """Writes the part of this title into the page: in the place of the one it has, or behind the
    others."""
    path = pathlib.Path(path)
    page = parts(path.read_text()) if path.exists() else []
    new = (title, f"# {title}: {path.stem}\n\n{text.rstrip()}\n")
    page = [new if old[0] == title else old for old in page]
    if new not in page:
        page.append(new)
    path.write_text("\n".join(part.rstrip("\n") + "\n" for _, part in page))
