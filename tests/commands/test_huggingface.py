"""Folders of Hugging Face models: the architecture from config.json, nothing downloaded, no foreign code."""

import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

GPT2 = {
    "n_embd": 24,
    "n_layer": 1,
    "n_head": 3,
    "n_positions": 16,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VIT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 32}


def saved(folder, kind):
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        if kind == "gpt2":
            model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2))
        else:
            model = transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, patch_size=8))
        model.save_pretrained(folder / f"{kind}{seed}")
        made.append(folder / f"{kind}{seed}")
    return made


@pytest.mark.parametrize("kind", ["gpt2", "vit"])
def test_a_folder_tells_its_architecture(rebasin, tmp_path, kind):
    a, b = saved(tmp_path, kind)
    out = tmp_path / "out.safetensors"
    done = rebasin("align", a, b, "-o", out, "--json")
    assert done.code == 0, done.err
    assert done.json["difference"] < 1e-5
    assert done.json["after"] < done.json["before"]
    before, after = safetensors.load_file(b / "model.safetensors"), safetensors.load_file(out)
    assert list(after) == list(before)
    assert any(not torch.equal(x, after[name]) for name, x in before.items())
    # The library itself reads the file, and computes the same.
    (tmp_path / "aligned").mkdir()
    out.rename(tmp_path / "aligned" / "model.safetensors")
    (tmp_path / "aligned" / "config.json").write_text((b / "config.json").read_text())
    kinds = {"gpt2": transformers.GPT2LMHeadModel, "vit": transformers.ViTForImageClassification}
    old, new = (kinds[kind].from_pretrained(folder).eval() for folder in (b, tmp_path / "aligned"))
    x = torch.tensor([[3, 1, 4, 1, 5]]) if kind == "gpt2" else torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(new(x).logits, old(x).logits, rtol=1e-4, atol=1e-5)


def test_a_tied_head_stays_out_of_the_file(rebasin, tmp_path):
    a, b = saved(tmp_path, "gpt2")
    done = rebasin("inspect", a, "--json")
    assert done.code == 0
    names = [tensor["name"] for tensor in done.json["tensors"]]
    assert "lm_head.weight" not in names
    assert "transformer.wte.weight" not in done.json["graph"]["buffers"]
    out = tmp_path / "out.safetensors"
    assert rebasin("merge", a, b, "-o", out).code == 0
    assert set(safetensors.load_file(out)) == set(names)


def test_a_file_in_the_folder_and_a_folder_by_option_do_too(rebasin, tmp_path):
    a, b = saved(tmp_path, "gpt2")
    copy = tmp_path / "b.safetensors"
    copy.write_bytes((b / "model.safetensors").read_bytes())
    assert rebasin("verify", a / "model.safetensors").code == 0
    assert rebasin("verify", copy, copy, "--model", a).code == 0
    assert rebasin("verify", copy, copy).code == 1


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["NoSuchModel"]},
        {"architectures": ["AutoModel"]},
        {"model_type": "no_such_type"},
        {"model_type": "mine", "auto_map": {"AutoConfig": "code.Mine", "AutoModel": "code.MyModel"}},
    ],
)
def test_a_class_the_library_lacks_is_refused_and_code_of_the_folder_is_not_run(rebasin, tmp_path, change):
    a, b = saved(tmp_path, "gpt2")
    trap = tmp_path / "run"
    (a / "code.py").write_text(f"import pathlib\npathlib.Path({str(trap)!r}).touch()\n")
    config = json.loads((a / "config.json").read_text())
    (a / "config.json").write_text(json.dumps({**config, **change}))
    done = rebasin("align", a, b, "-o", tmp_path / "out.safetensors")
    assert done.code == 1
    assert "config.json" in done.err
    assert not trap.exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_two_architectures_are_told_apart(rebasin, tmp_path):
    a, b = saved(tmp_path, "gpt2")[0], saved(tmp_path, "vit")[0]
    done = rebasin("merge", a, b, "-o", tmp_path / "out.safetensors")
    assert done.code == 1
    assert "vit0" in done.err
