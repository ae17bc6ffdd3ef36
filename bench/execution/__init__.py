"""Carrying out a plan: worker processes, who starts them where, and what becomes of every trial."""
