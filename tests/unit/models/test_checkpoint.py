"""What the card of a checkpoint says, and how an unusable one is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.resolution import resolve
from deployments.schema import GenerationRequest
from models.checkpoint import location
from models.checkpoint.card import read_card
from models.checkpoint.location import ROOT, checkpoint_name, resolve_checkpoint
from models.checkpoint.settings import CheckpointSettings, DefaultSettings, read_settings
from models.errors import InvalidRequest, UnusableCheckpoint
from models.families.base import Family
from models.families.registry import FAMILIES
from models.parameters import SAMPLERS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tiny_sd: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may break."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "broken-sd"))


def refusal(checkpoint: Path | str) -> str:
    with pytest.raises(UnusableCheckpoint) as caught:
        read_card(str(checkpoint))
    return caught.value.message


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


# -- what the card says


def test_the_card_says_what_the_configs_say(tiny_sd: Path) -> None:
    card = read_card(str(tiny_sd))
    assert (card.id, card.family, card.samplers, card.size_multiple) == ("tiny-sd", "sd", SAMPLERS[1:], 2)
    assert (card.defaults["width"], card.defaults["height"], card.defaults["sampler"]) == (32, 32, "ddim")
    assert card.bounds == {"width": (16, 64), "height": (16, 64), "clip_skip": (0, 3)}
    tokenizer = json.loads((tiny_sd / "tokenizer" / "tokenizer_config.json").read_text())
    assert card.max_tokens == tokenizer["model_max_length"] - 2
    assert (card.styles, card.notice, card.examples) == ((), "", ())


def test_a_scheduler_that_cannot_be_served_is_refused_unless_another_sampler_is_named(folder: Path) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", "VQDiffusionScheduler"])
    message = refusal(folder)
    assert message.startswith(f"{folder / 'scheduler/scheduler_config.json'}: VQDiffusionScheduler cannot be served: ")
    assert message.endswith("Choose a sampler under `defaults`, for example sampler: dpmpp_2m.")
    card = read_card(str(folder), {"sampler": "euler"})
    assert card.defaults["sampler"] == "euler"
    assert "default" not in card.samplers
    assert any("sampler default is not offered" in warning for warning in card.warnings)


def test_default_means_the_checkpoints_own_scheduler_whatever_its_name_is(folder: Path) -> None:
    card = read_card(str(folder), {"sampler": "default"})
    assert card.defaults["sampler"] == "ddim"


def test_the_checkpoints_own_word_wins(folder: Path) -> None:
    own = {
        "defaults": {"num_inference_steps": 7},
        "bounds": {"width": [32, 32], "num_inference_steps": [1, 30]},
        "size_multiple": 8,
        "styles": ["flat"],
        "notice": "Draws shapes.",
        "examples": [{"prompt": "a circle", "seed": 1}],
    }
    (folder / "darkroom.json").write_text(json.dumps(own))
    card = read_card(str(folder))
    assert (card.defaults["num_inference_steps"], card.defaults["guidance_scale"]) == (7, 7.5)
    assert card.bounds == {
        "width": (32, 32),
        "height": (16, 64),
        "num_inference_steps": (1, 30),
        "clip_skip": (0, 3),
    }
    assert (card.size_multiple, card.styles, card.notice) == (8, ("flat",), "Draws shapes.")
    assert card.examples == ({"prompt": "a circle", "seed": 1},)


def test_each_entry_of_the_checkpoints_own_words_is_documented_and_the_example_can_be_used(folder: Path) -> None:
    page = (ROOT / "docs/checkpoints.md").read_text(encoding="utf-8").partition("### darkroom.json")[2]
    (folder / "darkroom.json").write_text(page.partition("```json\n")[2].partition("```")[0])
    assert read_settings(folder).model_dump(exclude_unset=True).keys() == CheckpointSettings.model_fields.keys()
    named = page.partition("\n### ")[0]
    entries = {*CheckpointSettings.model_fields, *DefaultSettings.model_fields}
    assert {entry for entry in entries if f"`{entry}`" not in named} == set()


def test_the_model_that_ships_has_a_card_whose_own_examples_it_allows() -> None:
    card = read_card("models/checkpoints/shapes")
    assert card.id == "shapes"
    assert all(resolve(GenerationRequest(**example), card) for example in card.examples)


TRAILING = {"timestep_spacing": "trailing"}
ZERO_SNR = TRAILING | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


@pytest.mark.parametrize(
    ("scheduler", "entries"),
    [
        ("EulerAncestralDiscreteScheduler", TRAILING),  # SDXL-Turbo
        ("EulerDiscreteScheduler", TRAILING),  # SD-Turbo, SDXL-Lightning
        ("EulerDiscreteScheduler", TRAILING | {"prediction_type": "sample"}),  # SDXL-Lightning of one step
        ("DDIMScheduler", TRAILING),  # Hyper-SD
        ("LCMScheduler", {}),
        ("TCDScheduler", {}),
    ],
)
def test_a_scheduler_of_few_steps_has_few_steps_and_no_guidance_by_default(
    folder: Path, scheduler: str, entries: dict[str, Any]
) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", scheduler])
    change(folder / "scheduler/scheduler_config.json", **entries)
    card = read_card(str(folder))
    assert (card.defaults["num_inference_steps"], card.defaults["guidance_scale"]) == (4, 1.0)
    guessed = [warning for warning in card.warnings if "If this is a model of many steps" in warning]
    assert len(guessed) == (entries != {}), "a guess is said, a fact is not"
    own = {"num_inference_steps": 30, "guidance_scale": 6.0}
    chosen = read_card(str(folder), own)
    assert own.items() <= chosen.defaults.items()
    assert not any("many steps" in warning for warning in chosen.warnings)


@pytest.mark.parametrize(
    ("scheduler", "entries"),
    [
        ("EulerDiscreteScheduler", ZERO_SNR),  # NoobAI
        ("EulerDiscreteScheduler", TRAILING | {"rescale_betas_zero_snr": True}),
        ("EulerDiscreteScheduler", TRAILING | {"prediction_type": "v_prediction"}),
        ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
        ("DPMSolverMultistepScheduler", TRAILING),
        ("DDIMScheduler", {}),
    ],
)
def test_a_scheduler_of_many_steps_is_not_taken_for_one_of_few(
    folder: Path, scheduler: str, entries: dict[str, Any]
) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", scheduler])
    change(folder / "scheduler/scheduler_config.json", **entries)
    card = read_card(str(folder))
    assert (card.defaults["num_inference_steps"], card.defaults["guidance_scale"]) == (20, 7.5)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_unet_that_takes_guidance_as_an_input_has_the_defaults_of_lcm_in_every_family(
    tiny_sdxl: Path, tmp_path: Path, family: Family
) -> None:
    folder = Path(shutil.copytree(tiny_sdxl, tmp_path / "xl"))
    change(folder / "unet/config.json", time_cond_proj_dim=16)
    facts = family.facts(folder, "StableDiffusionXLPipeline")
    assert facts.defaults == {"num_inference_steps": 4, "guidance_scale": 8.0}
    assert facts.embedded_guidance


def test_a_unet_of_2022_with_a_sample_size_of_32_is_for_512_pixels(folder: Path) -> None:
    change(folder / "unet/config.json", sample_size=32, _diffusers_version="0.6.0")
    cells = read_card(str(folder)).defaults["width"] // 2  # this VAE halves once
    assert cells * 8 == 512
    change(folder / "unet/config.json", _diffusers_version="0.11.1")
    assert read_card(str(folder)).defaults["width"] // 2 * 8 == 256, "as in diffusers"
    (folder / "darkroom.json").write_text(json.dumps({"defaults": {"width": 128}, "bounds": {"width": [16, 256]}}))
    card = read_card(str(folder))
    assert (card.defaults["width"], card.bounds["width"]) == (128, (16, 256))


@pytest.mark.parametrize(
    ("checkpoint", "fields", "words"),
    [
        ("tiny_sd", {"clip_skip": 4}, "clip_skip must be from 0 to 3 for tiny-sd, got 4."),
        ("tiny_sdxl", {"clip_skip": 3}, "clip_skip must be from 0 to 2 for tiny-sdxl, got 3."),
        ("tiny_lcm", {"guidance_rescale": 0.7}, "guidance_rescale must be 0 for tiny-lcm, got 0.7."),
    ],
)
def test_a_field_beyond_what_the_model_has_is_refused_with_its_bound(
    request: pytest.FixtureRequest, checkpoint: str, fields: dict[str, Any], words: str
) -> None:
    card = read_card(str(request.getfixturevalue(checkpoint)))
    with pytest.raises(InvalidRequest) as refused:
        resolve(GenerationRequest(prompt="a star", **fields), card)
    assert (refused.value.message, refused.value.param) == (words, next(iter(fields)))


def test_a_rescale_of_guidance_that_is_off_is_a_warning(tiny_sd: Path) -> None:
    card = read_card(str(tiny_sd))
    [spec] = resolve(GenerationRequest(prompt="a star", guidance_rescale=0.7, guidance_scale=1.0), card)
    assert card.warnings_for(spec) == (
        "guidance_rescale has no effect at guidance_scale 1; set guidance_scale above 1.",
    )
    [spec] = resolve(GenerationRequest(prompt="a star", guidance_rescale=0.7), card)
    assert card.warnings_for(spec) == ()


# -- what it is called


def test_a_snapshot_of_the_hubs_cache_is_called_as_its_repository(tiny_sd: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name-xl" / "snapshots" / COMMIT
    shutil.copytree(tiny_sd, snapshot)
    assert read_card(str(snapshot)).id == "name-xl"
    (tmp_path / "mine").symlink_to(snapshot)
    assert read_card(str(tmp_path / "mine")).id == "mine", "a link has the name that somebody gave it"


@pytest.mark.parametrize("place", ["a@b/weights", "weights@v2", 'it\'s "mine"/my weights'])
def test_a_folder_is_called_by_its_own_name_whatever_its_path_holds(tiny_sd: Path, tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    shutil.copytree(tiny_sd, folder)
    assert read_card(str(folder)).id == folder.name


def test_a_hub_id_is_called_as_its_repository_also_without_its_commit() -> None:
    assert checkpoint_name(f"owner/name@{COMMIT}") == checkpoint_name("owner/name") == "name"


# -- the digest


def test_a_distilled_checkpoint_prefers_few_steps(tiny_lcm: Path) -> None:
    chosen = read_card(str(tiny_lcm)).defaults
    assert (chosen["sampler"], chosen["num_inference_steps"], chosen["guidance_scale"]) == ("lcm", 4, 8.0)


def test_the_operators_defaults_come_before_the_checkpoints_own(tiny_lcm: Path) -> None:
    assert read_card(str(tiny_lcm), {"num_inference_steps": 2}).defaults["num_inference_steps"] == 2


def test_the_digest_changes_with_the_weights_and_with_nothing_else(tiny_sd: Path, folder: Path) -> None:
    before = read_card(str(tiny_sd)).digest
    assert read_card(str(folder)).digest == before
    (folder / "README.md").write_text("words")
    (folder / "darkroom.json").write_text('{"notice": "words"}')
    assert read_card(str(folder)).digest == before
    weights = next((folder / "vae").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert read_card(str(folder)).digest != before


@pytest.mark.parametrize(
    "name", ["unet/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"]
)
def test_the_digest_changes_with_a_config(tiny_sd: Path, folder: Path, name: str) -> None:
    change(folder / name, of_no_meaning=1)
    assert read_card(str(folder)).digest != read_card(str(tiny_sd)).digest


# -- what is refused


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert refusal(folder) == f"{folder / name}: missing."


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[]", b"null"])
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "darkroom.json"])
def test_a_broken_file_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    message = refusal(folder)
    assert message.startswith(f"{folder / name}: ")
    assert "JSON" in message


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("vae/config.json", "block_out_channels"),
        ("unet/config.json", "sample_size"),
        ("tokenizer/tokenizer_config.json", "model_max_length"),
    ],
)
def test_a_config_without_what_the_card_needs_is_named(folder: Path, name: str, key: str) -> None:
    content = json.loads((folder / name).read_text())
    del content[key]
    (folder / name).write_text(json.dumps(content))
    assert refusal(folder).startswith(f"{folder / name}: has no {key}, ")


@pytest.mark.parametrize("pipeline", ["FluxPipeline", None])
def test_an_unknown_pipeline_is_named_with_the_known_ones(folder: Path, pipeline: str | None) -> None:
    change(folder / "model_index.json", _class_name=pipeline)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'model_index.json'}: {pipeline} is not served here")
    assert "StableDiffusionPipeline" in message


@pytest.mark.parametrize("stage", ["text_encoder", "unet", "vae"])
def test_weights_that_can_run_code_are_not_read(folder: Path, stage: str) -> None:
    for weights in (folder / stage).glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    message = refusal(folder)
    assert message.startswith(f"{folder / stage}: ")
    assert ".safetensors" in message


@pytest.mark.parametrize("checkpoint", ["nowhere", "/nowhere/at/all", "a/b/c", "./nowhere", "~/nowhere"])
def test_what_is_neither_folder_nor_hub_id_is_refused_without_a_call(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("called the hub"))
    message = refusal(checkpoint)
    assert message.startswith(f"{checkpoint}: ")
    assert "hub id" in message


def test_a_hub_id_that_cannot_be_fetched_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("Cannot reach the hub.\nA long explanation.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    pinned = f"owner/name@{COMMIT}"
    assert refusal(pinned) == f"{pinned}: no such folder or file, and the hub gave: Cannot reach the hub."


@pytest.mark.parametrize("name", ["owner/na me", "owner/name--x", "owner/"])
def test_a_name_that_the_hub_cannot_have_is_refused(name: str) -> None:
    assert refusal(f"{name}@{COMMIT}").startswith(f"{name}@{COMMIT}: no such folder or file, and the hub gave: ")


@pytest.mark.parametrize("name", ["owner/name", "owner/name@main", "owner/name@v1.0", f"owner/name@{'0123456789' * 3}"])
def test_a_hub_id_without_a_commit_is_refused_with_the_way_to_find_it(name: str) -> None:
    message = refusal(name)
    assert message.startswith(f"{name}: ")
    assert f"git ls-remote https://huggingface.co/owner/name {name.partition('@')[2] or 'HEAD'}" in message


def test_a_hub_id_is_fetched_at_its_commit_and_without_weights_that_can_run_code(
    monkeypatch: pytest.MonkeyPatch, tiny_sd: Path
) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def fetch(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tiny_sd)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert resolve_checkpoint(f"owner/name@{COMMIT}") == tiny_sd
    assert (asked["name"], asked["revision"]) == ("owner/name", COMMIT)
    assert not any(pattern.endswith(".bin") for pattern in asked["allow_patterns"])
    assert "*.fp16*" in asked["ignore_patterns"]


def test_variants_are_fetched_from_the_hub_where_a_component_has_no_other_weights(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    import huggingface_hub

    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    there = weights.read_bytes()
    weights.unlink()

    def fetch(name: str, *, ignore_patterns: list[str], **options: Any) -> str:
        if "*.fp16*" not in ignore_patterns:
            weights.with_name("diffusion_pytorch_model.fp16.safetensors").write_bytes(there)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    card = read_card(f"owner/name@{COMMIT}")
    assert "vae/diffusion_pytorch_model.fp16.safetensors" in card.files
    assert "vae: the weights of variant fp16 are read, as there are no others." in card.warnings


@pytest.mark.parametrize("name", ["~nobody-has-this-name/x", "a\0b"])
def test_what_cannot_be_a_path_is_refused(name: str) -> None:
    assert refusal(name).startswith(f"{name!r}: cannot be a path: ")


def test_the_index_of_a_checkpoint_is_refused_with_its_folder(folder: Path) -> None:
    index = folder / "model_index.json"
    assert refusal(index) == f"{index}: a file of a checkpoint; name its folder: {folder}."


@pytest.mark.parametrize("inside", ["", "snapshots"])
def test_a_repository_of_the_hubs_cache_is_refused_with_its_snapshots(tmp_path: Path, inside: str) -> None:
    repository = tmp_path / "models--owner--name"
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    assert refusal(repository / inside).endswith(f"name a snapshot of it: {repository / 'snapshots' / COMMIT}.")


def test_a_relative_folder_is_one_of_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(location, "ROOT", tmp_path)
    monkeypatch.chdir("/")
    assert resolve_checkpoint("weights") == tmp_path / "weights"
    assert resolve_checkpoint(str(tmp_path / "weights")) == tmp_path / "weights"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"defaults": {"num_inference_steps": 0}}, "defaults.num_inference_steps must be 1 or more, got 0."),
        ({"defaults": {"num_inference_steps": "many"}}, "defaults.num_inference_steps must be an integer, got 'many'."),
        ({"defaults": {"guidance_scale": "high"}}, "defaults.guidance_scale must be a number, got 'high'."),
        ({"defaults": {"clip_skip": -1}}, "defaults.clip_skip must be 0 or more, got -1."),
        ({"defaults": {"cfg": 7}}, "defaults.cfg is not a known field."),
        ({"bounds": {"width": [64]}}, "bounds.width[1] is required."),
        ({"size_multiple": 0}, "size_multiple must be more than 0, got 0."),
        ({"styles": 7}, "styles must be a list, got 7."),
    ],
)
def test_what_a_checkpoint_says_of_itself_is_refused_in_words(folder: Path, own: dict[str, Any], words: str) -> None:
    (folder / "darkroom.json").write_text(json.dumps(own))
    assert refusal(folder) == f"{folder / 'darkroom.json'}: {words}"


def test_bounds_of_a_field_that_has_none_are_refused_with_those_that_have(folder: Path) -> None:
    (folder / "darkroom.json").write_text(json.dumps({"bounds": {"prompt": [1, 2]}}))
    assert refusal(folder).startswith(f"{folder / 'darkroom.json'}: bounds.prompt must be 'width', 'height' or ")


@pytest.mark.parametrize(
    ("defaults", "most"),
    [({"num_inference_steps": 10**8}, 150), ({"width": 10**6}, 2048), ({"height": 10**6}, 2048)],
)
def test_a_default_beyond_every_request_is_refused(folder: Path, defaults: dict[str, int], most: int) -> None:
    (folder / "darkroom.json").write_text(json.dumps({"defaults": defaults}))
    message = refusal(folder)
    [(name, value)] = defaults.items()
    assert message == f"{folder / 'darkroom.json'}: defaults.{name} must be {most} or less, got {value}."


def test_a_size_beyond_every_request_is_refused(folder: Path) -> None:
    change(folder / "unet/config.json", sample_size=2**19)
    words = "sample_size is for images of 1048576 pixels; must be for 2048 or less."
    assert refusal(folder) == f"{folder / 'unet/config.json'}: {words}"


@pytest.mark.parametrize("sampler", ["nope", "default"])
def test_a_default_sampler_that_is_not_offered_is_refused_with_another_one(folder: Path, sampler: str) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", "SASolverScheduler"])
    with pytest.raises(UnusableCheckpoint) as refused:
        read_card(str(folder), {"sampler": sampler})
    assert refused.value.message.startswith(f"{folder / 'scheduler/scheduler_config.json'}: ")
    assert refused.value.message.endswith("for example sampler: dpmpp_2m.")


def test_a_scheduler_that_fails_at_the_models_own_steps_is_refused(folder: Path) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", "UniPCMultistepScheduler"])
    change(folder / "scheduler/scheduler_config.json", solver_order=4)
    assert "looks back more than 4 model calls" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("unet/config.json", {"cross_attention_dim": 64}),
        ("unet/config.json", {"num_class_embeds": 10}),
        ("unet/config.json", {"encoder_hid_dim_type": "text_image_proj"}),
        ("vae/config.json", {"latents_mean": [0.0, 0.0, 0.0]}),
        ("vae/config.json", {"latents_mean": 0.5}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 120}),
    ],
)
def test_components_that_do_not_fit_each_other_are_refused(folder: Path, name: str, entries: dict[str, Any]) -> None:
    change(folder / name, **entries)
    message = refusal(folder)
    assert message.startswith(f"{folder / name}: ")
    assert next(iter(entries)) in message


def test_two_tokenizers_of_different_lengths_are_refused(tiny_sdxl: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sdxl, tmp_path / "xl"))
    change(folder / "tokenizer_2/tokenizer_config.json", model_max_length=50)
    assert refusal(folder).startswith(f"{folder / 'tokenizer_2/tokenizer_config.json'}: model_max_length is 50")


def test_a_pooled_text_of_another_width_is_refused(tiny_sdxl: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_sdxl, tmp_path / "xl"))
    change(folder / "unet/config.json", projection_class_embeddings_input_dim=81)
    assert "projection_class_embeddings_input_dim is 81, and must be 80" in refusal(folder)


# -- what the operator is told of it


def test_the_card_names_what_is_not_used(folder: Path) -> None:
    change(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    (folder / "unet/diffusion_pytorch_model.fp16.safetensors").touch()
    (folder / "unet/diffusion_pytorch_model.bin").touch()
    assert read_card(str(folder)).warnings == (
        "safety_checker of model_index.json is not used.",
        "Files that are not read: unet/diffusion_pytorch_model.bin, unet/diffusion_pytorch_model.fp16.safetensors.",
    )


def test_files_that_are_not_read_are_not_part_of_the_digest(tiny_sd: Path, folder: Path) -> None:
    (folder / "unet/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"anything")
    assert read_card(str(folder)).digest == read_card(str(tiny_sd)).digest


@pytest.mark.parametrize(("class_name", "sampler"), [("LCMScheduler", "lcm"), ("TCDScheduler", "tcd")])
def test_a_scheduler_for_few_steps_means_few_steps(folder: Path, class_name: str, sampler: str) -> None:
    change(folder / "model_index.json", scheduler=["diffusers", class_name])
    chosen = read_card(str(folder)).defaults
    assert (chosen["sampler"], chosen["num_inference_steps"], chosen["guidance_scale"]) == (sampler, 4, 1.0)


# -- what an image costs


def test_guidance_that_is_an_input_of_the_model_takes_no_second_row(tiny_lcm: Path, tiny_sd: Path) -> None:
    spec, usual = (
        read_card(str(folder)).spec(
            model="m", prompt="a circle", seed=1, negative_prompt="", width=32, height=32, num_inference_steps=4,
            guidance_scale=8.0, sampler="lcm", output_format="png",
        )
        for folder in (tiny_lcm, tiny_sd)
    )  # fmt: skip
    assert (spec.rows, usual.rows) == (1, 2)
    assert spec.guided
    assert spec.cost == usual.cost / 2


def test_too_few_steps_for_a_sampler_are_warned_of(tiny_sd: Path) -> None:
    card = read_card(str(tiny_sd))
    spec = card.spec(
        model="m", prompt="a circle", seed=1, negative_prompt="", width=32, height=32, num_inference_steps=3,
        guidance_scale=8.0, sampler="dpmpp_2m_karras", output_format="png",
    )  # fmt: skip
    assert card.warnings_for(spec) == (
        "num_inference_steps: dpmpp_2m_karras needs 5 or more with this model; 3 leave noise.",
    )
    assert card.warnings_for(replace(spec, num_inference_steps=5)) == ()


def test_a_model_that_does_with_few_steps_is_not_warned_of_them(tiny_sd: Path) -> None:
    assert read_card(str(tiny_sd), {"num_inference_steps": 2}).min_steps == {}
