"""An operator's own code over each image: which is taken, what it may do, and what becomes of its failures."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from models.errors import PostProcessFailed, Refused
from models.image_file import encode_image
from models.postprocess import PostProcessors, UnusablePostProcessor, check_modules, load_classes
from models.vae import Decoded
from tests.fakes import a_spec
from tests.post_processors import MARK, TRAILER

SPEC = a_spec()
FILE = encode_image(Decoded(np.zeros((8, 16, 3), np.uint8), tiled=False), SPEC, "digest")


def named(*names: str) -> tuple[str, ...]:
    """Entries of a config."""
    return tuple(f"tests.post_processors:{name}" for name in names)


def plain() -> np.ndarray:
    return np.full((8, 16, 3), 200, np.uint8)


def test_without_entries_an_image_stays_as_it_is() -> None:
    each = PostProcessors(())
    assert np.array_equal(each.pixels(plain(), SPEC), plain())
    assert each.file(FILE, SPEC) == FILE


def test_pixels_pass_the_entries_in_their_order() -> None:
    marked_last = PostProcessors(named("Negative", "Watermark")).pixels(plain(), SPEC)
    marked_first = PostProcessors(named("Watermark", "Negative")).pixels(plain(), SPEC)
    assert (*marked_last[0, 0], *marked_last[-1, -1]) == (55, 55, 55, *MARK)
    assert (*marked_first[0, 0], *marked_first[-1, -1]) == (55, 55, 55, *(255 - value for value in MARK))


def test_a_file_passes_the_entries_that_have_something_to_do_with_files() -> None:
    assert PostProcessors(named("Signature", "Watermark", "Signature")).file(FILE, SPEC) == FILE + 2 * TRAILER


def test_a_refusal_reaches_the_client_with_the_operators_words() -> None:
    each = PostProcessors(named("Watermark", "SafetyCheck"))
    each.pixels(plain(), SPEC)
    with pytest.raises(Refused) as caught:
        each.pixels(plain(), a_spec(prompt="a weapon"))
    assert (caught.value.code, caught.value.message) == ("image_refused", "The image shows a weapon.")


def test_a_refusal_of_any_kind_leaves_the_process_as_plain_text() -> None:
    """Its class may be unknown elsewhere, and its message is stored with the job."""
    with pytest.raises(Refused) as caught:
        PostProcessors(named("Scoring")).pixels(plain(), SPEC)
    assert type(pickle.loads(pickle.dumps(caught.value))) is Refused
    assert caught.value.message == "0.5: a?b" + "c" * (1000 - 8)


@pytest.mark.parametrize(
    ("name", "logged"),
    [
        ("Broken", "ZeroDivisionError"),
        ("Shrinking", "pixels() must return a uint8 array of shape (8, 16, 3); got uint8 (4, 16, 3)"),
        ("Floating", "pixels() must return a uint8 array of shape (8, 16, 3); got float64 (8, 16, 3)"),
        ("Misleading", "OutOfMemory"),
        ("Forgetful", "file() must return a png file; got nothing"),
        ("Converting", "file() must return a png file; got a bytes"),
        ("Leaving", "SystemExit(3)"),
    ],
)
def test_a_failure_is_told_to_the_operator_in_full_and_to_the_client_without_secrets(
    caplog: pytest.LogCaptureFixture, name: str, logged: str
) -> None:
    each = PostProcessors(named(name))
    with caplog.at_level(logging.ERROR), pytest.raises(PostProcessFailed) as caught:
        _ = each.pixels(plain(), SPEC), each.file(FILE, SPEC)
    assert (caught.value.code, caught.value.message) == ("postprocess_failed", "The image could not be post-processed.")
    assert f"tests.post_processors:{name}" in caplog.text
    assert logged in caplog.text


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("no_such_module:Name", "there is no module no_such_module on Python's path."),
        ("tests.no_such_module:Name", "there is no module tests.no_such_module on Python's path."),
        ("no_such_package.module:Name", "there is no module no_such_package.module on Python's path."),
        ("tests.post_processors:Missing", "must be a subclass of models.postprocess.PostProcessor; got nothing."),
        ("tests.post_processors:Stranger", "of models.postprocess.PostProcessor; got the class Stranger."),
        ("tests.post_processors:MARK", "must be a subclass of models.postprocess.PostProcessor; got a tuple."),
        ("tests.post_processors:Misspelt", "Misspelt overrides neither pixels() nor file()."),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_by_its_name(entry: str, reason: str) -> None:
    with pytest.raises(UnusablePostProcessor) as caught:
        load_classes((*named("Watermark"), entry))
    assert str(caught.value).startswith(f"postprocess: {entry}: ")
    assert reason in str(caught.value)


def test_a_class_that_cannot_be_made_is_refused_when_a_replica_starts() -> None:
    load_classes(named("Unmakeable"))
    with pytest.raises(UnusablePostProcessor, match=r"Unmakeable\(\) failed: FileNotFoundError\('weights.bin'\)"):
        PostProcessors(named("Unmakeable"))


def test_a_module_is_sought_without_being_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "operators_own.py").write_text("raise SystemError('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    check_modules(["operators_own:Name"])
    with pytest.raises(UnusablePostProcessor, match="operators_own cannot be imported: SystemError"):
        load_classes(["operators_own:Name"])
