"""What the harness needs of the operating system and of other programs: locks, signals, files, hosts, git."""
