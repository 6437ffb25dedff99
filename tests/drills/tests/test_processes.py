"""Processes: none that a drill started outlives it, whatever it has started itself and however the drill ends."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from drill import DRILLS
from drill.processes import Processes, run, until

_DRILL = """
import sys, time
from pathlib import Path
from drill import frame

def run(drill):
    directory = Path(sys.argv.pop())
    script = 'setsid sleep 600 & echo $! >%s/hidden; exec sleep 600' % directory
    process = drill.processes.start("shell", ["sh", "-c", script])
    (directory / "shell").write_text(str(process.pid))
    while True:
        time.sleep(0.1)

frame.main("process-crash", run)
"""


class ProcessesTest(unittest.TestCase):
    def test_a_drill_that_is_stopped_leaves_nothing_behind(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number.name), tempfile.TemporaryDirectory() as name:
                directory = Path(name)
                environment = {**os.environ, "PYTHONPATH": str(DRILLS), "TMPDIR": name}
                drill = subprocess.Popen(
                    [sys.executable, "-c", _DRILL.replace("sys.argv.pop()", repr(name))],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
                until(lambda: (directory / "shell").exists() and (directory / "hidden").exists(), "the processes")
                time.sleep(0.1)
                pids = [int((directory / file).read_text()) for file in ("shell", "hidden")]
                drill.send_signal(number)
                output, _ = drill.communicate(timeout=60)
                self.assertEqual(1, drill.returncode)
                self.assertIn("MISSED", output)
                self.assertEqual([], [pid for pid in pids if Path(f"/proc/{pid}").exists()])
                self.assertEqual([], list(directory.glob("aegis-*")))

    def test_what_scripts_start_and_stop_is_taken_over(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            processes = Processes(directory / "logs")
            self.addCleanup(processes.end_all)
            command = ["sh", "-c", 'trap "exit 7" TERM; echo "$WORD"; while :; do sleep 0.05; done']
            start = processes.script(
                "shell", command, directory / "start", environment={"WORD": "a b"}, directory=directory
            )
            run([start])
            process = processes.adopt("shell")
            until(lambda: process.tail() == "a b", "the process to write")
            run([process.stop_script(directory)])
            self.assertEqual(7, process.wait(1))


if __name__ == "__main__":
    unittest.main()
