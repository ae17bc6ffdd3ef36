"""What runs in a trial's own process: the measuring, and all that touches torch and the workload."""
