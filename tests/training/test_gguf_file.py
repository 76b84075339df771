"""The saved student as GGUF: read back by the gguf library, and by transformers, which undoes what was permuted."""

import json
import shutil

import pytest
import torch
from commands import tenner_here
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

from tenner.core.errors import TennerError
from tenner.training import gguf_file, modelfile


@pytest.mark.slow
def test_transformers_reads_the_same_logits_back(lively_model_dir, tmp_path):
    gguf_file.write(lively_model_dir, tmp_path / "tiny.gguf", name="tiny")
    ids = torch.tensor([[1, 40, 41, 42, 60, 2]])
    models = (
        AutoModelForCausalLM.from_pretrained(lively_model_dir, dtype=torch.float32),
        AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32),
    )
    with torch.no_grad():
        ours, theirs = (model(ids).logits for model in models)
    assert (ours - theirs).abs().max() < 0.02 * ours.abs().max()  # float16 on the way


def test_biases_of_queries_and_keys_lie_as_their_weights(tiny_model_dir, tmp_path):
    """Each row of such a weight holds its number, and so does the bias."""
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, attention_bias=True)
    with torch.no_grad():
        for projection in (getattr(model.model.layers[0].self_attn, name) for name in ("q_proj", "k_proj", "v_proj")):
            numbers = torch.arange(len(projection.bias), dtype=torch.float32)
            projection.bias.copy_(numbers)
            projection.weight.copy_(numbers[:, None].expand_as(projection.weight))
    model.save_pretrained(tmp_path / "model")
    gguf_file.write(tmp_path / "model", tmp_path / "x.gguf", name="x")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "x.gguf").tensors}
    for name in ("q", "k", "v"):
        assert tensors[f"blk.0.attn_{name}.bias"].tolist() == tensors[f"blk.0.attn_{name}.weight"][:, 0].tolist()


def test_a_family_positions_or_a_tokenizer_that_llama_cpp_reads_otherwise_is_refused(tiny_model_dir, tmp_path):
    for number, (change, message) in enumerate([
        ({"architectures": ["MambaForCausalLM"]}, "a MambaForCausalLM cannot be written"),
        ({"rope_scaling": {"type": "yarn"}}, "scaled rotary positions"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layers of a LlamaForCausalLM that see a window"),
        ({"hidden_act": "gelu"}, "a LlamaForCausalLM with the gate gelu"),
        (None, "llama.cpp would split texts otherwise"),
        ({"architectures": 7}, "cannot be read"), ({"rms_norm_eps": None}, "cannot be written as GGUF"),
        ({"vocab_size": "many"}, "cannot be written as GGUF"),
        ({"num_attention_heads": 0}, "cannot be written as GGUF"),
    ]):  # fmt: skip
        folder = tmp_path / str(number)
        shutil.copytree(tiny_model_dir, folder)
        file = "config.json" if change else "tokenizer.json"
        held = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(held | (change or {"pre_tokenizer": {"type": "Whitespace"}})))
        with pytest.raises(TennerError, match=message):
            gguf_file.write(folder, tmp_path / "x.gguf", name="x")
        assert not (tmp_path / "x.gguf").exists()


def test_a_modelfile_asks_one_question_and_opens_the_thinking():
    prompt = f"<|im_start|>user\n{modelfile.QUESTION}<|im_end|>\n<|im_start|>assistant\n<|im_start|>think\n"
    text = modelfile.modelfile("demo.gguf", prompt, ["<|im_end|>"])
    assert text == (
        'FROM ./demo.gguf\nTEMPLATE """<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n'
        '<|im_start|>think\n{{ .Response }}"""\nPARAMETER stop "<|im_end|>"\nPARAMETER temperature 0\n'
    )
    for wrong in ("no question", modelfile.QUESTION * 2, f"{{{{ x }}}} {modelfile.QUESTION}"):
        with pytest.raises(TennerError):
            modelfile.modelfile("demo.gguf", wrong, [])


def test_tags_have_no_effect_on_a_gguf_file(tmp_path):
    done = tenner_here("export", tmp_path, "--format", "gguf", "--think-tags", "<think>", "--out", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--think-tags has no effect with --format gguf" in done.stderr
