"""The report: what is missed shows, in words, in the table and in what `all` reads."""

import math
import tempfile
import unittest
from pathlib import Path

from drill.report import Figure, Report, table


class FigureTest(unittest.TestCase):
    def test_a_figure_is_met_up_to_its_limit(self) -> None:
        self.assertTrue(Figure("serving", 2.0, 2.0, "s").is_met)
        self.assertFalse(Figure("serving", 2.01, 2.0, "s").is_met)
        self.assertTrue(Figure("outage", 100.0).is_met)

    def test_what_could_not_be_measured_is_not_met(self) -> None:
        for limit in (None, 2.0):
            self.assertFalse(Figure("serving", math.nan, limit, "s").is_met)
        self.assertFalse(Figure("serving", math.inf, 2.0, "s").is_met)

    def test_a_figure_is_shown_beside_its_limit(self) -> None:
        self.assertEqual("0.53 s ≤ 2 s", Figure("serving", 0.53, 2, "s").text)
        self.assertEqual("3.10 s > 2 s MISSED", Figure("serving", 3.1, 2, "s").text)
        self.assertEqual("1 > 0 MISSED", Figure("lost", 1, 0).text)
        self.assertEqual("12.30 s", Figure("outage", 12.3, None, "s").text)
        self.assertIn("MISSED", Figure("outage", math.nan, None, "s").text)


class ReportTest(unittest.TestCase):
    def good(self) -> Report:
        report = Report("process-crash")
        scenario = report.scenario("server killed")
        scenario.recorded, scenario.acknowledged, scenario.lost = 12, 11, Figure("lost", 0, 0)
        scenario.outage, scenario.resumed, scenario.verified = (
            Figure("outage", 1.0),
            Figure("resumed", 0.5, 3, "s"),
            True,
        )
        scenario.figure("serving", 0.5, 2)
        return report

    def test_a_good_one_has_missed_nothing(self) -> None:
        self.assertEqual([], self.good().missed)
        self.assertNotIn("MISSED", table([self.good()]))

    def test_everything_that_can_miss_is_told(self) -> None:
        def lose(report: Report) -> None:
            report.scenarios[0].lost = Figure("lost", 1, 0)

        def fail_to_verify(report: Report) -> None:
            report.scenarios[0].verified = False

        def resume_late(report: Report) -> None:
            report.scenarios[0].resumed = Figure("resumed", 3.5, 3, "s")

        def be_out_too_long(report: Report) -> None:
            report.scenarios[0].outage = Figure("outage", 61, 60, "s")

        def miss_a_figure(report: Report) -> None:
            report.scenarios[0].figure("reconnected", 1.5, 1)

        def not_hold(report: Report) -> None:
            report.scenarios[0].expect(False, "the late write was taken")

        def fail(report: Report) -> None:
            report.failure = "PostgreSQL does not start"

        for change in (lose, fail_to_verify, resume_late, be_out_too_long, miss_a_figure, not_hold, fail):
            with self.subTest(change.__name__):
                report = self.good()
                change(report)
                self.assertEqual(1, len(report.missed))
                self.assertIn(f"MISSED process-crash: {report.missed[0]}", table([report]))

    def test_only_times_that_were_measured_make_it_only_late(self) -> None:
        self.assertFalse(self.good().is_only_late)
        report = self.good()
        report.scenarios[0].resumed = Figure("resumed", 3.5, 3, "s")
        report.scenarios[0].figure("serving", 2.5, 2)
        self.assertTrue(report.is_only_late)
        report.scenarios[0].figure("calls that failed", 1, 0, "")
        self.assertFalse(report.is_only_late)
        for value in (math.nan, math.inf):
            report = self.good()
            report.scenarios[0].figure("serving", value, 2)
            self.assertFalse(report.is_only_late)
        report = self.good()
        report.scenarios[0].figure("serving", 2.5, 2)
        report.failure = "PostgreSQL does not start"
        self.assertFalse(report.is_only_late)

    def test_what_holds_is_no_problem(self) -> None:
        report = self.good()
        report.scenarios[0].expect(True, "the late write was taken")
        self.assertEqual([], report.missed)

    def test_a_drill_that_measured_nothing_has_missed(self) -> None:
        self.assertEqual(["it measured nothing"], Report("process-crash").missed)

    def test_it_is_read_as_it_was_written(self) -> None:
        report = self.good()
        report.scenarios[0].figure("not measured", math.nan)
        report.scenarios[0].expect(False, "the late write was taken")
        report.failure = "ended"
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "report.json"
            report.write(file)
            read = Report.load(file)
        self.assertEqual(table([report]), table([read]))
        self.assertEqual(3, len(read.missed))

    def test_the_table_has_all_drills(self) -> None:
        other = Report("upgrade", failure="no build")
        text = table([self.good(), other])
        self.assertIn("process-crash  server killed", text)
        self.assertIn("MISSED upgrade: no build", text)


if __name__ == "__main__":
    unittest.main()
