"""Stored runs: one file of JSON lines each, written trial by trial, read, merged, and converted to tidy tables."""
