"""For a worker host to import: plants the faults of `planted_trials` in all of its trials."""

import planted_trials

planted_trials.plant()
