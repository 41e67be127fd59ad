"""Measurements that take minutes and the whole machine: `make bench-llm`. Nothing in kar imports this package."""
