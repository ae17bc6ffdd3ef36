"""Stored runs against each other: what matches, how much it differs, how surely; and the gate on that."""
