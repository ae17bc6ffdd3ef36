"""What the harness needs from the operating system and other programs: locks, signals, files, hosts, git."""
