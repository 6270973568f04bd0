"""Evaluation: suites, the runner, records, metrics, statistics, reports."""
