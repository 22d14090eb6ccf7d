"""Settings of Hypothesis: time limits on examples only tell how busy the machine is."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
