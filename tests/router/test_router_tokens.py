"""Prompts as tokens: what the template and the tokenizer say, at the cost of what is new."""

import json

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tidefleet.router.bodies import read
from tidefleet.router.tokens import CannotRender, NoTokenizer, PromptTokens

MARKS = ["<|begin|>", "<|start|>", "<|end|>"]
TEMPLATE = (
    "<|begin|>{% for m in messages %}<|start|>{{ m['role'] }}\n\n{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n\n{% endif %}"
)
TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 12345!",
    "def f(x):\n    return x ** 2\n",
    "äöü 中文 🙂 words",
]


def byte_level():
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS * 20, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    made.add_special_tokens([AddedToken(one, special=True) for one in MARKS])
    return made


def sentence_pieces():
    """One whose parts are not independent: the first word of a text gets a space that no later part gets."""
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.train_from_iterator(TEXTS * 20, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"]))
    made.add_special_tokens([AddedToken(one, special=True, normalized=False, rstrip=True) for one in MARKS])
    return made


def files(directory, tokenizer, template=TEMPLATE, **config):
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, **config}))
    return directory


def chat(*contents, **more):
    turns = [{"role": "user" if i % 2 == 0 else "assistant", "content": c} for i, c in enumerate(contents)]
    return read("/v1/chat/completions", json.dumps({"model": "m", "messages": turns, **more}).encode())


def whole(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.fixture
def prompts(tmp_path, tokenizer):
    return PromptTokens(files(tmp_path / "m", tokenizer))


def test_a_chat_is_rendered_by_the_models_template_and_encoded_as_a_whole_would_be(prompts, tokenizer):
    assert prompts.by_parts
    text = "<|begin|><|start|>user\n\nhello  there<|end|><|start|>assistant\n\n"
    assert prompts.encode(chat(" hello  there ")).tolist() == whole(tokenizer, text)


def test_every_turn_of_a_session_encodes_as_a_fresh_text_does(prompts, tokenizer):
    said = []
    for index in range(12):
        said.append(TEXTS[index % 3] * (index + 1))
        body = chat(*said)
        assert prompts.encode(body).tolist() == whole(tokenizer, prompts.render(body.messages))


def test_a_turn_encodes_only_what_is_new(prompts, monkeypatch):
    first, later = chat(TEXTS[0] * 50), chat(TEXTS[0] * 50, "short", "more")
    prompts.encode(first)
    encoded = []
    plain = PromptTokens._encoded
    monkeypatch.setattr(PromptTokens, "_encoded", lambda self, text: encoded.append(text) or plain(self, text))
    prompts.encode(later)
    assert sum(map(len, encoded)) < 80


def test_the_cache_stays_within_its_bytes_and_answers_stay_right(tmp_path, tokenizer):
    small = PromptTokens(files(tmp_path / "m", tokenizer), cached_bytes=4000)
    for index in range(200):
        body = chat(f"{index} {TEXTS[index % 3]}")
        assert small.encode(body).tolist() == whole(tokenizer, small.render(body.messages))
    assert small._parts._held <= 4000


def test_a_tokenizer_whose_parts_hang_together_is_given_whole_texts(tmp_path):
    pieces = sentence_pieces()
    prompts = PromptTokens(files(tmp_path / "m", pieces))
    body = chat("hello there", "hi", "the lazy dog")
    assert prompts.encode(body).tolist() == whole(pieces, prompts.render(body.messages))


def test_a_plain_prompt_gets_what_the_tokenizer_puts_before_it(tmp_path):
    framed = byte_level()
    begin = framed.token_to_id("<|begin|>")
    framed.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", begin)])
    prompts = PromptTokens(files(tmp_path / "m", framed))
    body = read("/v1/completions", b'{"model": "m", "prompt": "the lazy dog"}')
    assert prompts.encode(body).tolist() == framed.encode("the lazy dog").ids
    assert prompts.encode(body)[0] == begin
    assert prompts.encode(chat("x"))[:2].tolist() == whole(framed, "<|begin|><|start|>")


def test_tokens_that_the_client_sent_are_taken_as_they_are(prompts):
    found = prompts.encode(read("/v1/completions", b'{"model": "m", "prompt": [5, 4294967295]}'))
    assert found.dtype == np.uint32
    assert found.tolist() == [5, 4294967295]


def test_tools_arguments_and_special_tokens_reach_the_template(tmp_path, tokenizer):
    template = (
        "{{ bos_token }}{{ tools | tojson if tools else '' }}"
        "{% for m in messages %}{% for c in m.tool_calls or [] %}"
        "{{ c.function.arguments.city }}{% endfor %}{% endfor %}"
    )
    prompts = PromptTokens(files(tmp_path / "m", tokenizer, template, bos_token={"content": "<|begin|>"}))
    call = {"type": "function", "function": {"name": "f", "arguments": '{"city": "Kiel"}'}}
    turns = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    raw = json.dumps({"model": "m", "messages": turns, "tools": [{"name": "f"}]}).encode()
    body = read("/v1/chat/completions", raw)
    assert prompts.render(body.messages, body.tools) == '<|begin|>[{"name": "f"}]Kiel'


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[0].content.nothing.more }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% for i in range(10**9) %}x{% endfor %}",
    ],
)
def test_a_template_that_refuses_or_reaches_too_far_is_told_and_harms_nothing(tmp_path, tokenizer, template):
    prompts = PromptTokens(files(tmp_path / "m", tokenizer, template))
    with pytest.raises(CannotRender):
        prompts.encode(chat("x"))


def test_images_and_missing_templates_are_told(tmp_path, tokenizer, prompts):
    picture = [{"type": "image_url", "image_url": {"url": "data:"}}]
    with pytest.raises(CannotRender, match="images"):
        prompts.encode(chat(picture))
    bare = PromptTokens(files(tmp_path / "bare", tokenizer, template=None))
    with pytest.raises(CannotRender, match="no chat template"):
        bare.encode(chat("x"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("tokenizer.json", "{", "expected a tokenizer.json"),
        ("tokenizer_config.json", "[]", "expected a JSON object"),
        ("tokenizer_config.json", "{", "expected a JSON object"),
        ("chat_template.jinja", "{% for %}", "cannot be read"),
        ("chat_template.jinja", "x" * 300_000, "at most 262144"),
    ],
)
def test_files_that_are_none_of_the_kind_are_told_by_name(tmp_path, tokenizer, name, text, words):
    directory = files(tmp_path / "m", tokenizer)
    (directory / name).write_text(text)
    with pytest.raises(NoTokenizer, match=words):
        PromptTokens(directory)


def test_text_with_lone_surrogates_is_encoded(prompts):
    assert prompts.encode(read("/v1/completions", b'{"model": "m", "prompt": "a\\ud800b"}')).size > 0
