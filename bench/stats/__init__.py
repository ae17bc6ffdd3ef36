"""Estimates, intervals and the rules of verdicts. Pure mathematics: no torch, no pandas, no input or output."""
