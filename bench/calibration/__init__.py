"""How finely a machine can measure, what its devices can do, and whether its self-test passes."""
