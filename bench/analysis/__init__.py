"""What stored runs say beyond their medians: models of a step's time, taxes, ranks, and claims reproduced."""
