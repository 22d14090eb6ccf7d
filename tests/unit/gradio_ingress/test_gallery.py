"""What a job's pictures look like on the page."""

from dataclasses import replace

from deployments.jobs import Progress, Timestamps
from gradio_ingress import gallery
from models.spec import InitImage
from tests.unit.gradio_ingress.test_status import job, result


def test_every_picture_has_a_tile_before_it_is_drawn() -> None:
    shown = gallery.tiles(job(num_images=3), "me")
    assert shown.count("<figure") == 3
    assert shown.count('data-state="waiting"') == 3


def test_preview_and_picture_take_the_same_tile() -> None:
    drawn = job(
        num_images=2,
        status="running",
        progress=Progress(stage="denoise", step=9, steps=16, eta_s=1, previews={1: "data:image/webp;base64,AA"}),
    )
    drawn = replace(drawn, images=(result(drawn),))
    first, second = gallery.tiles(drawn, drawn.owner).split("</figure>")[:2]
    assert f'src="/v1/files/0.png?link={drawn.link}" alt="a star"' in first
    assert 'download="darkroom-41.png"' in first
    assert 'src="data:image/webp;base64,AA" alt="Preview of: a star"' in second


def test_a_finished_tile_has_its_actions_and_its_file_comes_by_link() -> None:
    drawn = job(status="succeeded")
    drawn = replace(drawn, images=(result(drawn),))
    which = f'data-job="{drawn.id}.{drawn.link}" data-index="0"'
    shown = gallery.tiles(drawn, drawn.owner)
    assert f'data-act="seed" {which}' in shown
    assert f'data-act="settings" {which}' in shown
    assert f'data-act="input" {which}' in shown
    assert 'data-act="input"' not in gallery.tiles(drawn, "somebody else")
    assert f'data-copy-link="{drawn.id}.{drawn.link}"' in shown
    assert "data-download-all" not in shown
    assert f'href="/v1/files/0.png?link={drawn.link}" download' in shown


def test_a_picture_that_began_with_an_image_can_be_compared_with_it_by_its_owner() -> None:
    drawn = job(status="succeeded")
    spec = replace(drawn.specs[0], init=InitImage(input="input_0", strength=0.5, resize_mode="fit"))
    drawn = replace(drawn, specs=(spec,), images=(result(drawn),))
    shown = gallery.tiles(drawn, drawn.owner)
    assert 'data-fit="fit" data-src="/v1/inputs/input_0/content"' in shown
    assert 'class="compare" type="range"' in shown
    assert "compare" not in gallery.tiles(drawn, "somebody else")


def test_several_pictures_can_be_downloaded_at_once() -> None:
    drawn = job(num_images=2, status="succeeded")
    drawn = replace(drawn, images=(result(drawn), result(drawn, 1)))
    assert "data-download-all" in gallery.tiles(drawn, drawn.owner)


def test_a_receipt_tells_what_a_picture_cost_and_how_programs_ask_for_it() -> None:
    drawn = job(status="succeeded", timestamps=Timestamps(created=100.0, started=101.5, ended=103.0))
    drawn = replace(drawn, images=(replace(result(drawn), denoise_s=0.731, model_digest="abcdef0123456789"),))
    shown = gallery.receipts(drawn)
    for words in ("1.50 s", "0.73 s", "abcdef012345", "Copy as curl", "Copy as openai", "Copy as InferenceClient"):
        assert words in shown


def test_a_prompt_cannot_become_markup() -> None:
    hostile = job(prompt='"><script>alert(1)</script>')
    hostile = replace(hostile, images=(result(hostile),))
    assert "<script" not in gallery.tiles(hostile, hostile.owner)
    assert 'alt=""' not in gallery.tiles(hostile, hostile.owner)
    assert "<script" not in gallery.receipts(hostile)
