"""What all tests share: Hypothesis sets no time limits, because a shared machine may be busy with something else."""

from hypothesis import HealthCheck, settings

# Its own profile for CI, if that is where this runs, is the base.
settings.register_profile("unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
