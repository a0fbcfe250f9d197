"""Coverage-guided fuzzing of every parser: docs/testing.md; run with `make fuzz`, or `python -m fuzz`."""
