"""A module for each command of the command line, or for a few that belong together, and their options."""
