"""From a request to a plan, its shards, and an estimate of its time. Nothing is measured here."""
