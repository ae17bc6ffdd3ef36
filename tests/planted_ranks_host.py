"""For a worker host to import: plants the faults of `planted_ranks` in all of its trials."""

import planted_ranks

planted_ranks.plant()
