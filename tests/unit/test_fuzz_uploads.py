"""What the fuzzing of uploads counts as a problem."""

import httpx

from tests.fuzz.uploads import Uploads


def test_a_server_error_and_a_slow_refusal_are_problems_and_an_image_that_takes_its_time_is_none() -> None:
    found = Uploads()
    found.note("inputs", 1, httpx.Response(201), 3.0)
    found.note("inputs", 2, httpx.Response(400), 0.5)
    assert (found.problems, found.slowest_refusal_s) == ([], 0.5)
    found.note("edits", 3, httpx.Response(400), 1.5)
    found.note("edits", 4, httpx.Response(503, text="full"), 0.1)
    assert found.problems == ["edits, image 3: refused after 1.50 s", "edits, image 4: 503 full"]
    assert found.answers == {"inputs 201": 1, "inputs 400": 1, "edits 400": 1, "edits 503": 1}
    assert found.slowest_refusal_s == 1.5
