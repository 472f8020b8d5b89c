from hypothesis import settings

# A slow machine is no failure: what is timed here is nothing but the test's own generators.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
