"""The live comparison: two versions at once on one machine, alternating, over fresh pairs of processes."""
