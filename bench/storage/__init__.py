"""Stored runs: one file of JSON lines each, written trial by trial, read back, merged, and made into tidy tables."""
