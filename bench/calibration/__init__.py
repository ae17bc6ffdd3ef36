"""The ruler's own figures: how finely a machine can measure, what its devices can do, whether its checks pass."""
