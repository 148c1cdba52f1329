"""What a container's arguments say, however they are written."""

from hypothesis import given
from hypothesis import strategies as st

from tidefleet.cluster.arguments import arguments_of, containers_of, many_of, value_of, values_of


def test_command_and_arguments_are_read_in_order_with_numbers_as_texts() -> None:
    assert arguments_of({"command": ["vllm", "serve"], "args": ["--port", 8000, {"no": 1}]}) == [
        "vllm",
        "serve",
        "--port",
        "8000",
    ]
    assert arguments_of({"command": "vllm", "args": None}) == []
    assert containers_of({"containers": [{"name": "a"}, 5]}) == [{"name": "a"}]
    assert containers_of(None) == containers_of({"containers": "x"}) == []


def test_the_last_value_of_an_option_counts_under_any_of_its_names() -> None:
    said = ["-q", "awq", "--quantization=fp8", "--port=8000", "--quantization"]
    assert values_of(said, "--quantization", "-q") == ["awq", "fp8"]
    assert value_of(said, "--quantization", "-q") == "fp8"
    assert value_of(said, "--dtype") == ""


def test_an_option_of_many_values_ends_at_the_next_one() -> None:
    assert many_of(["--lora-modules", "a=/a", "b=/b", "--port", "1", "--lora-modules=c=/c"], "--lora-modules") == [
        "a=/a",
        "b=/b",
        "c=/c",
    ]


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_nonsense_says_nothing(nonsense: object) -> None:
    found = containers_of({"containers": nonsense})
    assert all(isinstance(text, str) for one in found for text in arguments_of({"args": one, "command": nonsense}))
