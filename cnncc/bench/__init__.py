"""Comparing engines on one model: a process each, alternating rounds, correctness first."""
