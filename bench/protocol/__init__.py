"""Messages between a trial and its parent: how they are transported, and what they contain. No torch."""
