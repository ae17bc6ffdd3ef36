"""Executes plans: worker processes, where they run, and the record of every trial."""
