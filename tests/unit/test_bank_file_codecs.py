"""The dialects of a bank's batch files, against a reader and a writer that share no code with them; and what damage may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.gateways.bank_files import csv14, pipe, sh589
from pipeline.gateways.bank_files.judge import Judged, judge_batch, judge_people
from pipeline.gateways.bank_files.returned import FileRefused, ReturnFile
from pipeline.gateways.bank_simulated import luhn_digit
from pipeline.identifiers import luhn_holds
from pipeline.person import Agent
from pipeline.ports import Declined, Done, Filed, OpenAccount
from producers.simulators.bank_files import Asked, card_file, read_batch, result_file
from tests.support.bank_people import filed, opening

BATCH = "00000007"
GBK = [c for c in map(chr, range(0x80, 0x10000)) if c.isprintable() and len(c.encode("gbk", "ignore")) == 2]
TREACHEROUS = [c for c in GBK if c.encode("gbk")[1] in (0x7C, 0x5C)]  # second byte `|` or `\`
LETTERS = st.sampled_from([*GBK[::131], *TREACHEROUS[::9], *"ABCxyz·019-"])


def texts(most_bytes: int) -> st.SearchStrategy[str]:
    """Text that GBK can hold, also exactly as long as its field."""
    return st.text(LETTERS, min_size=1, max_size=most_bytes // 2 + 2).map(
        lambda text: text.encode("gbk")[:most_bytes].decode("gbk", "ignore")
    )


@st.composite
def openings(draw: st.DrawFn, most: int = 3) -> list[OpenAccount]:
    made = []
    for number in range(draw(st.integers(1, most))):
        guardian = draw(
            st.none() | st.builds(Agent, name=texts(60), id_type=st.just("passport"), id_number=st.just("E12345678"))
        )
        made.append(opening(number, name=draw(texts(30)), address=draw(texts(60)), guardian=guardian))
    return made


def sent(instructions: Sequence[OpenAccount]) -> list[Filed]:
    return [filed(instruction, n) for n, instruction in enumerate(instructions, start=1)]


def card(number: int) -> str:
    payload = f"621700{number:012d}"
    return payload + luhn_digit(payload)


def answers(ours: Sequence[Filed]) -> dict[str, Done | Declined]:
    """Every third is refused."""
    return {
        row.key: Declined(code="name_mismatch", text="姓名与证件号不符")
        if n % 3 == 2
        else Done(account_ref=card(n), card_number=card(n))
        for n, row in enumerate(ours)
    }


def asked(ours: Sequence[Filed]) -> list[Asked]:
    return read_batch(sh589.encode_batch(ours))


def read_result(data: bytes, *, cards: bool = True) -> ReturnFile:
    return sh589.decode_return(
        data, batch=BATCH, passed_code="0", failed_code="1", card_number_in_reserved=cards, card_digits=19
    )


# ------------------------------------------------------------------------------------------------------- to the bank


@settings(max_examples=40)
@given(openings())
def test_what_is_written_is_what_the_bank_reads_in_records_of_589_bytes(instructions: list[OpenAccount]) -> None:
    data = sh589.encode_batch(sent(instructions))
    header, *lines, end = data.split(b"\r\n")
    assert header == b"SH%08d00000589FFFFFFFFFF" % len(instructions) and end == b""
    assert [len(line) for line in lines] == [589] * len(instructions)
    for n, (row, instruction) in enumerate(zip(read_batch(data), instructions, strict=True), start=1):
        holder = instruction.holder
        assert (row.row_no, row.key, row.branch) == (str(n), instruction.key, instruction.branch)
        assert (row.holder.name, row.holder.id_number, row.holder.address, row.holder.phone) == (
            holder.name, holder.id_number, holder.address, holder.phone,
        )  # fmt: skip
        assert (row.holder.sex, row.holder.ethnic, row.holder.birth_date, row.holder.nationality) == (
            holder.sex, holder.ethnic, holder.birth_date, holder.nationality,
        )  # fmt: skip
        assert (row.guardian and row.guardian.name) == (instruction.guardian and instruction.guardian.name)


def test_every_field_stands_at_its_offset() -> None:
    told = {
        "name": "甲" * 15, "sex": "1", "id_type": "01", "id_number": "9" * 18, "ethnic": "01", "nationality": "CHN",
        "birth_place": "420102", "birth_date": "19900101", "mobile": "13800000000", "phone": "027-12345678",
        "address": "路" * 30, "unit_code": "U1", "unit_name": "单位", "township": "街道", "village": "社区",
        "guardian_name": "监护", "guardian_sex": "2", "guardian_id_type": "03", "guardian_id_number": "E1", "outlet": "42010601",
        "outlet_name": "网点",
    }  # fmt: skip
    line = sh589.encode_batch([filed(opening(1), 1, told=told)]).split(b"\r\n")[1]
    offsets = {
        "name": (44, 30), "sex": (74, 1), "id_type": (75, 2), "id_number": (77, 18), "ethnic": (95, 2), "nationality": (97, 3),
        "birth_place": (100, 6), "birth_date": (106, 8), "mobile": (114, 11), "phone": (125, 15), "address": (140, 60),
        "unit_code": (200, 20), "unit_name": (220, 80), "township": (300, 50), "village": (350, 50), "guardian_name": (400, 60),
        "guardian_sex": (460, 1), "guardian_id_type": (461, 2), "guardian_id_number": (463, 18), "outlet": (481, 8),
        "outlet_name": (489, 50),
    }  # fmt: skip
    assert {n: line[at : at + length].decode("gbk").rstrip(" ") for n, (at, length) in offsets.items()} == told
    assert line[:12] == b"1           " and line[539:] == b"F" * 50


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"name": "𠮷田"}, "rare_character"),
        ({"name": "䶮"}, "rare_character"),
        ({"address": "a\r\nb"}, "rare_character"),
        ({"name": "甲" * 16}, "field_too_long"),
        ({"name": "A" + "甲" * 15}, "field_too_long"),
        ({"phone": "+85212345678"}, "field_too_long"),
        ({"ethnic": "001"}, "not_supported"),
    ],
)
def test_what_the_dialect_cannot_hold_is_refused_and_never_cut(changed: dict[str, str], code: str) -> None:
    instruction = opening(1, **changed)
    refused = sh589.unwritable(instruction.key, sh589.told(instruction, {}))
    assert refused is not None and refused.code == code
    assert not any(value in refused.text for value in changed.values())


def test_a_banks_own_table_of_documents_goes_before_the_usual_one() -> None:
    passport, book = opening(1, id_type="passport"), opening(2, id_type="household_book")
    assert [sh589.told(i, {"passport": "07"})["id_type"] for i in (passport, book)] == ["07", "10"]


# ------------------------------------------------------------------------------------------------------ from the bank


@settings(max_examples=40)
@given(openings(), st.booleans(), st.booleans())
def test_a_result_file_is_read_as_the_bank_meant_it(instructions: list[OpenAccount], cards: bool, crlf: bool) -> None:
    ours = sent(instructions)
    data = result_file(asked(ours), answers(ours), with_cards=cards)
    assert {len(line) for line in data.splitlines()[1:]} == {316}
    judged = judge_batch(read_result(data.replace(b"\n", b"\r\n") if crlf else data, cards=cards), ours)
    meant = answers(ours)
    assert judged == Judged(
        answers={k: r if cards or isinstance(r, Declined) else None for k, r in meant.items()}, problem=None
    )


def pipe_file(ours: Sequence[Filed]) -> bytes:
    lines = []
    for row, reply in zip(ours, answers(ours).values(), strict=True):
        reason = reply.text if isinstance(reply, Declined) else ""
        told = row.told
        lines.append(
            f"{BATCH}|T1|{row.row_no}|{row.key}|{told['name']}|{told['sex']}|01|{told['id_number']}|{int(bool(reason))}|{reason}|\n"
        )
    return "".join(lines).encode("gbk")


@settings(max_examples=40)
@given(openings())
def test_a_bar_within_a_character_parts_no_field(instructions: list[OpenAccount]) -> None:
    ours = sent([replace(i, holder=replace(i.holder, name=i.holder.name[:5] + TREACHEROUS[0])) for i in instructions])
    judged = judge_batch(pipe.decode_return(pipe_file(ours)), ours)
    meant = {k: r if isinstance(r, Declined) else None for k, r in answers(ours).items()}
    assert judged == Judged(answers=meant)


def numbers(ours: Sequence[Filed]) -> dict[str, Sequence[Filed]]:
    return {row.told["id_number"]: [row] for row in ours}


@settings(max_examples=40)
@given(openings(), st.sampled_from(["gbk", "gb18030", "utf-8", "utf-8-sig"]))
def test_cards_are_read_in_every_encoding_that_banks_use(instructions: list[OpenAccount], encoding: str) -> None:
    ours = sent(instructions)
    meant = {k: r for k, r in answers(ours).items() if isinstance(r, Done)}
    data = card_file(asked(ours), answers(ours), encoding=encoding)
    assert judge_people(csv14.decode_return(data, card_digits=19), numbers(ours)) == Judged(answers=meant)


def csv_line(**values: str) -> bytes:
    row = {"序号": "1", "社会保障号码": "N", "姓名": "甲", "银行卡号": card(1), "个人帐户": "A1", **values}
    return (",".join(csv14.COLUMNS) + "\n" + ",".join(row.get(name, "") for name in csv14.COLUMNS) + "\n").encode("gbk")


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ({"失败环节": "银行", "失败原因": "黑名单", "银行卡号": ""}, Declined(code="listed", text="黑名单")),
        ({"失败环节": "银行", "失败原因": "请至网点", "银行卡号": ""}, Declined(code="other", text="请至网点")),
        ({"失败环节": "制卡", "失败原因": "废卡"}, Done(account_ref="A1", card_number=card(1))),
        ({"失败环节": "制卡", "银行卡号": "", "个人帐户": ""}, None),
    ],
)
def test_who_failed_tells_what_the_bank_did(values: dict[str, str], answer: Done | Declined | None) -> None:
    [row] = csv14.decode_return(csv_line(**values), card_digits=19).rows
    assert row.answer == answer


# -------------------------------------------------------------------------------------------------------------- damage


def damaged(data: bytes, at: int, byte: int | None) -> bytes:
    at %= len(data)
    return data[:at] if byte is None else data[:at] + bytes([byte]) + data[at + 1 :]


DAMAGE = st.tuples(st.integers(0, 10**6), st.none() | st.integers(0, 255))


def harmless(judged: Judged, ours: Sequence[Filed]) -> bool:
    """Nobody gets another's card, or one that nobody was given. (A refusal's words are no use to check.)"""
    meant = answers(ours)
    for key, answer in judged.answers.items():
        given_card = meant[key]
        if isinstance(answer, Done) and not (
            isinstance(given_card, Done) and answer.card_number == given_card.card_number
        ):
            return False
    return True


@settings(max_examples=250)
@given(DAMAGE)
def test_one_damaged_byte_in_a_result_file_never_gives_a_wrong_card(damage: tuple[int, int | None]) -> None:
    ours = sent([opening(n) for n in range(4)])
    data = result_file(asked(ours), answers(ours), with_cards=True)
    broken = damaged(data, *damage)
    assume(broken != data)
    try:
        judged = judge_batch(read_result(broken), ours)
    except FileRefused:
        return
    assert harmless(judged, ours)
    if damage[1] is None:  # only the last line end may be missing
        assert len(broken) == len(data) - 1


@settings(max_examples=250)
@given(DAMAGE)
def test_one_damaged_byte_in_the_other_dialects_never_gives_a_wrong_card(damage: tuple[int, int | None]) -> None:
    ours = sent([opening(n) for n in range(4)])
    broken = damaged(pipe_file(ours), *damage)
    try:
        assert harmless(judge_batch(pipe.decode_return(broken), ours), ours)
        if damage[1] is None:
            assert len(broken) == len(pipe_file(ours)) - 1
    except FileRefused:
        pass
    try:
        returned = csv14.decode_return(damaged(card_file(asked(ours), answers(ours)), *damage), card_digits=19)
        assert harmless(judge_people(returned, numbers(ours)), ours)
    except FileRefused:
        pass


@given(st.binary(max_size=400))
def test_bytes_that_are_no_file_are_refused_and_never_break_anything(data: bytes) -> None:
    for read in (read_result, pipe.decode_return, lambda data: csv14.decode_return(data, card_digits=19)):
        for start in (b"", b"RH00000001\n", (",".join(csv14.COLUMNS) + "\n").encode("gbk")):
            with pytest.raises(FileRefused) as told:
                read(start + data)
            assert told.value.zh and told.value.en and told.value.reason_code == "bank_file.unreadable"


def test_a_code_for_passed_that_is_configured_the_wrong_way_round_is_noticed() -> None:
    ours = sent([opening(n) for n in range(3)])
    data = result_file(asked(ours), answers(ours), with_cards=False)
    with pytest.raises(FileRefused, match="第 1 行"):
        sh589.decode_return(
            data, batch=BATCH, passed_code="1", failed_code="0", card_number_in_reserved=False, card_digits=19
        )


@given(st.integers(0, 10**18 - 1), st.integers(0, 18), st.integers(0, 9))
def test_one_wrong_digit_is_always_found_by_the_check_digit(number: int, at: int, digit: int) -> None:
    payload = f"{number:018d}"
    good = payload + luhn_digit(payload)
    changed = good[:at] + str(digit) + good[at + 1 :]
    assert luhn_holds(good) and luhn_holds(changed) == (changed == good)


# ------------------------------------------------------------------------------------------------------------- judging


def returned(ours: Sequence[Filed], **replies: Done | Declined | None) -> ReturnFile:
    data = result_file(asked(ours), answers(ours), with_cards=True)
    return read_result(data)


def test_a_file_with_a_row_missing_doubled_or_under_another_id_is_refused_whole() -> None:
    ours = sent([opening(n) for n in range(4)])
    whole = returned(ours)
    first, second, *rest = whole.rows
    for rows, code in (
        ((first, *rest), "rows_missing"),
        ((*whole.rows, first), "count"),
        ((first, first, *rest), "rows_missing"),
        ((replace(first, key=second.key), second, *rest), "unknown_id"),
        ((replace(first, row_no=2), replace(second, row_no=1), *rest), "unknown_id"),
    ):
        with pytest.raises(FileRefused) as told:
            judge_batch(replace(whole, rows=rows), ours)
        assert told.value.reason_code == f"bank_file.{code}"
    with pytest.raises(FileRefused, match="no such batch"):
        judge_batch(whole, [])


def test_a_row_of_another_person_is_left_out_alone_and_named_by_its_number() -> None:
    ours = sent([opening(n) for n in range(4)])
    whole = returned(ours)
    first, second, *rest = whole.rows
    rows = (replace(first, name="别人"), replace(second, id_number="999001199001019999"), *rest)
    judged = judge_batch(replace(whole, rows=rows), ours)
    assert set(judged.answers) == {row.key for row in ours[2:]}
    assert judged.problem is not None and "1, 2" in judged.problem and "别人" not in judged.problem


def test_an_earlier_answer_may_be_told_again_but_not_otherwise() -> None:
    ours = sent([opening(n) for n in range(3)])
    meant = answers(ours)
    answered = [replace(row, state="answered", reply=meant[row.key]) for row in ours]
    assert judge_batch(returned(ours), answered) == Judged(answers={})
    listed = Declined(code="listed", text="黑名单")
    for at in (0, 2):
        otherwise = list(answered)
        otherwise[at] = replace(answered[at], reply=listed if at == 0 else Done(account_ref="x", card_number=card(9)))
        with pytest.raises(FileRefused, match="earlier answer"):
            judge_batch(returned(ours), otherwise)


def test_a_person_asked_for_twice_is_meant_by_the_open_row() -> None:
    old, new = (
        filed(opening(1), 1, state="answered", reply=Declined(code="listed", text="黑名单")),
        filed(opening(1), 1),
    )
    new = replace(new, key="oa-second-2", state="accepted")
    rows = csv14.decode_return(csv_line(姓名=new.told["name"], 社会保障号码=new.told["id_number"]), card_digits=19)
    assert set(judge_people(rows, {new.told["id_number"]: [old, new]}).answers) == {new.key}
    with pytest.raises(FileRefused, match="never sent"):
        judge_people(rows, {})
    with pytest.raises(FileRefused, match="twice"):
        judge_people(replace(rows, rows=(*rows.rows, replace(rows.rows[0], row_no=2))), {new.told["id_number"]: [new]})
