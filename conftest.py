"""What holds for the tests of the server and for those of the SDK."""

from hypothesis import HealthCheck, settings

# A busy machine is not a failure.
settings.register_profile("tachograph", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tachograph")
