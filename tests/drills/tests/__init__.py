"""Tests of what would hide a miss if it failed: `python3 -m unittest discover -s tests/drills`."""
