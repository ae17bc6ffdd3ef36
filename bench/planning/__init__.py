"""From a request to a plan, to its shards, and to how long it will take. Nothing is measured here."""
