"""The page: a drill runs its very blocks, and none can be there that nobody runs."""

import os
import tempfile
import unittest
from pathlib import Path

from drill.frame import drills
from drill.processes import DrillError
from drill.runbook import Runbook

_PAGE = """# Runbook

| variable | meaning |
|---|---|
| `FILE`, `OTHER` | files |

```sh process-crash.see
echo seen >"$FILE"
```

````sh process-crash.restart
cat <<'END'
```
END
false
echo "not reached"
````

```ini
[Service]
```
"""


class RunbookTest(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def read(self, text: str) -> Runbook:
        page = self.directory / "RUNBOOK.md"
        page.write_text(text)
        return Runbook.read(page)

    def test_blocks_are_read_as_they_stand(self) -> None:
        runbook = self.read(_PAGE)
        self.assertEqual(["process-crash.see", "process-crash.restart"], list(runbook.blocks))
        self.assertEqual('echo seen >"$FILE"\n', runbook.blocks["process-crash.see"])
        self.assertIn("```\n", runbook.blocks["process-crash.restart"])
        self.assertEqual(["process-crash.see", "process-crash.restart"], runbook.of("process-crash"))

    def test_a_block_is_run_with_the_drills_variables(self) -> None:
        runbook = self.read(_PAGE)
        file = self.directory / "file"
        ran = runbook.run("process-crash.see", {"PATH": os.environ["PATH"], "FILE": str(file)})
        self.assertEqual((0, "seen\n"), (ran.exit_code, file.read_text()))
        self.assertEqual(["process-crash.see"], runbook.ran)

    def test_a_block_stops_at_its_first_failure(self) -> None:
        ran = self.read(_PAGE).run("process-crash.restart", dict(os.environ))
        self.assertEqual(1, ran.exit_code)
        self.assertEqual("```\n", ran.output)

    def test_a_variable_that_the_drill_does_not_give_is_a_failure(self) -> None:
        ran = self.read(_PAGE).run("process-crash.see", {"PATH": os.environ["PATH"]})
        self.assertNotEqual(0, ran.exit_code)
        self.assertIn("FILE", ran.output)

    def test_a_block_that_is_not_there_is_an_error(self) -> None:
        with self.assertRaisesRegex(DrillError, "no block process-crash.gone"):
            self.read(_PAGE).run("process-crash.gone", {})

    def test_a_block_that_does_not_end_is_an_error(self) -> None:
        with self.assertRaisesRegex(DrillError, "did not end within .*\nbegun"):
            self.read("```sh a.b\necho begun; sleep 60\n```\n").run("a.b", dict(os.environ), timeout=0.2)

    def test_what_would_never_be_run_is_an_error(self) -> None:
        for text in (
            "```sh\nls\n```\n",
            "```bash a.b\nls\n```\n",
            "```sh Restart\nls\n```\n",
            "```sh a.b\nls\n```\n```sh a.b\nls\n```\n",
            "```sh a.b\nls\n",
        ):
            with self.subTest(text), self.assertRaises(DrillError):
                self.read(text)

    def test_what_no_drill_runs_and_no_table_explains_is_told(self) -> None:
        runbook = self.read(_PAGE + '```sh flood.see\nX=1\necho "$X" "$WATER" "${OTHER}" $HOME\n```\n')
        self.assertEqual([], self.read(_PAGE).problems(["process-crash"]))
        self.assertEqual(
            [
                "no drill is named as the block flood.see begins",
                "the block flood.see uses WATER, which no table of the page explains",
            ],
            runbook.problems(["process-crash"]),
        )

    def test_the_page_itself_has_no_problem(self) -> None:
        self.assertEqual([], Runbook.read().problems(drills()))


if __name__ == "__main__":
    unittest.main()
