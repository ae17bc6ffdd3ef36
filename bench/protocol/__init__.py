"""What a trial and its parent say to each other: how messages travel, and what they hold. No torch."""
