"""A checkpoint that would fill the memory, run code or lead out of its folder is refused before a library opens it.

Nothing is loaded here: `check` has no torch. Of most cases it was tried what they did before they were refused.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from math import inf, prod
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from models.checkpoint.card import read_card
from models.checkpoint.files import checked_files
from models.checkpoint.guard import MAX_HEADER_BYTES, check_model, measure
from models.checkpoint.location import check
from models.checkpoint.sizes import Size
from models.denoiser.model import load_denoiser
from models.errors import UnusableCheckpoint
from models.families.base import Component
from models.families.registry import FAMILIES
from models.text_encoder import load_text_encoder
from models.vae import load_vae
from tests.real_checkpoints import TEXT_LAYERS, UNETS, VAES, WIDTH

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
TEXT = "text_encoder/config.json"
TEXT_WEIGHTS = "text_encoder/model.safetensors"
TOKENIZER = "tokenizer/tokenizer_config.json"
SPECIALS = "tokenizer/special_tokens_map.json"
WORDS = "tokenizer/tokenizer.json"
UNET = "unet/config.json"
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/config.json"


@pytest.fixture
def folder(tiny_sd: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may break."""
    return Path(shutil.copytree(tiny_sd, tmp_path / "checkpoint"))


def refusal(folder: Path) -> str:
    with pytest.raises(UnusableCheckpoint) as caught:
        check(str(folder))
    return caught.value.message


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def write(path: Path, content: Any) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def changed(name: str, **entries: Any) -> Callable[[Path], None]:
    """Some entries of a JSON file are others, or new."""
    return lambda folder: write(folder / name, read(folder / name) | entries)


def nested(entry: str, **entries: Any) -> Callable[[Path], None]:
    """The text encoder's config has another one inside, whole, with some entries changed."""
    return lambda folder: write(folder / TEXT, read(folder / TEXT) | {entry: read(folder / TEXT) | entries})


def new(name: str, content: Any) -> Callable[[Path], None]:
    """A file more, or another in its place."""
    return lambda folder: write(folder / name, content)


def sparse(name: str) -> Callable[[Path], None]:
    """A file has 100 GB, of zeros."""

    def edit(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(10**11)

    return edit


def all_of(*edits: Callable[[Path], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        for each in edits:
            each(folder)

    return edit


def rules(**entries: Any) -> Callable[[Path], None]:
    """The tokenizer does something else to a text before it looks for words."""
    return changed(WORDS, **entries)


def as_words_and_merges(folder: Path) -> None:
    """The tokenizer is in two files, as in the oldest checkpoints."""
    write(folder / "tokenizer/vocab.json", read(folder / WORDS)["model"]["vocab"])
    write(folder / "tokenizer/merges.txt", "#version: 0.2\n")
    (folder / WORDS).unlink()


def weights(
    name: str, shapes: Mapping[str, tuple[int, ...]], metadata: str = "", dtype: str = "F16"
) -> Callable[[Path], None]:
    """A safetensors file of zeros, of two bytes each; of one byte, they would take more once they are loaded."""

    def edit(folder: Path) -> None:
        header: dict[str, Any] = {"__metadata__": {"x": metadata}}
        width = 2 if dtype == "F16" else 1
        end = 0
        for key, shape in shapes.items():
            header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end := end + width * prod(shape)]}
        text = json.dumps(header).encode()
        (folder / name).write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))

    return edit


def renamed(old: str, name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / old).replace(folder / name)


def linked(name: str, target: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return edit


def pipe(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return edit


def deep(opened: str, closed: str, levels: int) -> Callable[[Path], None]:
    return lambda folder: write(
        folder / UNET, json.dumps(read(folder / UNET))[:-1] + f', "x": {opened * levels}1{closed * levels}}}'
    )


def size_of(model: torch.nn.Module) -> Size:
    return Size(len(list(model.parameters())), sum(parameter.numel() for parameter in model.parameters()))


CODE = [
    (nested("text_config", _attn_implementation="evil/kernel"), TEXT, "text_config._attn_implementation asks for code"),
    (nested("text_config", auto_map={"AutoModel": "x.y"}), TEXT, "text_config.auto_map asks for code"),
    (nested("other", quantization_config={"bits": 4}), TEXT, "other.quantization_config asks for quantised weights"),
    (changed(UNET, extra=[{"quantization_config": {}}]), UNET, "extra.quantization_config asks for quantised"),
    (changed(TEXT, _experts_implementation="evil/kernel"), TEXT, "_experts_implementation asks for code"),
    (changed(TEXT, fusion_config={"patch_embeddings": True}), TEXT, "fusion_config asks for code"),
    (changed(INDEX, x={"y": [{"auto_map": {}}]}), INDEX, "x.y.auto_map asks for code"),
    (changed(SCHEDULER, x={"auto_map": "x.y"}), SCHEDULER, "x.auto_map asks for code"),
]
OTHER_FILES = [
    (nested("text_config", transformers_weights="w.safetensors"), TEXT, "text_config.transformers_weights names files"),
    (
        all_of(changed(TEXT, configuration_files=["config.4.0.0.json"]), new("text_encoder/config.4.0.0.json", {})),
        TEXT,
        "configuration_files names files",
    ),
    (changed(TOKENIZER, gguf_file="evil.gguf"), TOKENIZER, "gguf_file names files"),
    (changed(UNET, _use_default_values=["block_out_channels"]), UNET, "_use_default_values has diffusers take other"),
    (
        rules(normalizer={"type": "Precompiled", "precompiled_charsmap": "//////8="}),
        WORDS,
        "normalizer.precompiled_chars",
    ),
    (new("tokenizer/added_tokens.json", {"x" * 300: 5}), "tokenizer/added_tokens.json", "the file has a token of more"),
    (new(SPECIALS, {"bos_token": "x" * 300}), SPECIALS, "bos_token has a token of more than 256"),
    (changed(UNET, layers_per_block=0, transformer_layers_per_block=4000), UNET, "transformer_layers_per_block = 4000"),
    (changed(TOKENIZER, vocab="/vocab.json", merges="/merges.txt"), TOKENIZER, "vocab names files"),
    (changed(TOKENIZER, init_inputs=["/vocab.json"]), TOKENIZER, "init_inputs names files"),
    (new(SPECIALS, {"tokenizer_file": "/tokenizer.json"}), SPECIALS, "tokenizer_file names files"),
    (new(SPECIALS, {"vocab_file": "/vocab.json", "bos_token": "x"}), SPECIALS, "vocab_file names files"),
    (changed(WORDS, model={"type": "BPE", "vocab": "/vocab.json"}), WORDS, "model must be of type BPE and have"),
]
FOUND_BY_THEMSELVES = [
    (new("text_encoder/adapter_config.json", {"base_model_name_or_path": "evil/model"}), "text_encoder/adapter_config"),
    (new("text_encoder/shard-00001-model-00001-of-00001.safetensors", ""), "text_encoder/shard-00001-model-00001-of-0"),
    (
        all_of(
            renamed(UNET_WEIGHTS, "unet/diffusion_pytorch_model.fp16.safetensors"),
            new("unet/diffusion_pytorch_model.safetensors.fp16.index.json", {}),
        ),
        "unet/diffusion_pytorch_model.safetensors.fp16.index.json",
    ),
    (
        all_of(
            renamed(UNET_WEIGHTS, "unet/diffusion_pytorch_model.fp16.safetensors"),
            new("unet/diffusion_pytorch_model.fp16.safetensors.index.json", {}),
        ),
        "unet/diffusion_pytorch_model.fp16.safetensors.index.json",
    ),
    (new("tokenizer/chat_template.jinja", ""), "tokenizer/chat_template.jinja"),
    (linked("tokenizer/additional_chat_templates", "/etc"), "tokenizer/additional_chat_templates"),
    (all_of(as_words_and_merges, new("tokenizer/tekken.json", {})), "tokenizer/tekken.json"),
    (all_of(as_words_and_merges, new("tokenizer/tokenizer.model", "")), "tokenizer/tokenizer.model"),
]
NO_FILES = [
    (linked(INDEX, "/dev/zero"), INDEX),
    (pipe(UNET), UNET),
    (pipe(UNET_WEIGHTS), UNET_WEIGHTS),
    (sparse(WORDS), WORDS),
    (all_of(as_words_and_merges, sparse("tokenizer/merges.txt")), "tokenizer/merges.txt"),
    (all_of(as_words_and_merges, sparse("tokenizer/vocab.json")), "tokenizer/vocab.json"),
    (sparse("darkroom.json"), "darkroom.json"),
]
MODELS = [
    (nested("text_config", num_hidden_layers=10**7), TEXT, "text_config holds an object"),
    (all_of(nested("x", num_hidden_layers=10**7), changed(TEXT, model_type="clip")), TEXT, "x holds an object"),
    (changed(TEXT, text_config={}), TEXT, "text_config holds an object"),
    (changed(TEXT, x=[[{"model_type": "clip_text_model"}]]), TEXT, "x holds an object"),
    (changed(TEXT, per_layer_config={"0": {"intermediate_size": 10**9}}), TEXT, "per_layer_config holds an object"),
    (changed(TEXT, attribute_map={"hidden_size": "x"}), TEXT, "attribute_map holds an object"),
    (changed(TEXT, intermediate_size=2**20), TEXT, "intermediate_size = 1048576, "),
    (changed(TEXT, vocab_size=2**20), TEXT, "vocab_size = 1048576, "),
    (changed(TEXT, hidden_size=2**16), TEXT, "hidden_size = 65536, "),
    (changed(TEXT, num_labels=2**20), TEXT, "num_labels = 1048576 must be"),
    (changed(TEXT, max_position_embeddings=2**20), TEXT, "max_position_embeddings = 1048576 must be"),
    (changed(TEXT, num_hidden_layers="10000000"), TEXT, "num_hidden_layers = '10000000' must be a whole number"),
    (changed(TEXT, num_hidden_layers=True), TEXT, "num_hidden_layers = True must be a whole number"),
    (changed(UNET, layers_per_block=60, transformer_layers_per_block=59), UNET, "layers_per_block = 60, tran"),
    (changed(UNET, layers_per_block=-1), UNET, "layers_per_block = -1 must be a whole number"),
    (changed(UNET, layers_per_block="999"), UNET, "layers_per_block = '999' must be a whole number"),
    (
        changed(UNET, reverse_transformer_layers_per_block=[[50, 50], 50]),
        UNET,
        "reverse_transformer_layers_per_block =",
    ),
    (changed(UNET, block_out_channels=[2**20, 2**20]), UNET, "block_out_channels = [1048576, 1048576], "),
    (changed(UNET, block_out_channels=[32] * 9), UNET, "block_out_channels has 9 entries"),
    (changed(UNET, conv_in_kernel=20001), UNET, "conv_in_kernel = 20001, "),
    (changed(UNET, conv_out_kernel=20001), UNET, "conv_out_kernel = 20001, "),
    (changed(UNET, encoder_hid_dim=2**20), UNET, "encoder_hid_dim = 1048576, "),
    (changed(UNET, time_embedding_dim=2**18), UNET, "time_embedding_dim = 262144, "),
    (changed(UNET, time_cond_proj_dim=2**20), UNET, "time_cond_proj_dim = 1048576, "),
    (changed(UNET, projection_class_embeddings_input_dim=2**20), UNET, "projection_class_embeddings_input_dim = 1048"),
    (changed(UNET, downsample_padding=2**20), UNET, "downsample_padding = 1048576 must be"),
    (changed(UNET, x={"y": [1e999]}), UNET, "x.y = inf must be"),
    (deep("[", "]", 900), UNET, "x has more than 16 lists or objects"),
    (deep('{"a": ', "}", 300), UNET, "x.a.a.a"),
    (changed(VAE, layers_per_block=30), VAE, "layers_per_block = 30 make 960 tensors"),
    (changed(VAE, latent_channels=2**20), VAE, "latent_channels = 1048576, "),
    (changed(VAE, in_channels=2**20), VAE, "in_channels = 1048576, "),
    (lambda folder: write(folder / VAE, '{"scaling_factor": NaN}'), VAE, "cannot be read as JSON: NaN"),
]
WEIGHTS = [
    (
        all_of(
            weights(TEXT_WEIGHTS, {f"t{k}": (int(k < 9),) for k in range(30_000)}),
            changed(TEXT, num_hidden_layers=1000),
        ),
        TEXT,
        "num_hidden_layers = 1000 does not fit its 9 tensors",
    ),
    (
        weights(TEXT_WEIGHTS, {f"t{k}": (1,) for k in range(5000)}),
        TEXT_WEIGHTS,
        "5000 tensors in all, the most is 4096",
    ),
    (
        weights(TEXT_WEIGHTS, {"t": (1,)}, metadata="x" * MAX_HEADER_BYTES),
        TEXT_WEIGHTS,
        "not a safetensors file: a header of ",
    ),
]
SCHEDULERS = [
    (changed(SCHEDULER, num_train_timesteps=10**11), SCHEDULER, "num_train_timesteps = 100000000000 must be"),
    (
        changed(SCHEDULER, num_train_timesteps=10**9, beta_schedule="squaredcos_cap_v2"),
        SCHEDULER,
        "num_train_timesteps",
    ),
    (changed(SCHEDULER, original_inference_steps=10**9), SCHEDULER, "original_inference_steps = "),
    (changed(SCHEDULER, solver_order=10**10), SCHEDULER, "solver_order = "),
    (changed(SCHEDULER, predictor_order=10**10), SCHEDULER, "predictor_order = "),
    (changed(SCHEDULER, num_vec_classes=10**10), SCHEDULER, "num_vec_classes = "),
    (changed(SCHEDULER, x={"num_train_timesteps": -(10**9)}), SCHEDULER, "x.num_train_timesteps = "),
    (changed(SCHEDULER, trained_betas=[0.01] * 90_000), SCHEDULER, "trained_betas has 90000 entries"),
    (changed(SCHEDULER, beta_end=inf), SCHEDULER, "beta_end = inf must be"),
]
TOKENIZERS = [
    (changed(TOKENIZER, model_max_length=10**9), TOKENIZER, "model_max_length is 1000000000, and must be from 3"),
    (
        changed(TOKENIZER, model_max_length=10**30),
        TOKENIZER,
        f"model_max_length is {10**30}, and must be from 3 to 1024: ",
    ),
    (changed(TOKENIZER, model_max_length=-5), TOKENIZER, "model_max_length is -5, and must be from 3"),
    (changed(TOKENIZER, model_max_length=True), TOKENIZER, "model_max_length is True, and must be from 3"),
    (changed(TOKENIZER, tokenizer_padding={"length": 10**9}), TOKENIZER, "tokenizer_padding holds an object"),
    (changed(TOKENIZER, extra_special_tokens=["x"] * 90_000), TOKENIZER, "extra_special_tokens has 90000 entries"),
    (new(SPECIALS, {"model_max_length": 10**9}), SPECIALS, "model_max_length is no special token"),
    (
        new(SPECIALS, {"additional_special_tokens": ["x"] * 5000}),
        SPECIALS,
        "additional_special_tokens has 5000 entries",
    ),
    (
        new("tokenizer/added_tokens.json", {str(k): k for k in range(5000)}),
        "tokenizer/added_tokens.json",
        "the file has",
    ),
    (changed(WORDS, added_tokens=[{}] * 5000), WORDS, "added_tokens has 5000 entries"),
    (changed(WORDS, model={"type": "Unigram", "vocab": [["x", 0.0]]}), WORDS, "model must be of type BPE"),
    (rules(padding={"strategy": {"Fixed": 10**9}, "pad_id": 49407}), WORDS, "padding.strategy.Fixed = 1000000000 must"),
    (rules(truncation={"max_length": 10**9}), WORDS, "truncation.max_length = 1000000000 must"),
    (
        rules(pre_tokenizer={"type": "Split", "pattern": {"Regex": r"[^\p{L}]{1000}" * 10**5}}),
        WORDS,
        "1500541 bytes besides",
    ),
]
CASES = [*CODE, *OTHER_FILES, *MODELS, *WEIGHTS, *SCHEDULERS, *TOKENIZERS]


@pytest.mark.parametrize(("edit", "name", "start"), CASES, ids=[f"{name}: {start}"[:80] for _, name, start in CASES])
def test_what_a_file_must_not_say_is_refused_by_its_name_and_the_entrys(
    folder: Path, edit: Callable[[Path], None], name: str, start: str
) -> None:
    edit(folder)
    assert refusal(folder).startswith(f"{folder / name}: {start}")


@pytest.mark.parametrize(("edit", "name"), FOUND_BY_THEMSELVES, ids=[name for _, name in FOUND_BY_THEMSELVES])
def test_a_file_that_a_library_would_find_by_itself_is_refused(
    folder: Path, edit: Callable[[Path], None], name: str
) -> None:
    edit(folder)
    message = refusal(folder)
    assert message.startswith(str(folder / name))
    assert message.endswith(": would be read, although it is none of the files of the digest; remove it.")


@pytest.mark.parametrize(
    ("variant", "unread"), [("", "model.safetensors.index.json"), (".fp16", "model.safetensors.index.fp16.json")]
)
def test_whatever_libraries_look_for_is_in_the_digest_or_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variant: str, unread: str
) -> None:
    for path in list(folder.glob("*/*.safetensors")):
        path.rename(path.with_suffix(f"{variant}.safetensors"))
    sought = set[Path]()

    def stat(path: Any, *args: Any, original: Any = os.stat, **options: Any) -> os.stat_result:
        sought.add(Path(os.fsdecode(path)) if isinstance(path, str | bytes | Path) else folder)
        return original(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", stat)
        for load in (load_text_encoder, load_denoiser, load_vae):
            load(folder, "sd", torch.device("cpu"))
    missing = {path for path in sought if path.is_relative_to(folder) and not path.exists()}
    assert folder / "tokenizer/added_tokens.json" in missing, "it sees what libraries look for"
    assert {path for path in missing if is_passed_over(folder, path)} == {folder / "text_encoder" / unread}


def is_passed_over(folder: Path, path: Path) -> bool:
    """Whether a new file is neither refused nor one of those that are read, and so hashed."""
    path.touch()
    try:
        return path not in set(checked_files(folder, "sd"))
    except UnusableCheckpoint:
        return False
    finally:
        path.unlink()


@pytest.mark.parametrize(("edit", "name"), NO_FILES, ids=[name for _, name in NO_FILES])
def test_what_has_no_end_or_is_no_file_is_refused_unread(folder: Path, edit: Callable[[Path], None], name: str) -> None:
    edit(folder)
    assert refusal(folder).startswith(f"{folder / name}: cannot be read")


@pytest.mark.parametrize("edit", [linked("SHA256SUMS", "/dev/zero"), sparse("SHA256SUMS")])
def test_sums_that_have_no_end_are_refused_unread(folder: Path, edit: Callable[[Path], None]) -> None:
    edit(folder)
    with pytest.raises(UnusableCheckpoint, match=f"^{folder / 'SHA256SUMS'}: cannot be read: "):
        read_card(str(folder))


@pytest.mark.parametrize("part", ["text_encoder_2/config.json", "tokenizer_2/tokenizer_config.json"])
def test_the_second_text_encoder_is_looked_at_as_the_first(tiny_sdxl: Path, tmp_path: Path, part: str) -> None:
    folder = Path(shutil.copytree(tiny_sdxl, tmp_path / "xl"))
    changed(part, of_mine={"auto_map": "owner/code"})(folder)
    assert refusal(folder).startswith(f"{folder / part}: of_mine.auto_map asks for code")


def test_an_entry_with_a_long_name_is_refused_at_once_in_one_line(folder: Path) -> None:
    changed(UNET, **{"\ud800\n layers" + "x" * 400_000: {str(k): 1 for k in range(20_000)}})(folder)
    message = refusal(folder)
    assert message.isprintable()
    assert len(message) < len(str(folder)) + 400


# -- what real checkpoints say


@pytest.mark.parametrize(
    "edit",
    [
        changed(UNET, decay=0.9999, min_decay=0.0, optimization_step=3_000_000, update_after_step=0, power=0.6667),
        changed(TEXT, id2label={"0": "LABEL_0"}, label2id={"LABEL_0": 0}, pruned_heads={}, bad_words_ids=None),
        changed(TEXT, _attn_implementation_autoset=True, torch_dtype="float16", text_config_dict=None),
        changed(TOKENIZER, special_tokens_map_file="./special_tokens_map.json", vocab_file=None, init_inputs=[]),
        changed(TOKENIZER, bos_token={"__type": "AddedToken", "content": "<|startoftext|>"}, extra_special_tokens={}),
        changed(TOKENIZER, added_tokens_decoder={"49407": {"content": "<|endoftext|>", "special": True}}),
        new(SPECIALS, {"bos_token": {"content": "<|startoftext|>", "lstrip": False}, "pad_token": "<|endoftext|>"}),
        changed(SCHEDULER, lambda_min_clipped=-inf, sigma_max=1348.0, of_mine={"a": [1]}),
        rules(padding={"strategy": {"Fixed": 77}, "pad_id": 49407}, truncation={"max_length": 77}),
    ],
)
def test_what_real_configs_say_is_no_reason_to_refuse(folder: Path, edit: Callable[[Path], None]) -> None:
    edit(folder)
    check(str(folder))


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl", "lcm"])
def test_no_model_is_taken_for_larger_than_it_is(kind: str, tmp_path: Path) -> None:
    text = CLIPTextConfig(hidden_size=WIDTH, num_hidden_layers=TEXT_LAYERS[kind], num_attention_heads=4)
    vae: dict[str, Any] = {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 2, **VAES[kind]}
    vae |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        models = [
            CLIPTextModel(text),
            UNet2DConditionModel(layers_per_block=2, **UNETS[kind]),
            AutoencoderKL(**vae),
        ]
    for model in models:
        config = json.loads(model.config.to_json_string() if model is models[0] else model.to_json_string())
        component = component_of(model)
        check_model(tmp_path, config, component.package, component.least_size, size_of(model))


def component_of(model: Any) -> Component:
    """The component that a model is loaded as."""
    components = (each for family in FAMILIES.values() for each in family.components.values())
    return next(each for each in components if type(model).__name__ in each.classes)


def test_weights_are_measured_by_the_tensors_that_have_elements(tmp_path: Path) -> None:
    weights("w", {"a": (2, 3), "b": (0, 2**40), "c": ()})(tmp_path)
    assert measure(tmp_path / "w") == Size(2, 7)


def test_every_model_that_is_loaded_has_a_least_size(tmp_path: Path) -> None:
    for components in (family.components for family in FAMILIES.values()):
        for component in filter(lambda component: component.weights, components.values()):
            with pytest.raises(UnusableCheckpoint, match="elements or more; its weights have 0 of 0"):
                check_model(tmp_path, {}, component.package, component.least_size, Size(0, 0))


def test_a_config_that_leaves_sizes_out_is_taken_for_the_librarys_default(tmp_path: Path) -> None:
    with torch.device("meta"):
        models = [CLIPTextModel(CLIPTextConfig()), UNet2DConditionModel(), AutoencoderKL()]
    for model in models:
        component = component_of(model)
        check_model(tmp_path, {}, component.package, component.least_size, size_of(model))


def test_weights_of_less_than_sixteen_bits_do_not_make_a_model_larger(folder: Path) -> None:
    """A file of bytes that says it has a text encoder's elements would take four times its size once it is loaded."""
    weights("text_encoder/model.safetensors", {"a": (4096, 64)}, dtype="U8")(folder)
    assert measure(folder / "text_encoder/model.safetensors") == (0, 0)
    weights("text_encoder/model.safetensors", {"a": (4096, 64)})(folder)
    assert measure(folder / "text_encoder/model.safetensors") == (1, 4096 * 64)
