"""The examples do what they say."""

from __future__ import annotations

import asyncio
import os
import sys
import unittest
from pathlib import Path

from scenario import ScenarioTest

EXAMPLES = Path(__file__).resolve().parents[1] / "example"


class TestExamples(ScenarioTest):
    async def run_example(self, name: str) -> str:
        server = await self.server()
        return await self.run_code(str(EXAMPLES / name), server.target)

    async def run_code(self, *arguments: str) -> str:
        example = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(example.communicate(), 120)
        finally:
            if example.returncode is None:
                example.kill()
                await example.wait()
        text = output.decode()
        self.assertEqual(0, example.returncode, text)
        return text

    async def test_permit(self) -> None:
        text = await self.run_example("permit.py")
        self.assertIn("takes IN_EXAMINATION, 2 findings so far", text)
        self.assertEqual(5, text.count("  CHECKPOINT  "), text)
        self.assertIn("alderman  no objections", text)
        self.assertIn("proven: 10 records", text)

    async def test_first_use_of_the_readme(self) -> None:
        server = await self.server()
        readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
        code = readme.split("```python\n")[1].split("```")[0]
        self.assertLess(len(code.splitlines()), 16)
        text = await self.run_code("-c", code.replace("127.0.0.1:50051", server.target))
        self.assertEqual("{'items': 3, 'paid': 120}\n", text)

    async def test_agent(self) -> None:
        text = await self.run_example("agent.py")
        self.assertIn("goes on after 2 of 4 steps", text)
        self.assertIn("every step was done once", text)


if __name__ == "__main__":
    unittest.main()
