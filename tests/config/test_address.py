"""The grammar of addresses."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdcore.address import GRAMMAR, NAME, Address, What
from kdcore.errors import AddressError

PROPERTY = settings(derandomize=True, deadline=None, database=None, max_examples=300)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("student", Address("student")),
        ("student#hidden", Address("student", keys=("hidden",))),
        ("student@raw#aux", Address("student", what=What.RAW, keys=("aux",))),
        ("student:layer4", Address("student", "layer4")),
        ("student:layer4#0", Address("student", "layer4", keys=(0,))),
        ("student:layer4#0#-1#k", Address("student", "layer4", keys=(0, -1, "k"))),
        ("student:fc@input", Address("student", "fc", What.INPUT)),
        ("student:fc@input#mask", Address("student", "fc", What.INPUT, keys=("mask",))),
        ("student:layer3.1.relu@1", Address("student", "layer3.1.relu", call=1)),
        ("student:layer3.1.relu@-1", Address("student", "layer3.1.relu", call=-1)),
        ("student:relu@input@0", Address("student", "relu", What.INPUT, 0)),
        ("student:lm_head@module", Address("student", "lm_head", What.MODULE)),
        ("student@module", Address("student", what=What.MODULE)),
        ("batch:target", Address("batch", "target")),
        ("batch:images#left", Address("batch", "images", keys=("left",))),
        ("paraphraser:encoder", Address("paraphraser", "encoder")),
        ("my-net_2", Address("my-net_2")),
        # Only the shortest spelling of a number is an index.
        ("student#01", Address("student", keys=("01",))),
        ("student#-0", Address("student", keys=("-0",))),
        ("student#last hidden", Address("student", keys=("last hidden",))),
    ],
)
def test_parse(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


def test_long_spellings_come_back_short() -> None:
    assert str(Address.parse("student:relu@00")) == "student:relu@0"
    assert str(Address.parse("student:relu@-0")) == "student:relu@0"


def test_module_and_batch() -> None:
    assert str(Address.parse("student:relu@input@1#0#k").module) == "student:relu@input@1"
    assert Address.parse("batch:target").is_batch
    assert not Address.parse("batches:target").is_batch


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it must start with the name of a model, an adapter or 'batch'"),
        ("7x", "it must start with the name"),
        (":layer4", "it must start with the name"),
        (" student", "it must start with the name"),
        ("student layer4", "' layer4' is out of place"),
        ("student.layer4", "'.layer4' is out of place"),
        ("student:", "nothing stands after ':'"),
        ("student:@input", "nothing stands after ':'"),
        ("student:a..b", "a path is names joined by single dots"),
        ("student:.a", "a path is names joined by single dots"),
        ("student:a:b", "':' cannot stand in a path"),
        ("student:a b", "' ' cannot stand in a path"),
        ("student:layer*", r"'\*' cannot stand in a path"),
        ("student:{a,b}", r"',' '\{' '\}' cannot stand in a path"),
        ("student:a\n", r"'\\n' cannot stand in a path"),
        ("student#", "'' is not a key"),
        ("student#a#", "'' is not a key"),
        ("student# a", "' a' is not a key"),
        ("student#a@input", "'a@input' is not a key; keys come last"),
        ("student:fc@inputs", "'@inputs' is not @input, @module, @raw or a call number"),
        ("student:fc@", "'@' is not @input"),
        ("student:fc@1@input", "'@input' is not @input, @module"),
        ("student:fc@input@module", "'@module' is not"),
        ("student:fc@1@2", "'@2' is not"),
        ("student:fc@output", "'@output' is not"),
        ("student:fc@9999999999", "'@9999999999' is not"),
        ("batch", "'batch' needs the name of an entry"),
        ("batch#x", "'batch' needs the name of an entry"),
        ("batch:x@input", "an entry of the batch has no @ marks"),
        ("batch:x@0", "an entry of the batch has no @ marks"),
        ("student:fc@raw", "@raw is the output of a whole model"),
        ("student@raw@1", "@raw is the output of a whole model"),
        ("student:fc@module@1", "@module is the module itself"),
        ("student:fc@module#0", "@module is the module itself"),
    ],
)
def test_refuse(text: str, why: str) -> None:
    with pytest.raises(AddressError, match=why) as caught:
        Address.parse(text)
    assert repr(text) in str(caught.value)
    assert GRAMMAR in str(caught.value)


def test_address_that_is_not_text() -> None:
    with pytest.raises(AddressError, match="an address is text, not int"):
        Address.parse(5)  # type: ignore[arg-type]


NAMES = st.from_regex(NAME, fullmatch=True)
PATHS = st.lists(st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True), max_size=3).map(".".join)
TEXT_KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.: -]*[A-Za-z0-9_]", fullmatch=True)
KEYS = st.lists(st.one_of(st.integers(-99, 99), TEXT_KEYS), max_size=3).map(tuple)


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    name, path, keys = draw(NAMES), draw(PATHS), draw(KEYS)
    if name == "batch":
        assume(path)
        return Address(name, path, keys=keys)
    what = draw(st.sampled_from(What))
    call = draw(st.one_of(st.none(), st.integers(-99, 99)))
    if what is What.RAW:
        return Address(name, what=what, keys=keys)
    if what is What.MODULE:
        return Address(name, path, what)
    return Address(name, path, what, call, keys)


@PROPERTY
@given(addresses())
def test_every_address_reads_back(address: Address) -> None:
    assert Address.parse(str(address)) == address


PIECES = ("student", "batch", "a", ".", ":", "@", "#", "input", "module", "raw", "0", "-1", "00", " ", "*", "\n", "ä")


@PROPERTY
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=10).map("".join)))
def test_any_text_reads_back_or_names_the_grammar(text: str) -> None:
    try:
        address = Address.parse(text)
    except AddressError as error:
        message = str(error)
    else:
        message = f"{GRAMMAR}: {address}"
        assert Address.parse(str(address)) == address
    assert GRAMMAR in message
