"""Frozen suites as data: one TOML file each, named after the suite."""
