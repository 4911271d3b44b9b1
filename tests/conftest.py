from hypothesis import settings

# A shared machine stalls now and then, so no example has a deadline. Examples are the same
# in every run; `pytest --hypothesis-profile=explore` draws new ones, and more of them.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("repeatable")
